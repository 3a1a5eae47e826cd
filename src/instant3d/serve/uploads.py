"""Uploaded images and scenes: checked in bytes, names and kinds before anything is decoded."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from instant3d.utils import atomic
from instant3d.utils.errors import escape_control

MOST_IMAGES = 4
SUFFIXES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}  # by how a file begins
SCENE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".json", ".txt"}
MOST_FILES, MOST_BYTES = 500, 512 * 2**20  # of an unpacked scene
PIECE = 2**20


class UnsupportedUpload(ValueError):
    """A file is of a kind that is not read."""


def store_images(images: Sequence[BinaryIO], folder: Path) -> None:
    """Write images as `folder/images/0.png`, ..., or a single one as `folder/image.png`.

    Raises:
        UnsupportedUpload: One is no PNG, JPEG or WebP.
        ValueError: There are too many.
    """
    if not 1 <= len(images) <= MOST_IMAGES:
        raise ValueError(f"between 1 and {MOST_IMAGES} images are taken, got {len(images)}")
    suffixes = [_suffix(image) for image in images]
    with atomic.merged(folder) as partial:
        place = partial if len(images) == 1 else partial / "images"
        place.mkdir(exist_ok=True)
        for number, (image, suffix) in enumerate(zip(images, suffixes, strict=True)):
            name = f"image{suffix}" if len(images) == 1 else f"{number}{suffix}"
            with (place / name).open("wb") as out:
                shutil.copyfileobj(image, out)


def store_scene(archive: BinaryIO, folder: Path) -> None:
    """Unpack a zip of a scene folder as `folder/scene`.

    Raises:
        UnsupportedUpload: It is no zip.
        ValueError: A member's name leads out of the folder, is no image or JSON, or there is too much.
    """
    try:
        with zipfile.ZipFile(archive) as opened, atomic.merged(folder) as partial:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check(members)
            root = _common_root([PurePosixPath(member.filename) for member in members])
            left = MOST_BYTES
            for member in members:
                target = partial / "scene" / PurePosixPath(member.filename).relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                left = _extract(opened, member, target, left)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UnsupportedUpload(f"the scene is no readable zip file ({error})") from error


def _suffix(image: BinaryIO) -> str:
    head = image.read(12)
    image.seek(0)
    for start, suffix in SUFFIXES.items():
        if head.startswith(start) and (suffix != ".webp" or head[8:] == b"WEBP"):
            return suffix
    raise UnsupportedUpload("an image is neither PNG, JPEG nor WebP; convert it")


def _check(members: Sequence[zipfile.ZipInfo]) -> None:
    if not 1 <= len(members) <= MOST_FILES:
        raise ValueError(f"a scene has between 1 and {MOST_FILES} files, got {len(members)}")
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or len(member.filename) > 200:
            raise ValueError(f"{escape_control(member.filename[:80])} leads out of the scene; pack it anew")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{escape_control(member.filename)} is a link; pack the file itself")
        if any(part.startswith(".") or part != escape_control(part) for part in path.parts):
            raise ValueError(f"{escape_control(member.filename)} is hidden or has control characters; leave it out")
        if path.suffix.lower() not in SCENE_SUFFIXES:
            raise ValueError(f"{escape_control(member.filename)} is no image and no JSON; leave it out")


def _common_root(paths: Sequence[PurePosixPath]) -> PurePosixPath:
    """The folder that holds transforms.json, for a zip of a folder holds that folder."""
    found = [path.parent for path in paths if path.name == "transforms.json"]
    root = min(found, key=lambda path: len(path.parts), default=PurePosixPath("."))
    outside = [path for path in paths if not path.is_relative_to(root)]
    if outside:
        raise ValueError(f"{escape_control(outside[0])} lies outside of the folder of transforms.json; leave it out")
    return root


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, left: int) -> int:
    """Write a member, counting bytes as they come, for the size that it states may be wrong; return what is left."""
    with opened.open(member) as source, target.open("xb") as out:
        while piece := source.read(PIECE):
            left -= len(piece)
            if left < 0:
                raise ValueError(f"the scene unpacks to more than {MOST_BYTES // 2**20} MiB; send smaller images")
            out.write(piece)
    return left
