"""Import of objects in another project's layout as scene folders.

Images that are already 8-bit RGBA PNGs are copied byte for byte; others are cut out and encoded as `scenes.read` would
decode them. One image is in memory at a time, and nothing outside the source folder is read.
"""

from __future__ import annotations

import errno
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from instant3d.scenes import geometry_maps, images, transforms
from instant3d.scenes import scene_folder as scenes
from instant3d.scenes.checks.view_notes import view_notes
from instant3d.scenes.frame_files import read_image
from instant3d.scenes.images import DecodedImage
from instant3d.scenes.layouts import LAYOUTS, Layout, LayoutOptions, Load, Matrix, ViewRecord
from instant3d.scenes.scene_files import file_content
from instant3d.utils import atomic
from instant3d.utils.errors import format_error

NOTED, NOTED_SIZE = 12, 128  # views that are checked after an import, and their side in pixels
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # errors after which nothing more can be written
RECORD = "imported"  # field of the document with the settings of the import
RGBA8 = b"\x08\x06"  # bit depth and colour type in a PNG's header
UPS: dict[str, Matrix] = {
    "z": np.eye(3),
    "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),  # source (x, y, z) to ours (x, -z, y), as for glTF
}


@dataclass(frozen=True)
class ImportSettings:
    """Settings of the conversion from another layout: its scale, up axis, and what its files do not contain.

    Attributes:
        layout: A key of `LAYOUTS`.
        scale: Factor of all positions; None is the layout's own.
        up: The source's up axis.
        options: What the layout's files do not contain.
    """

    layout: str
    scale: float | None = None
    up: Literal["z", "y"] = "z"
    options: LayoutOptions = field(default_factory=LayoutOptions)

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"{self.layout!r} is not a known layout; choose one of {', '.join(LAYOUTS)}")
        if self.scale is not None and not 0 < self.scale < 1e6:
            raise ValueError(f"the scale is {self.scale}; expected a number above 0")
        if self.up not in UPS:
            raise ValueError(f"{self.up!r} is not an up axis; choose z or y")

    def record(self) -> dict[str, Any]:
        """Return the settings as stored in the scene, to recognise an earlier identical import."""
        of_layout = self.scale or LAYOUTS[self.layout].scale
        options = {"fov_deg": self.options.fov_deg, "depth_range": self.options.depth_range}
        return {"layout": self.layout, "scale": of_layout, "up": self.up, **options}


@dataclass(frozen=True)
class ImportResult:
    """Whether one object was imported, or why not.

    Attributes:
        name: The object's name in the target folder.
        state: "new", "there" (already imported with the same settings) or "failed".
        reason: Why it failed.
    """

    name: str
    state: Literal["new", "there", "failed"]
    reason: str = ""


def convert(source: str | Path, target: str | Path, settings: ImportSettings) -> Iterator[ImportResult]:
    """Import the objects of a folder one by one as `target/NAME`.

    An object that cannot be read is reported and skipped; objects that an earlier call finished are not imported again.

    Args:
        source: One object's folder, or any folder of such.
        target: Folder for the scene folders.
        settings: How to convert them.

    Yields:
        A result per object.

    Raises:
        FileNotFoundError: `source` is not a folder, or holds no object in this layout.
    """
    source, layout = Path(source), LAYOUTS[settings.layout]
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder; name an object's folder or a folder of such")
    objects = list(layout.objects(source))
    if not objects:
        raise FileNotFoundError(f"{source} holds nothing in the layout {settings.layout} (no {layout.marks[0]})")
    for number, folder in enumerate(objects, 1):
        try:
            yield _import_result(folder, source, Path(target), layout, settings)
        except OSError:  # a full disk
            rest = [_name(other, source) for other in objects[number:]]
            yield from (ImportResult(name, "failed", "was not begun") for name in rest)
            raise


def _import_result(folder: Path, source: Path, target: Path, layout: Layout, settings: ImportSettings) -> ImportResult:
    """Import one object and report its errors; a full disk ends the command, as all further objects would fail too."""
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
    load = functools.partial(file_content, root, folder=folder, named_by=f"a camera of {folder}")
    views = layout.read(folder, load, settings.options)
    scale = settings.scale or layout.scale
    maps = {kind: all(getattr(view, kind) for view in views) for kind in ("depth", "normals")}
    with atomic.replaced(target, sign=scenes.DOCUMENT) as partial:
        entries = []
        for k, view in enumerate(views):
            entry, files = _frame(k, view, load, maps, settings, scale)
            for name, data in files.items():
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_bytes(data)
            entries.append(entry)
        unit = scale * settings.options.depth_range / 255 if maps["depth"] else None
        fields = {"id": target.name, RECORD: settings.record(), "depth_unit_scale_factor": unit}
        (partial / scenes.DOCUMENT).write_bytes(transforms.document(entries, **fields))
        scenes.read(partial, frames=[0])  # raises now what training would raise later
        for note in _notes(partial, target):
            warnings.warn(note, stacklevel=2)


def _notes(folder: Path, target: Path) -> list[str]:
    """Return what a few of the views that were imported to `target` contradict, as for `reconstruct`."""
    count = scenes.document(folder).count
    some = sorted({round(k * (count - 1) / (NOTED - 1)) for k in range(NOTED)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first frame has been read without
        scene = scenes.read(folder, frames=some, size=NOTED_SIZE, maps=())
    return view_notes(replace(scene, path=target))


def _frame(
    k: int, view: ViewRecord, load: Load, maps: dict[str, bool], settings: ImportSettings, scale: float
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return a view's entry in the document, and its files by name."""
    data = load(view.image)
    if view.frame is None:
        image = images.decode(data, load(view.mask) if view.mask else None, f"{view.image} of {view.where}")
    else:
        image = read_image(view.frame, load)
    height, width = image.alpha.shape
    as_stored = image.applied_orientation == 1 and not (view.frame and view.frame.is_distorted(width, height))
    intrinsics = view.lens(width, height)
    if not np.isfinite(intrinsics).all():
        raise ValueError(f"{view.where} has a focal length or a centre out of all bounds; write its intrinsics again")
    name = f"images/{k:04d}.png"
    entry = transforms.entry(name, _reoriented(view.cam_to_world, UPS[settings.up], scale), intrinsics, width, height)
    files = {name: data if as_stored and _is_ours(data, image) else images.encode(image.rgb, image.alpha)}
    if maps["depth"] and view.depth:
        entry["depth_file_path"] = f"depth/{k:04d}.png"
        files[entry["depth_file_path"]] = _depth(load(view.depth), image, f"{view.depth} of {view.where}")
    if maps["normals"] and view.normals:
        entry["normal_file_path"] = f"normals/{k:04d}.png"
        where = f"{view.normals} of {view.where}"
        files[entry["normal_file_path"]] = _normals(load(view.normals), image, UPS[settings.up], where)
    return entry, files


def _reoriented(cam_to_world: Matrix, up: Matrix, scale: float) -> Matrix:
    """Convert a camera pose: rotate it with the object and scale its position, but not its axes."""
    matrix = np.eye(4)
    matrix[:3, :3] = up @ cam_to_world[:3, :3]
    matrix[:3, 3] = up @ cam_to_world[:3, 3] * scale
    return matrix


def _is_ours(data: bytes, image: DecodedImage) -> bool:
    return image.alpha_source == "alpha" and data[:4] == b"\x89PNG" and data[24:26] == RGBA8


def _depth(data: bytes, image: DecodedImage, where: str) -> bytes:
    """Convert 8-bit to 16-bit depth with the same steps; 0 where the image is transparent."""
    levels = geometry_maps.decode_levels(data, image.rgb.shape[:2], where)
    if levels.shape[-1] != 1:
        raise ValueError(f"{where} has colours; expected 8-bit grey")
    return geometry_maps.encode_depth(np.where(image.alpha > 0, levels[..., 0], 0), 1.0)


def _normals(data: bytes, image: DecodedImage, up: Matrix, where: str) -> bytes:
    """Convert vectors (n + 1) / 2 along the source's world axes to ours; 0 where the image is transparent."""
    levels = geometry_maps.decode_levels(data, image.rgb.shape[:2], where)
    if levels.shape[-1] != 3:
        raise ValueError(f"{where} is grey; expected 8-bit RGB")
    vectors = (levels / 127.5 - 1) @ up.T
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    shown = (image.alpha > 0)[..., None] & (length > 0.5)
    return geometry_maps.encode_normals(np.where(shown, vectors / np.maximum(length, 1e-6), 0))


def _name(folder: Path, source: Path) -> str:
    """Return an object's path below the source, without parts such as `campos_512_v4`, which do not name the object."""
    parts = [part for part in folder.relative_to(source).parts if not part.startswith("campos_")]
    return "/".join(parts) or source.resolve().name


def _is_there(target: Path, settings: ImportSettings) -> bool:
    if not (target / scenes.DOCUMENT).is_file():
        return False
    return scenes.document(target).content.get(RECORD) == settings.record()
