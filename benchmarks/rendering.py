"""Seconds per view of both renderers: `python -m benchmarks.rendering`.

Renders one procedural object (or --object FILE) by each, at several sizes, with depth and normals, and the agreement
of their images in flat light. Seconds are of the processor, all threads and processes together, which other work on
the machine disturbs less than those on the clock; each is the best of --rounds, in processes that are warm.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from data_prep.procedural import generate
from data_prep.rendering.blender import Blender
from data_prep.rendering.rasterizer import chosen, render_views
from instant3d.cameras import structured_cameras
from instant3d.mesh import load, normalized
from instant3d.views import Views

CAMERAS = structured_cameras()
LIGHTS = ("flat", "uniform", "area")


def used(pid: int) -> float:
    """CPU seconds that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(render: Callable[[], Views], rounds: int, clock: Callable[[], float]) -> tuple[float, Views]:
    """Seconds a view at best by `clock`, and the views."""
    best = math.inf
    for _ in range(rounds):
        start = clock()
        views = render()
        best = min(best, clock() - start)
    return best / len(CAMERAS.intrinsics), views


def rows(path: Path, options: argparse.Namespace) -> Iterator[str]:
    """One line a size: the fast renderer, Blender in each light, and how alike they are where the light is the same."""
    yield f"{options.samples} samples a pixel; seconds a view"
    yield (
        f"{'px':>5}{'fast, ' + chosen('auto'):>12}" + "".join(f"{light:>10}" for light in LIGHTS) + f"{'PSNR, dB':>10}"
    )
    with Blender() as blender:
        blender.render(path, CAMERAS, 16, samples=1)
        pid = blender.pid

        def clock() -> float:
            return time.process_time() + used(pid)

        for size in options.sizes:
            fast, ours = timed(
                lambda size=size: render_views(normalized(load(path)), CAMERAS, size), options.rounds, clock
            )
            found = {}
            for light in LIGHTS:
                how = {"lighting": light, "samples": options.samples}
                found[light] = timed(
                    lambda size=size, how=how: blender.render(path, CAMERAS, size, **how), options.rounds, clock
                )
            apart = (found["flat"][1].composite(1.0) - ours.composite(1.0)).square().mean().item()
            figures = "".join(f"{found[light][0]:10.3f}" for light in LIGHTS)
            yield f"{size:5}{fast:12.4f}{figures}{-10 * math.log10(max(apart, 1e-12)):10.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--object", type=Path, help="a .glb, .gltf, .obj or .ply (default: a procedural one)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512], help="pixels a side")
    parser.add_argument("--samples", type=int, default=16, help="Blender's paths a pixel (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software driver then draws in the calling thread
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = options.object or Path(folder, str(generate.write_object(7, Path(folder))["file"]))
            for row in rows(path, options):
                print(row, flush=True)
        except (ValueError, OSError) as error:
            print(f"nothing measured: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
