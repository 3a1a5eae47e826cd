"""The folder of results that `reconstruct` and `generate` leave: mesh, triplane, turntable, contact sheet, record.

Knows nothing of where the asset came from, but for the pictures and the heading that the sheet is to begin with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d import __version__
from instant3d.cameras import Cameras, Rays, turntable
from instant3d.mesh import PRINTED, SIZE_MM
from instant3d.nerf.asset import FILE, Asset, check_formats, write_triplane
from instant3d.nerf.field import normals
from instant3d.utils import visualization
from instant3d.utils.mesh_options import DEFAULT, MeshOptions
from instant3d.utils.progress import Stopwatch
from instant3d.utils.visualization import Row
from instant3d.views import Views, normals_to_image

RECORD = "result.json"
FRAMES, FRAMES_PER_SECOND = 40, 16  # nine degrees apart, so that the structured views are among them
VIDEO_STEP = 1 / 24  # world units between samples; 58 dB from 256 a unit, which is what rounding to 8 bits costs
SMALLEST, LARGEST = 128, 512  # pixels of a picture
NORMALS_AT_ONCE = 2**15
AROUND = (-0.04, -0.02, 0.0, 0.02, 0.04)  # world units along the ray: a surface of a field is a slope, not a step


@dataclass(frozen=True)
class SheetInputs:
    """What a sheet begins with: the views that the asset was made of, or, if there are none, where to see it from."""

    heading: str
    title: str
    views: Views | Cameras  # (V,)
    names: Sequence[str] = ()


def image_size(view_size: int) -> int:
    """Pixels of a picture that shows all that a network knows which saw `view_size` pixels: half as much again."""
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
) -> dict[str, Any]:
    """Write everything but the record, and return what the record says of it; pictures are `size` pixels wide.

    `options` say how the mesh is made; `size_mm` is the largest side in an .stl or .3mf, in millimetres.

    Without PyAV there is no turntable.mp4, and a warning says so.
    """
    formats = check_formats(formats)
    made = asset.build_mesh(options, watch=watch)
    with watch("write"):
        for name in formats:
            made.mesh.save(folder / f"mesh.{name}", size_mm=size_mm)
        written = sorted(path.name for path in folder.glob("mesh*"))  # an .obj brings others
        write_triplane(asset.triplane, asset.decoder, folder / FILE)
    with watch("video"):
        around = _images(asset, turntable(FRAMES), size)
        turntables = _turntables(around.composite(1.0), folder)
        visualization.write_contact_sheet(_rows(asset, shown, around), folder / "sheet.png", heading=shown.heading)
    return {
        "resolution": asset.resolution,
        "mesh": made.report(),
        **printed_size(formats, size_mm),
        "files": [*written, FILE, *turntables, "sheet.png"],
    }


def printed_size(formats: Sequence[str], size_mm: float) -> dict[str, float]:
    """What a record says of the size in millimetres: nothing where no format has one."""
    return {"size_mm": size_mm} if set(formats) & set(PRINTED) else {}


def _turntables(frames: Tensor, folder: Path) -> list[str]:
    """Write frames (F, 3, H, W) as the films that can be written here; their names."""
    films = ["turntable.webp"]
    visualization.write_animation(frames, folder / "turntable.webp", frames_per_second=FRAMES_PER_SECOND)
    if visualization.has_video_encoder():
        films.insert(0, "turntable.mp4")
        visualization.write_video(frames, folder / "turntable.mp4", frames_per_second=FRAMES_PER_SECOND)
    else:
        warnings.warn("turntable.mp4 is left out, for films need PyAV: pip install av", stacklevel=2)
    return films


def write_record(folder: Path, **fields: Any) -> dict[str, Any]:
    """Write `result.json` and return its content."""
    record = {"instant3d": __version__, **fields}
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def closing_line(record: dict[str, Any], output: Path, source: str) -> str:
    """One line for the terminal; `source` is what the asset was made from."""
    total = sum(record["seconds"].values())
    return f"{output}: {', '.join(record['files'])} ({mesh_summary(record['mesh'])} from {source} in {total:.1f} s)"


def mesh_summary(report: dict[str, Any]) -> str:
    """A few words on a mesh, from what `MeshResult.report` says of it."""
    parts = report["components"]
    pieces = "in one piece" if parts == 1 else f"in {parts} pieces"
    size = " x ".join(f"{extent:.2f}" for extent in report["size"])
    colors = f"texture of {report['texture']} px" if report["texture"] else "vertex colours"
    return f"{report['faces']} triangles, {'closed' if report['closed'] else 'open'}, {pieces}, {size}, {colors}"


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rows(asset: Asset, shown: SheetInputs, around: Views) -> list[Row]:
    """The views that went in, the asset from the same cameras, its normals, and the asset from all sides.

    Where no views went in, the asset from where it is to be seen, and its normals.
    """
    size = around.width
    if isinstance(shown.views, Cameras):
        ours = _from(asset, shown.views, around)
        return [Row(shown.title, ours.composite(1.0), shown.names), _normals_row(asset, ours)]
    ours = _from(asset, shown.views.cameras, around)
    others = visualization.evenly_spaced(FRAMES, max(len(shown.views.rgb), 4))
    return [
        Row(shown.title, shown.views.resized(size, size).composite(1.0), shown.names),
        Row("reconstruction, same cameras", ours.composite(1.0)),
        _normals_row(asset, ours),
        Row("once around", around[others].composite(1.0), [f"azimuth {360 * k // FRAMES}" for k in others]),
    ]


def _normals_row(asset: Asset, views: Views) -> Row:
    return Row("its normals (red, green, blue = x, y, z)", normals_to_image(_with_normals(asset, views)))


def _from(asset: Asset, cameras: Cameras, around: Views) -> Views:
    """The asset as cameras (V,) see it: pictures of the turntable where they serve, new ones for the rest."""
    apart = (around.cameras.cam_to_world - cameras.cam_to_world[:, None]).abs().amax((-2, -1))
    apart = apart.maximum((around.cameras.intrinsics - cameras.intrinsics[:, None]).abs().amax(-1))
    nearest = apart.argmin(1)
    new = apart.amin(1) > 1e-4
    shown = around[nearest]
    if not new.any():
        return shown
    rendered = _images(asset, cameras[new], around.width)
    return Views.stack([rendered[int(new[:k].sum())] if new[k] else shown[k] for k in range(len(new))])


def _images(asset: Asset, cameras: Cameras, size: int) -> Views:
    return asset.render(cameras, size, step=VIDEO_STEP).to("cpu")


@torch.no_grad()
def _with_normals(asset: Asset, views: Views) -> Views:
    """Views (V,) with the field's mean normals around the place in each solid pixel that its depth names.

    All along the rays, as `Asset.render` averages them, they take many times as long and look the same.
    """
    if views.depth is None:
        raise ValueError("these views have no depth to find their normals by")
    rays = views.cameras.rays(views.height, views.width)
    forward = views.cameras.cam_to_world[:, None, None, :3, 2]
    distance = views.depth[:, 0] / (rays.directions * forward).sum(-1)
    solid = views.alpha[:, 0] > 0.5
    around = distance[solid][:, None] + torch.tensor(AROUND)
    places = Rays(rays.origins[solid], rays.directions[solid]).at(around).flatten(0, 1)
    device = asset.triplane.planes.device
    found = [normals(asset.field, some.to(device)).cpu() for some in places.split(NORMALS_AT_ONCE)]
    slopes = torch.zeros_like(rays.directions)
    slopes[solid] = torch.nn.functional.normalize(torch.cat(found).view(-1, len(AROUND), 3).mean(1), dim=-1)
    return dataclasses.replace(views, normals=slopes.permute(0, 3, 1, 2))
