"""Reading and writing of scene folders: posed images of one object.

A scene is a `transforms.json` (`instant3d.scenes.transforms`) beside the images that it names. `write` writes:

    transforms.json       cameras, caption, id, depth_unit_scale_factor
    images/0000.png ...   RGBA, 8 bits, straight alpha
    depth/0000.png ...    16 bits, in steps of depth_unit_scale_factor world units, 0 where there is no surface
    normals/0000.png ...  world axes, 8 bits, 128 being zero

`read` accepts more: other tools' scenes and a user's own photos. Where an image has no alpha and no mask, its
white background is flooded from the border (`instant3d.scenes.images.decode`).
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.scenes import images, transforms, view_set
from instant3d.scenes.frame_files import Load, read_image, read_maps, reading_notes
from instant3d.scenes.geometry_maps import MapGrid
from instant3d.scenes.scene_files import DOCUMENT, file_content
from instant3d.scenes.view_pixels import ViewPixels
from instant3d.utils import atomic, file_listing
from instant3d.views import MAPS, Views

ENOUGH = 1024  # pixels per side: images of twice that are reduced during decoding, if smaller ones are requested


@dataclass(frozen=True)
class Scene:
    """Some or all frames of a scene.

    Attributes:
        views: Images, maps and cameras (V,).
        caption: The caption, if there is one.
        id: The object's id.
        names: Names of the frames.
        path: Where the scene was read.
        credit: Licence, author, source, title and address, as far as given (`transforms.Document.credit`).
    """

    views: Views
    caption: str | None
    id: str
    names: tuple[str, ...]
    path: Path
    credit: Mapping[str, str] = field(default_factory=dict)


def write(
    folder: str | Path,
    views: Views | ViewPixels,
    *,
    caption: str | None = None,
    object_id: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write views (V,) as a scene folder, whole or not at all; an earlier scene in `folder` is replaced.

    Args:
        folder: The scene folder.
        views: (V,) with at least one view.
        caption: The caption, if any.
        object_id: The object's id; by default the folder's name.
        extra: Further JSON fields, such as a source or a licence.

    Raises:
        ValueError: The views hold numbers that are not finite, or the folder holds other files.
    """
    folder = Path(folder)
    files = encode(views, caption=caption, object_id=object_id or folder.resolve().name, extra=extra)
    with atomic.replaced(folder, sign=DOCUMENT) as partial:
        for parent in {os.path.dirname(name) for name in files} - {""}:
            (partial / parent).mkdir()
        for name, data in files.items():
            (partial / name).write_bytes(data)


def read(
    folder: str | Path,
    *,
    frames: Sequence[int] | None = None,
    size: int | None = None,
    maps: Collection[str] = MAPS,
    widest: int | None = None,
) -> Scene:
    """Read a scene folder.

    Args:
        folder: The folder, or one of its documents (`lego/transforms_train.json`).
        frames: Indices of the frames to read, all by default; others are neither opened nor checked.
        size: Images become `size` x `size`: non-square ones are first padded to a square with transparent pixels.
        maps: Which of depth and normals to read if all frames have them; decoding one costs as much as its image.
        widest: Without a size: images of at least twice that many pixels per side are reduced towards it.

    Raises:
        FileNotFoundError: The folder, its document or one of its files does not exist.
        ValueError: A file or a camera is invalid, or a camera does not see the object.
    """
    path, document = _document(Path(folder))
    root = Path(os.path.realpath(path.parent))
    content = functools.partial(file_content, root)
    return decode(document, content, path.parent, frames=frames, size=size, maps=maps, widest=widest)


def document(folder: str | Path) -> transforms.Document:
    """Read a scene's cameras, id and caption, without opening an image."""
    return _document(Path(folder))[1]


def below(root: str | Path) -> list[Path]:
    """Find every scene folder in `root` at any depth, sorted by path.

    Hidden folders are skipped: a killed process leaves half-written scenes in them.
    """
    return [document.parent for document in file_listing.visible_files(root, f"**/{DOCUMENT}")]


def names(folder: str | Path) -> tuple[str, ...]:
    """Return the names of a scene's frames without opening an image."""
    return _document(Path(folder))[1].names()


def encode(
    views: Views | ViewPixels, *, caption: str | None, object_id: str, extra: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """Encode views as the files of a scene.

    Args:
        views: (V,) with at least one view.
        caption: The caption, if any.
        object_id: The object's id.
        extra: Further JSON fields, such as a source or a licence.

    Returns:
        The files' content by their names relative to the scene folder.

    Raises:
        ValueError: There are no views, or they hold numbers that are not finite.
    """
    pixels = views if isinstance(views, ViewPixels) else ViewPixels.of(views)
    return pixels.encode(caption=caption, object_id=object_id, extra=extra)


def decode(
    document: transforms.Document,
    load: Load,
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    size: int | None = None,
    maps: Collection[str] = MAPS,
    widest: int | None = None,
) -> Scene:
    """Decode a scene.

    Args:
        document: Its parsed `transforms.json`.
        load: Returns a file's content by its name in the scene.
        path: The scene's path, for error messages and if the document has no id.
        frames: As in `read`.
        size: As in `read`.
        maps: As in `read`.
        widest: As in `read`.
    """
    if size is not None and size < 1:
        raise ValueError(f"images cannot be {size} pixels wide; choose a size of at least 1")
    chosen = [document.frame(k) for k in document.choose(frames)]
    read, first = [], None
    sizes, orientations = [], []
    with_maps = "depth" in maps and all(f.depth for f in chosen), "normals" in maps and all(f.normals for f in chosen)
    enough = widest if size is None else max(2 * size, ENOUGH)
    for frame in chosen:
        image = read_image(frame, load, enough)
        sizes.append((image.full_size or image.alpha.shape)[::-1])
        orientations.append(image.ignored_orientation)
        views = _frame(frame, document, load, image, with_maps)
        first = first or (frame, views)
        view_set.check_size(frame, views, *first, count=len(chosen), size=size)
        read.append(views if size is None else _square(views).resized(size, size))
    scene = Views.stack(read)
    view_set.check_sight(chosen, scene.cameras)
    view_set.check_opacity(chosen, scene)
    for note in reading_notes(chosen, sizes, orientations):
        warnings.warn(note, stacklevel=2)
    scene_id = document.text("id") or path.resolve().name
    names = tuple(frame.name for frame in chosen)
    return Scene(scene, document.text("caption"), scene_id, names, path, document.credit)


def _frame(
    frame: transforms.Frame,
    document: transforms.Document,
    load: Load,
    image: images.DecodedImage,
    with_maps: tuple[bool, bool],
) -> Views:
    """Combine one frame's image with its maps and its camera: views of shape ()."""
    if image.alpha_source == "none":
        note = "has neither alpha, nor a mask, nor a white background: all of it counts as the object"
        warnings.warn(f"{frame.where} {note}", stacklevel=2)
    height, width = image.full_size or image.alpha.shape
    depth, normals = read_maps(frame, document, load, MapGrid.of(image), with_maps)
    matrix = torch.tensor(frame.cam_to_world, dtype=torch.float32)
    return Views(
        torch.from_numpy(np.ascontiguousarray(image.rgb.transpose(2, 0, 1))) / 255,
        torch.tensor(image.alpha)[None] / 255,
        Cameras(matrix, torch.tensor(frame.pinhole(width, height), dtype=torch.float32)),
        None if depth is None else torch.tensor(depth, dtype=torch.float32)[None],
        None if normals is None else torch.tensor(normals).permute(2, 0, 1),
    )


def _square(views: Views) -> Views:
    """Centre an image in a square as wide as its longer side, transparent around it, and adapt its camera."""
    height, width = views.height, views.width
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    edges = (left, side - width - left, top, side - height - top)

    def widen(image: Tensor | None) -> Tensor | None:
        return None if image is None else torch.nn.functional.pad(image, edges)

    window = torch.tensor([-left / width, -top / height, side / width, side / height])
    cameras = views.cameras.crop(*window)
    rgb = torch.nn.functional.pad(views.rgb, edges, value=1.0)
    return Views(rgb, torch.nn.functional.pad(views.alpha, edges), cameras, widen(views.depth), widen(views.normals))


def _document(path: Path) -> tuple[Path, transforms.Document]:
    file = path if path.suffix == ".json" else path / DOCUMENT
    if not file.is_file():
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; name a scene folder with a {DOCUMENT} in it")
        others = [other.name for other in file_listing.visible_files(path, "transforms*.json")]
        hint = f"name one of its documents, such as {path / others[0]}" if others else "is it a scene folder?"
        raise FileNotFoundError(f"{path} has no {DOCUMENT}; {hint}")
    if file.stat().st_size > transforms.MAX_BYTES:
        raise ValueError(f"{file} is larger than {transforms.MAX_BYTES} bytes; a scene's cameras take far less")
    return file, transforms.parse(file.read_bytes(), str(file))
