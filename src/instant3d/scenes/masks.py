"""Masks of scene images: opacity, two values, or labels of which 0 is background."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from instant3d.utils import exif, images

MOST_LABELS = 16  # a mask with at most so many values may hold labels instead of opacity
COLOURED = 32  # of 255: least difference between channels of a coloured pixel; less may be grey after JPEG compression

Array = np.ndarray


Levels = Callable[[Image.Image], Array]  # values (H, W) of an image or of a strip of it


def decode_mask(data: bytes, full: tuple[int, int], size: tuple[int, int], where: str, orientation: int = 1) -> Array:
    """Decode a mask to opacity.

    Args:
        data: The encoded file.
        full: Height and width of the image that the mask is of.
        size: Height and width of the result, to which the mask is reduced by area averaging.
        where: Name of the mask for error messages.
        orientation: EXIF orientation that was applied to the image, 1 to 8; it is applied to a mask that has the size
            of the image's stored pixels.

    Returns:
        Opacity (H, W) uint8.

    Raises:
        ValueError: The mask cannot be read, or has another size.
    """
    stored = images.header(data, where, lambda *_: None).size
    turned = orientation != 1 and stored == full  # width and height: a mask of the stored pixels of an upright image
    images.check_size(stored if turned else stored[::-1], full, where)  # before anything is decoded
    image = images.open_raw(data, where, check=lambda *_: None)
    width_height = size if turned else size[::-1]
    opacity = images.reduced(image, width_height, _opacity_reader(image))
    return np.asarray(exif.oriented(opacity, orientation) if turned else opacity)


def _opacity_reader(mask: Image.Image) -> images.Convert:
    """Return how strips of a mask become opacity: labels other than 0 are opaque, else it is as bright as opaque."""
    if mask.mode == "P" and "transparency" not in mask.info and not _is_grey(mask):
        return lambda strip: _two_valued(np.asarray(strip))  # a palette of labels
    levels, most = _levels_reader(mask)
    values = np.unique(np.concatenate([np.unique(levels(strip)) for strip in images.strips(mask)]))
    two = len(values) <= 2 and values[0] == 0
    if two or (len(values) <= MOST_LABELS and values[-1] < most / 2):  # read as opacity, nothing would count as object
        return lambda strip: _two_valued(levels(strip))
    if most == 255:
        return lambda strip: Image.fromarray(levels(strip))
    return lambda strip: images.to_uint8(strip).convert("L")


def _levels_reader(mask: Image.Image) -> tuple[Levels, int]:
    """Return how the values of a mask are read, and their maximum: its transparency if it has some, else brightness."""
    if mask.mode.startswith("I"):
        return np.asarray, 65535
    if mask.has_transparency_data and any(_transparency(strip).min() < 255 for strip in images.strips(mask)):
        return _transparency, 255
    if mask.mode in ("1", "L", "LA") or _is_grey(mask):
        return _grey, 255
    return _strongest_channel, 255


def _transparency(mask: Image.Image) -> Array:
    return np.asarray(images.convert(mask, "RGBA", "a mask").getchannel("A"))


def _grey(mask: Image.Image) -> Array:
    return np.asarray((mask if mask.mode in ("1", "L", "LA") else images.convert(mask, "RGB", "a mask")).convert("L"))


def _strongest_channel(mask: Image.Image) -> Array:
    return np.asarray(images.convert(mask, "RGB", "a mask")).max(axis=-1)


def _two_valued(labels: Array) -> Image.Image:
    return Image.fromarray(np.where(labels > 0, np.uint8(255), np.uint8(0)))


def _is_grey(mask: Image.Image) -> bool:
    """Whether no pixel is clearly coloured."""
    return all(_chroma(np.asarray(images.convert(strip, "RGB", "a mask"))) < COLOURED for strip in images.strips(mask))


def _chroma(pixels: Array) -> int:
    return int((pixels.max(axis=-1) - pixels.min(axis=-1)).max())
