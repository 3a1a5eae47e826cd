"""Objects in another project's layout to scene folders. Knows nothing of where that layout keeps its cameras.

Pictures that are 8-bit RGBA PNGs already are kept byte for byte; others are matted and encoded as `scenes.read` would
see them. One picture is in memory at a time, and nothing outside the source folder is read.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from instant3d.scenes import images, transforms
from instant3d.scenes import scene_folder as scenes
from instant3d.scenes.images import DecodedImage
from instant3d.scenes.layouts import LAYOUTS, Layout, LayoutOptions, Load, Matrix, ViewRecord
from instant3d.utils import atomic
from instant3d.utils.errors import format_error

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # after these, nothing more can be written
RECORD = "imported"  # the field of the document that tells by what settings
RGBA8 = b"\x08\x06"  # bit depth and colour type, where a PNG's header has them
UPS: dict[str, Matrix] = {
    "z": np.eye(3),
    "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),  # their (x, y, z) is our (x, -z, y), as glTF's is
}


@dataclass(frozen=True)
class ImportSettings:
    """How a layout's world becomes ours; what is None is as the layout has it."""

    layout: str
    scale: float | None = None
    up: Literal["z", "y"] = "z"
    options: LayoutOptions = field(default_factory=LayoutOptions)

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"{self.layout!r} is no layout that is known; choose among {', '.join(LAYOUTS)}")
        if self.scale is not None and not 0 < self.scale < 1e6:
            raise ValueError(f"a world cannot be scaled by {self.scale}; expected a number above 0")
        if self.up not in UPS:
            raise ValueError(f"{self.up!r} is no direction that is up; choose z or y")

    def record(self) -> dict[str, Any]:
        """What tells whether an earlier import was the same."""
        of_layout = self.scale or LAYOUTS[self.layout].scale
        options = {"fov_deg": self.options.fov_deg, "depth_range": self.options.depth_range}
        return {"layout": self.layout, "scale": of_layout, "up": self.up, **options}


@dataclass(frozen=True)
class ImportResult:
    """What became of one object: `state` is "new", "there" (an earlier import by the same settings) or "failed"."""

    name: str
    state: Literal["new", "there", "failed"]
    reason: str = ""


def convert(source: str | Path, target: str | Path, settings: ImportSettings) -> Iterator[ImportResult]:
    """Import each object of `source` (one object's folder, or any folder of such) as `target/NAME`, one by one.

    An object that cannot be read is told of and left out; what an earlier call finished is not made again.
    """
    source, layout = Path(source), LAYOUTS[settings.layout]
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder; name an object's folder or a folder of such")
    objects = list(layout.objects(source))
    if not objects:
        raise FileNotFoundError(f"{source} holds nothing in the layout {settings.layout} (no {layout.marks[0]})")
    for folder in objects:
        yield _import_result(folder, source, Path(target), layout, settings)


def _import_result(folder: Path, source: Path, target: Path, layout: Layout, settings: ImportSettings) -> ImportResult:
    """What becomes of one object, whatever its files hold; a full disk ends the command, as it would end the next."""
    name = _name(folder, source)
    try:
        if _is_there(target / name, settings):
            return ImportResult(name, "there")
        _import(folder, source.resolve(), target / name, layout, settings)
        return ImportResult(name, "new")
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        return ImportResult(name, "failed", format_error(error))


def _import(folder: Path, root: Path, target: Path, layout: Layout, settings: ImportSettings) -> None:
    load = _loader(folder, root)
    shots = layout.read(folder, load, settings.options)
    scale = settings.scale or layout.scale
    maps = {kind: all(getattr(shot, kind) for shot in shots) for kind in ("depth", "normals")}
    with atomic.replaced(target, sign=scenes.DOCUMENT) as partial:
        entries = []
        for k, shot in enumerate(shots):
            entry, files = _frame(k, shot, load, maps, settings, scale)
            for name, data in files.items():
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_bytes(data)
            entries.append(entry)
        unit = scale * settings.options.depth_range / 255 if maps["depth"] else None
        fields = {"id": target.name, RECORD: settings.record(), "depth_unit_scale_factor": unit}
        (partial / scenes.DOCUMENT).write_bytes(transforms.document(entries, **fields))
        scenes.read(partial, frames=[0])  # whoever reads it later finds nothing to complain of


def _frame(
    k: int, view: ViewRecord, load: Load, maps: dict[str, bool], settings: ImportSettings, scale: float
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A shot's entry in the document and its files by name."""
    data = load(view.image)
    picture = images.decode(data, load(view.mask) if view.mask else None, f"{view.image} of {view.where}")
    height, width = picture.alpha.shape
    intrinsics = view.lens(width, height)
    name = f"images/{k:04d}.png"
    entry = transforms.entry(name, _reoriented(view.cam_to_world, UPS[settings.up], scale), intrinsics, width, height)
    files = {name: data if _is_ours(data, picture) else images.encode(picture.rgb, picture.alpha)}
    if maps["depth"] and view.depth:
        entry["depth_file_path"] = f"depth/{k:04d}.png"
        files[entry["depth_file_path"]] = _depth(load(view.depth), picture, f"{view.depth} of {view.where}")
    if maps["normals"] and view.normals:
        entry["normal_file_path"] = f"normals/{k:04d}.png"
        where = f"{view.normals} of {view.where}"
        files[entry["normal_file_path"]] = _normals(load(view.normals), picture, UPS[settings.up], where)
    return entry, files


def _reoriented(cam_to_world: Matrix, up: Matrix, scale: float) -> Matrix:
    """The camera in our world: turned with the object and moved as the object grows, but not stretched itself."""
    matrix = np.eye(4)
    matrix[:3, :3] = up @ cam_to_world[:3, :3]
    matrix[:3, 3] = up @ cam_to_world[:3, 3] * scale
    return matrix


def _is_ours(data: bytes, picture: DecodedImage) -> bool:
    return picture.alpha_source == "alpha" and data[:4] == b"\x89PNG" and data[24:26] == RGBA8


def _depth(data: bytes, picture: DecodedImage, where: str) -> bytes:
    """8-bit depth as 16-bit depth of the same steps; nothing where the picture shows nothing."""
    levels = images.decode_levels(data, picture.rgb.shape[:2], where)
    if levels.shape[-1] != 1:
        raise ValueError(f"{where} has colours; expected 8-bit grey")
    return images.encode_depth(np.where(picture.alpha > 0, levels[..., 0], 0), 1.0)


def _normals(data: bytes, picture: DecodedImage, up: Matrix, where: str) -> bytes:
    """Vectors (n + 1) / 2 along their world's axes as ours along ours; nothing where the picture shows nothing."""
    levels = images.decode_levels(data, picture.rgb.shape[:2], where)
    if levels.shape[-1] != 3:
        raise ValueError(f"{where} is grey; expected 8-bit RGB")
    vectors = (levels / 127.5 - 1) @ up.T
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    shown = (picture.alpha > 0)[..., None] & (length > 0.5)
    return images.encode_normals(np.where(shown, vectors / np.maximum(length, 1e-6), 0))


def _loader(folder: Path, root: Path) -> Load:
    def load(name: str) -> bytes:
        for extension in scenes.EXTENSIONS:
            path = folder / f"{name}{extension}"
            if "\0" in name or not path.resolve().is_relative_to(root):
                raise ValueError(f"{path} lies outside {root}, so it is not read; move it inside")
            if os.path.isfile(path):  # false for a name that no file can have
                if path.stat().st_size > scenes.MAX_FILE_BYTES:
                    raise ValueError(f"{path} is larger than {scenes.MAX_FILE_BYTES} bytes; make it smaller")
                return path.read_bytes()
        raise FileNotFoundError(f"{folder / name} does not exist, but a camera tells of it; put it there")

    return load


def _name(folder: Path, source: Path) -> str:
    """An object's path below the source; `campos_512_v4` and the like say nothing of the object."""
    parts = [part for part in folder.relative_to(source).parts if not part.startswith("campos_")]
    return "/".join(parts) or source.resolve().name


def _is_there(target: Path, settings: ImportSettings) -> bool:
    if not (target / scenes.DOCUMENT).is_file():
        return False
    return scenes.document(target).content.get(RECORD) == settings.record()
