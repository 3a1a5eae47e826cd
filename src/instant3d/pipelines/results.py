"""Writing of result folders: mesh, triplane, turntable, contact sheet and record of `generate` and `reconstruct`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from instant3d import __version__
from instant3d.cameras import Cameras, turntable
from instant3d.mesh import PRINTED, SIZE_MM, Mesh, moved_to
from instant3d.nerf.asset import FILE, Asset, check_formats
from instant3d.nerf.mesh_rendering import render_mesh, shade
from instant3d.nerf.triplane_file import write_triplane
from instant3d.utils import visualization
from instant3d.utils.mesh_options import DEFAULT, MeshOptions
from instant3d.utils.progress import Stopwatch
from instant3d.utils.visualization import Row
from instant3d.views import Views, normals_to_image

RECORD = "result.json"
FRAMES, FRAMES_PER_SECOND = 40, 16
VIDEO_STEP = 1 / 24  # world units between samples; 58 dB from 256 a unit, which is what rounding to 8 bits costs
SMALLEST, LARGEST = 128, 512  # pixels a side of a rendered image


@dataclass(frozen=True)
class SheetInputs:
    """The heading and first row of a contact sheet.

    Attributes:
        heading: Text above the sheet, such as the prompt.
        title: Text above the first row.
        views: Input views (V,); or, if there are none, cameras (V,) to render the asset from.
        names: Labels of the views, or none.
    """

    heading: str
    title: str
    views: Views | Cameras
    names: Sequence[str] = ()


def image_size(view_size: int) -> int:
    """Return the side of rendered images in pixels: 1.5 times the input views' `view_size`, from 128 to 512."""
    return max(SMALLEST, min(LARGEST, view_size * 3 // 2))


def write(
    folder: Path,
    asset: Asset,
    shown: SheetInputs,
    *,
    size: int,
    formats: Sequence[str],
    watch: Stopwatch,
    options: MeshOptions = DEFAULT,
    size_mm: float = SIZE_MM,
    on_mesh: Callable[[Sequence[Path]], object] | None = None,
) -> dict[str, Any]:
    """Write all files of an asset except the record.

    Without PyAV there is no turntable.mp4, and a warning is issued.

    Args:
        folder: Where to write; it exists.
        asset: The asset to mesh and render.
        shown: How the contact sheet begins.
        size: Width and height of the rendered images in pixels.
        formats: Of the mesh, such as "glb".
        watch: Records the seconds of each part.
        options: How the mesh is made.
        size_mm: Length of the largest side in an .stl or .3mf, in millimetres.
        on_mesh: Called with the files of the mesh as soon as they are whole, before images are rendered.

    Returns:
        Fields of the record: `resolution`, `mesh`, `files` and, if a format has a unit, `size_mm`.

    Raises:
        ValueError: A format is unknown, or the asset has no surface.
    """
    formats = check_formats(formats)
    volume = functools.cache(functools.partial(_volume, asset, shown, size, watch))
    made = asset.build_mesh(dataclasses.replace(options, origin="world"), watch=watch, meanwhile=volume)
    mesh = moved_to(made.mesh, options.origin)
    with watch("write"):
        for name in formats:
            mesh.save(folder / f"mesh.{name}", size_mm=size_mm)
        written = sorted(path.name for path in folder.glob("mesh*"))  # an .obj brings others
        write_triplane(asset.triplane, asset.decoder, folder / FILE)
    if on_mesh is not None:
        on_mesh([folder / name for name in written])
    images = volume()
    with watch("video"):
        around = shade(render_mesh(made.mesh, turntable(FRAMES), size))
        turntables = _turntables(around.composite(1.0), folder)
        rows = _rows(images, made.mesh, shown, around)
        visualization.write_contact_sheet(rows, folder / "sheet.png", heading=shown.heading)
    return {
        "resolution": asset.resolution,
        "mesh": made.report(),
        **printed_size(formats, size_mm),
        "files": [*written, FILE, *turntables, "sheet.png"],
    }


def printed_size(formats: Sequence[str], size_mm: float) -> dict[str, float]:
    """Return the field `size_mm` of a record, or no field if none of the formats has a unit of length."""
    return {"size_mm": size_mm} if set(formats) & set(PRINTED) else {}


def _turntables(frames: Tensor, folder: Path) -> list[str]:
    """Write frames (F, 3, H, W) as WebP and, if PyAV is installed, as MP4; return the files' names."""
    films = ["turntable.webp"]
    visualization.write_animation(frames, folder / "turntable.webp", frames_per_second=FRAMES_PER_SECOND)
    if visualization.has_video_encoder():
        films.insert(0, "turntable.mp4")
        visualization.write_video(frames, folder / "turntable.mp4", frames_per_second=FRAMES_PER_SECOND)
    else:
        warnings.warn("turntable.mp4 is left out, for videos need PyAV: pip install av", stacklevel=2)
    return films


def write_record(folder: Path, **fields: Any) -> dict[str, Any]:
    """Write `result.json` and return its content."""
    record = {"instant3d": __version__, **fields}
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def closing_line(record: dict[str, Any], output: Path, source: str) -> str:
    """Format a record as one line for the terminal.

    Args:
        record: As `write_record` returns it.
        output: The folder of results.
        source: What the asset was made from, such as "4 views".
    """
    total = sum(record["seconds"].values())
    return f"{output}: {', '.join(record['files'])} ({mesh_summary(record['mesh'])} from {source} in {total:.1f} s)"


def mesh_summary(report: dict[str, Any]) -> str:
    """Summarise a mesh in a few words, from the fields of `MeshResult.report`."""
    parts = report["components"]
    pieces = "in one piece" if parts == 1 else f"in {parts} pieces"
    size = " x ".join(f"{extent:.2f}" for extent in report["size"])
    colors = f"texture of {report['texture']} px" if report["texture"] else "vertex colours"
    shape = f"closed, volume {report['volume']:.3g}" if report["closed"] else "open"
    return f"{report['faces']} triangles, {shape}, {pieces}, {size}, {colors}"


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _volume(asset: Asset, shown: SheetInputs, size: int, watch: Stopwatch) -> Tensor:
    """Render the volume from the cameras to show, with as many pixels as their views: (V, 3, size, size) on white."""
    with watch("video"):
        if isinstance(shown.views, Cameras):
            return asset.render(shown.views, size, step=VIDEO_STEP).to("cpu").composite(1.0)
        views = asset.render(shown.views.cameras, min(size, shown.views.width), step=VIDEO_STEP)
        return views.to("cpu").resized(size, size).composite(1.0)


def _rows(volume: Tensor, mesh: Mesh, shown: SheetInputs, around: Views) -> list[Row]:
    """Return the rows of the sheet: the input views; volume, mesh and normals from their cameras; the turntable.

    Without input views, the rows from the cameras to show alone.
    """
    size = around.width
    cameras = shown.views if isinstance(shown.views, Cameras) else shown.views.cameras
    rendered = render_mesh(mesh, cameras, size)
    ours = [
        Row("its mesh, lit softly", shade(rendered).composite(1.0)),
        Row("the mesh's normals (red, green, blue = x, y, z)", normals_to_image(rendered)),
    ]
    if isinstance(shown.views, Cameras):
        return [Row(shown.title, volume, shown.names), *ours]
    others = visualization.evenly_spaced(FRAMES, max(len(shown.views.rgb), 4))
    return [
        Row(shown.title, shown.views.resized(size, size).composite(1.0), shown.names),
        Row("reconstruction, same cameras", volume),
        *ours,
        Row("the mesh once around", around[others].composite(1.0), [f"azimuth {360 * k // FRAMES}" for k in others]),
    ]
