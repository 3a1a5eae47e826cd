"""Run xatlas on one mesh: a program of its own, so that its parent can end it, and survives if it crashes.

Argument: processor seconds that it may take, 0 for no limit. Standard input: vertices (V, 3) float32, faces (F, 3)
uint32 and settings (4,) float64 (atlas side in pixels, padding in pixels, largest chart area, most distortion), as
three arrays in numpy's format. Standard output: the vertex that each new one comes from (N,), faces (F, 3), texture
coordinates (N, 2) in [0, 1] and the number of charts (1,).
"""

import io
import sys

import numpy as np
import xatlas


def main() -> None:
    """Unwrap the mesh on standard input and write the result to standard output, as the module describes."""
    limit_processor_time(int(sys.argv[1]))
    source = io.BytesIO(sys.stdin.buffer.read())
    vertices, faces, (side, padding, area, cost) = (np.load(source) for _ in range(3))
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, faces)
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_chart_area, charts.max_cost = area, cost
    packing.resolution, packing.padding = int(side), int(padding)
    atlas.generate(charts, packing)
    if atlas.atlas_count != 1:
        sys.exit(f"xatlas made {atlas.atlas_count} atlases, not one")
    result = io.BytesIO()
    for array in (*atlas[0], np.array([atlas.chart_count])):
        np.save(result, array)
    sys.stdout.buffer.write(result.getvalue())


def limit_processor_time(seconds: int) -> None:
    """Limit the processor time of this process to `seconds`, where the system can; 0 for no limit."""
    if seconds and sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


if __name__ == "__main__":
    main()
