"""Safe access to untrusted mesh files and to the files and images that they refer to."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from instant3d.utils import images

MAX_FILE_BYTES = 2**30  # of a file before it is read: the largest of Objaverse are smaller
MAX_SIDE = 8192
MAX_PIXELS = 4 * MAX_SIDE**2  # of all textures of one file together: 1 GiB once decoded


class UnsafePath(ValueError):
    """The file refers to something outside its folder."""

    kind = "unsafe"  # as written in lists of failures


class TooLarge(ValueError):
    """The file needs more memory or time than one object may take."""

    kind = "too_large"


def content(path: Path) -> bytes:
    """Read a whole file after checking its size.

    Raises:
        TooLarge: It is larger than `MAX_FILE_BYTES`.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise TooLarge(f"{path.name} is {size} bytes long; at most {MAX_FILE_BYTES} are read")
    return path.read_bytes()


def plain_text(data: bytes) -> str:
    """Decode UTF-8 with or without a byte-order mark; other bytes are read as Latin-1, which older exporters write."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def path_inside(folder: Path, reference: str) -> Path:
    """Resolve a file reference, which must lie in `folder` or below.

    Of an absolute path, which was valid on another machine, the longest ending that exists here is used. Letter case is
    ignored where no name matches exactly.

    Raises:
        UnsafePath: It leads outside the folder.
        ValueError: There is no such file.
    """
    folder = folder.resolve()
    if "://" in reference:
        raise UnsafePath(f"it refers to {reference!r}, which lies outside its folder")
    plain, unquoted = (text.replace("\\", "/") for text in (reference, unquote(reference)))
    for name in dict.fromkeys([plain, unquoted]):
        for parts in _endings(name):
            found = _spelt(folder, parts)
            if found is not None and found.is_relative_to(folder) and found.is_file():
                return found
    if not (folder / unquoted).resolve().is_relative_to(folder):
        raise UnsafePath(f"it refers to {reference!r}, which lies outside its folder")
    raise ValueError(f"it refers to {reference!r}, which does not exist; put it there")


def _endings(name: str) -> list[list[str]]:
    """Return the parts of a path; if it is absolute, also every ending of it, the longest first."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    absolute = name.startswith("/") or bool(parts and re.fullmatch("[A-Za-z]:", parts[0]))
    return [parts[k:] for k in range(len(parts))] if absolute else [parts]


def _spelt(folder: Path, parts: list[str]) -> Path | None:
    """Return the path of a file below `folder`, by exact names or else by names that differ only in letter case."""
    exact = folder.joinpath(*parts)
    if os.path.isfile(exact):
        return exact.resolve()
    found = folder
    for part in parts:
        if part == ".." or not found.is_dir():
            return None
        alike = [path for path in sorted(found.iterdir()) if path.name.lower() == part.lower()]
        if not alike:
            return None
        found = next((path for path in alike if path.name == part), alike[0])
    return found.resolve()


class ImageDecoder:
    """Decodes the textures of one file within one budget of pixels."""

    def __init__(self) -> None:
        self.pixels_left = MAX_PIXELS

    def decode(self, data: bytes) -> np.ndarray:
        """Return the pixels (H, W, 4) uint8; the declared size is checked before anything is decoded.

        Raises:
            TooLarge: The texture is too large, or the budget is used up.
            ValueError: It is not a valid image.
        """
        try:
            return np.asarray(images.open_image(data, "a texture", check=self._allow).convert("RGBA"))
        except images.TooManyPixels as error:
            raise TooLarge(f"a texture has more than {MAX_SIDE} x {MAX_SIDE} pixels; make it smaller") from error

    def _allow(self, width: int, height: int) -> None:
        self.pixels_left -= width * height
        if max(width, height) > MAX_SIDE:
            raise TooLarge(f"a texture measures {width} x {height} px; at most {MAX_SIDE} per side are read")
        if self.pixels_left < 0:
            raise TooLarge(f"its textures add up to more than {MAX_PIXELS} pixels")
