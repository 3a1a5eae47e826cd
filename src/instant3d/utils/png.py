"""Encoding of PNG files where speed counts more than the last percent of size, such as the views of many objects.

Every row is stored as its difference to the row above (filter "up" of the PNG standard, section 9.2), by NumPy for all
rows at once. ISA-L deflates that, where the package `isal` is installed, and zlib otherwise. Pillow tries five filters
for every row, which takes most of its time.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_TYPES = {1: 0, 3: 2, 4: 6}  # by channels: grey, RGB, RGBA
UP = 2
LEVEL = 1


def encode(pixels: np.ndarray) -> bytes:
    """Encode pixels (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16 as a PNG file.

    Raises:
        ValueError: They have another shape or type, or there are none.
    """
    channels = {2: 1, 3: pixels.shape[-1]}.get(pixels.ndim, 0) if pixels.size else 0
    if pixels.dtype not in (np.uint8, np.uint16) or channels not in COLOR_TYPES:
        raise ValueError(
            f"a PNG is written from uint8 or uint16 of shape (H, W), (H, W, 3) or (H, W, 4), "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, COLOR_TYPES[channels], 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", _compressor()(_filtered(pixels), LEVEL)), (b"IEND", b"")
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _filtered(pixels: np.ndarray) -> np.ndarray:
    """Rows (H, 1 + bytes) uint8: the filter's number, then differences to the row above; samples are big-endian."""
    stored = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(">"))
    rows = stored.view(np.uint8).reshape(len(pixels), -1)
    filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


@functools.cache
def _compressor() -> Callable[..., bytes]:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compress
    return isal_zlib.compress
