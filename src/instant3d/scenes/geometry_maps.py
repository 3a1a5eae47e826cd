"""Encoding and decoding of depth and normal maps.

All input is untrusted: sizes are compared with that of the image before pixels are decoded, and nothing is unpickled.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from instant3d.scenes import npy
from instant3d.scenes.images import DecodedImage
from instant3d.utils import exif, images, png
from instant3d.utils.errors import LIBRARY_ERRORS

DEPTH_LEVELS = 65535

Array = np.ndarray


@dataclass(frozen=True)
class MapGrid:
    """The pixels of an image that a map must have, and those that are read of it.

    Attributes:
        full: Height and width that the map must have.
        size: Height and width of the result: pixels at the centres of its cells, as means would lie on no surface.
        orientation: EXIF orientation that was applied to the image, 1 to 8; it is applied to a map that has the size of
            the image's stored pixels.
    """

    full: tuple[int, int]
    size: tuple[int, int]
    orientation: int = 1

    @classmethod
    def of(cls, image: DecodedImage) -> MapGrid:
        """The grid of the maps of an image."""
        height, width = image.alpha.shape
        return cls(image.full_size or (height, width), (height, width), image.applied_orientation)

    def is_turned(self, width: int, height: int) -> bool:
        """Whether a map of that size is of the image's stored pixels, and its orientation is to be applied."""
        return self.orientation != 1 and (width, height) == self.full

    def check(self, width: int, height: int, where: str) -> None:
        """Raise a `ValueError`, which names the map `where`, unless its width and height in pixels fit its image."""
        if not self.is_turned(width, height):
            images.check_size((height, width), self.full, where)

    def sample(self, image: Image.Image) -> Image.Image:
        """Return the pixels to read of a map, upright."""
        turned = self.is_turned(*image.size)
        width_height = self.size if turned else self.size[::-1]
        few = image if image.size == width_height else image.resize(width_height, Image.Resampling.NEAREST)
        return exif.oriented(few, self.orientation) if turned else few

    def sample_array(self, values: Array) -> Array:
        """Return those of the values (H, W) of a map, upright, as float64."""
        turned = self.is_turned(values.shape[1], values.shape[0])
        pairs = zip(values.shape, self.size[::-1] if turned else self.size, strict=True)
        few = values[np.ix_(*[((np.arange(size) + 0.5) * full / size).astype(int) for full, size in pairs])]
        if turned:
            few = np.asarray(exif.oriented(Image.fromarray(few.astype(np.float32)), self.orientation))
        return few.astype(np.float64)


def decode_depth(data: bytes, unit: float | None, grid: MapGrid, where: str) -> Array:
    """Decode a depth map from a 16-bit PNG or an .npy of floats.

    Args:
        data: The encoded file.
        unit: Length of one step in world units. By default 0.001 for a PNG (the common convention), 1 for an .npy.
        grid: The size that is expected, and that of the result.
        where: Name of the map for error messages.

    Returns:
        (H, W) float32, 0 where depth is unknown.

    Raises:
        ValueError: It has another format or size.
    """
    if data[:6] == b"\x93NUMPY":
        depth = _numpy(data, grid, where) * (1.0 if unit is None else unit)
    else:
        header = images.header(data, where)
        if header.mode not in ("I;16", "I;16B", "I;16L", "I"):
            raise ValueError(
                f"{where} is a depth map in mode {header.mode}; expected a 16-bit grey PNG or an .npy of floats"
            )
        grid.check(*header.size, where)
        levels = np.asarray(grid.sample(images.open_raw(data, where)))
        depth = levels.astype(np.float64) * (1e-3 if unit is None else unit)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and counts as unknown
        depth = depth.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def encode_depth(depth: Array, unit: float) -> bytes:
    """Encode depth (H, W) as a 16-bit PNG in steps of `unit`; 0 stays 0, and other values do not become 0."""
    surface = depth > 0
    levels = np.zeros(depth.shape, np.uint16)
    levels[surface] = np.clip(np.round(depth[surface].astype(np.float64) / unit), 1, DEPTH_LEVELS)
    return png.encode(levels)


def decode_normals(data: bytes, grid: MapGrid, where: str) -> Array:
    """Decode an 8-bit PNG of normals, in which 128 is zero.

    Args:
        data: The encoded file.
        grid: The size that is expected, and that of the result.
        where: Name of the map for error messages.

    Returns:
        Unit vectors (H, W, 3) float32; 0 where the PNG is grey (128, 128, 128).

    Raises:
        ValueError: It has another format or size.
    """
    grid.check(*images.header(data, where).size, where)
    few = grid.sample(images.open_raw(data, where))
    vectors = (np.asarray(images.to_color(few, where).convert("RGB")).astype(np.float32) - 128) / 127
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 0.5, vectors / np.maximum(length, 1e-6), 0).astype(np.float32)


def decode_levels(data: bytes, size: tuple[int, int], where: str) -> Array:
    """Decode the 8-bit levels of a map as stored.

    Args:
        data: The encoded file.
        size: Expected height and width.
        where: Name of the map for error messages.

    Returns:
        uint8, (H, W, 1) if the map is grey, else (H, W, 3); alpha is dropped.
    """
    images.check_size(images.header(data, where).size[::-1], size, where)
    image = images.to_uint8(images.open_raw(data, where))
    grey = image.mode in ("1", "L", "LA")
    levels = np.asarray(images.convert(image, "L" if grey else "RGB", where))
    return levels.reshape(*levels.shape[:2], -1)


def encode_normals(normals: Array) -> bytes:
    """Encode vectors (H, W, 3) in [-1, 1] as an 8-bit PNG."""
    return png.encode(np.round(np.clip(normals, -1, 1) * 127 + 128).astype(np.uint8))


def _numpy(data: bytes, grid: MapGrid, where: str) -> Array:
    """Read an .npy array as (H, W) float64 after checking its header; object arrays (pickles) are refused."""
    try:
        stream = io.BytesIO(data)
        shape, fortran, dtype = npy.read_header(stream)
        fits = shape[:2] == grid.full or (len(shape) > 1 and grid.is_turned(shape[1], shape[0]))
        if dtype.kind != "f" or not fits or shape[2:] not in ((), (1,)):
            raise ValueError(f"holds {dtype} of shape {shape}, but floats of shape {grid.full} were expected")
        values = np.frombuffer(data, dtype, shape[0] * shape[1], stream.tell())
        return grid.sample_array(values.reshape(shape[:2], order="F" if fortran else "C"))
    except LIBRARY_ERRORS as error:
        raise ValueError(f"{where} is not a usable depth map: {error}; write it again") from error
