"""Pictures and paths named by a stranger's mesh file, opened safely. Knows nothing of meshes."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

MAX_SIDE = 8192
MAX_PIXELS = 4 * MAX_SIDE**2  # of all textures of one file together: 1 GiB once decoded
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA")


def path_inside(folder: Path, reference: str) -> Path:
    """The file that `reference` names, which must lie in `folder` or below."""
    folder = folder.resolve()
    path = (folder / unquote(reference).replace("\\", "/")).resolve()
    if not path.is_relative_to(folder) or "://" in reference:
        raise ValueError(f"it refers to {reference!r}, which lies outside its folder")
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
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                self._allow(*image.size)
                return np.asarray(image.convert("RGBA"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"a texture is not a readable picture; expected one of {', '.join(FORMATS)}") from error

    def _allow(self, width: int, height: int) -> None:
        self.pixels_left -= width * height
        if max(width, height) > MAX_SIDE:
            raise ValueError(f"a texture measures {width} x {height} px; at most {MAX_SIDE} a side are taken")
        if self.pixels_left < 0:
            raise ValueError(f"its textures add up to more than {MAX_PIXELS} pixels")
