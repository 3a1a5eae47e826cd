"""A stranger's mesh file, and the files and pictures that it names, opened safely. Knows nothing of meshes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np

from instant3d import images

MAX_FILE_BYTES = 2**30  # of a file before it is read: the largest of Objaverse fall short of it
MAX_SIDE = 8192
MAX_PIXELS = 4 * MAX_SIDE**2  # of all textures of one file together: 1 GiB once decoded


class Unsafe(ValueError):
    """It reaches for what is not its own."""

    kind = "unsafe"  # the word for it in lists of failures


class TooLarge(ValueError):
    """It asks for more than is given to one object."""

    kind = "too_large"


def content(path: Path) -> bytes:
    """All of a file, which is looked at before it is read."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise TooLarge(f"{path.name} is {size} bytes long; at most {MAX_FILE_BYTES} are read")
    return path.read_bytes()


def path_inside(folder: Path, reference: str) -> Path:
    """The file that `reference` names, which must lie in `folder` or below."""
    folder = folder.resolve()
    path = (folder / unquote(reference).replace("\\", "/")).resolve()
    if not path.is_relative_to(folder) or "://" in reference:
        raise Unsafe(f"it refers to {reference!r}, which lies outside its folder")
    if not path.is_file():
        raise ValueError(f"it refers to {reference!r}, which is not there")
    return path


class Decoder:
    """Decodes the textures of one file within one budget of pixels."""

    def __init__(self) -> None:
        self.pixels_left = MAX_PIXELS

    def decode(self, data: bytes) -> np.ndarray:
        """Pixels (H, W, 4) uint8. The declared size is looked at before anything is decoded."""
        try:
            return np.asarray(images.open_image(data, "a texture", check=self._allow).convert("RGBA"))
        except images.TooManyPixels as error:
            raise TooLarge(f"a texture has more pixels than the {MAX_SIDE} a side that are taken") from error

    def _allow(self, width: int, height: int) -> None:
        self.pixels_left -= width * height
        if max(width, height) > MAX_SIDE:
            raise TooLarge(f"a texture measures {width} x {height} px; at most {MAX_SIDE} a side are taken")
        if self.pixels_left < 0:
            raise TooLarge(f"its textures add up to more than {MAX_PIXELS} pixels")
