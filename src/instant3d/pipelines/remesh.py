"""Meshing of a saved asset by other options: the work of `instant3d mesh`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instant3d.mesh import FORMATS, SIZE_MM, check_size_mm
from instant3d.nerf.asset import Asset, check_formats
from instant3d.pipelines.results import mesh_summary
from instant3d.utils import atomic
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.utils.mesh_options import DEFAULT, MeshOptions
from instant3d.utils.progress import Stopwatch


def remesh(
    source: Path,
    output: Path,
    *,
    options: MeshOptions = DEFAULT,
    formats: Sequence[str] = ("glb",),
    size_mm: float = SIZE_MM,
    resolution: int | None = None,
    max_memory: int = MemoryLimits.scratch,
) -> dict[str, Any]:
    """Make a mesh of a saved asset without generating or reconstructing it again.

    Args:
        source: The asset's folder, whose views/ sharpen the colours if they are there, or its triplane's file.
        output: A file with a suffix of `FORMATS`; or a folder for `mesh.FORMAT`, whose other files stay.
        options: How the mesh is made.
        formats: Of the mesh; the output's own if that is a file.
        size_mm: Length of the largest side in an .stl or .3mf, in millimetres.
        resolution: Nodes along each axis of the grid on which the surface is found; by default the asset's own.
        max_memory: Bytes that meshing may take.

    Returns:
        `mesh`, as `MeshResult.report` returns it; `mesh_options`; `files`; and the `seconds` of each part.

    Raises:
        ValueError: Options or formats are out of range, or the asset has no surface.
        FileNotFoundError: There is no such asset.
    """
    check_size_mm(size_mm)
    formats, watch = check_formats(formats), Stopwatch()
    with watch("load"):
        asset = Asset.load(source)
    asset.resolution, asset.max_memory = resolution or asset.resolution, max_memory
    made = asset.build_mesh(options, watch=watch)
    one = not output.is_dir() and output.suffix.lower().lstrip(".") in FORMATS
    folder, stem = (output.parent, output.stem) if one else (output, "mesh")
    with watch("write"), atomic.merged(folder) as partial:
        for name in formats:
            made.mesh.save(partial / f"{stem}.{name}", size_mm=size_mm)
        files = sorted(path.name for path in partial.iterdir())
    return {"mesh": made.report(), "mesh_options": options.as_dict(), "files": files, "seconds": watch.rounded()}


def closing_line(record: dict[str, Any], output: Path) -> str:
    """Format the record that `remesh` returned as one line for the terminal."""
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in record["seconds"].items())
    return f"{output}: {', '.join(record['files'])} ({mesh_summary(record['mesh'])}; seconds: {seconds})"
