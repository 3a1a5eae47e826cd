"""Encoding and decoding of scene images with their alpha.

All input is untrusted: sizes are limited before pixels are decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instant3d.scenes.masks import decode_mask
from instant3d.scenes.white_background import opacity_mask
from instant3d.utils import exif, images, png

Array = np.ndarray


@dataclass(frozen=True)
class DecodedImage:
    """An image with its alpha.

    Attributes:
        rgb: (H, W, 3) uint8.
        alpha: (H, W) uint8.
        alpha_source: Where alpha came from: "alpha", "mask", "white" (background flooded from the border), "rembg", or
            "none" (the whole image counts as object).
        full_size: Height and width of the file in pixels, which may be larger than those of `rgb`.
        ignored_orientation: EXIF orientation that was not applied, 2 to 8; 1 if there was none to apply.
        applied_orientation: EXIF orientation that was applied, 2 to 8; 1 if none was.
    """

    rgb: Array
    alpha: Array
    alpha_source: str
    full_size: tuple[int, int] | None = None
    ignored_orientation: int = 1
    applied_orientation: int = 1


def decode(
    data: bytes,
    mask: bytes | None,
    where: str,
    enough: int | None = None,
    camera_size: tuple[float, float] | None = None,
    check: images.Check | None = None,
) -> DecodedImage:
    """Decode an image with its alpha: its own, times `mask` if there is one; otherwise cut from a white background.

    Without either, near-white pixels that are connected to the border through near-white pixels are background, if such
    pixels make up at least half of the border. White parts inside the object stay. Otherwise alpha is 1 everywhere.

    Args:
        data: An encoded image.
        mask: An encoded image of the same size: the opacity of each pixel, or two values or labels, of which 0 is
            background.
        where: Name of the image for error messages.
        enough: Side length in pixels that suffices; much larger images are reduced, see `utils.images.open_image`.
        camera_size: Width and height for which the camera was given. If they fit the image only after its EXIF
            orientation was applied, it is applied; otherwise cameras are of the pixels as stored, as COLMAP's are.
        check: Refuses a size before anything is decoded, see `utils.images.open_image`.

    Raises:
        ValueError: The image or the mask cannot be read, or the mask has another size.
    """
    header = images.header(data, where, check)
    orientation = exif.orientation(header)
    upright = exif.is_upright_size(header.size, orientation, camera_size)
    size = header.size if upright else header.size[::-1]  # height, width
    pixels = np.asarray(images.open_image(data, where, enough=enough, upright=upright, check=check))
    rgb, own = pixels[..., :3], _own_alpha(pixels[..., 3]) if pixels.shape[-1] == 4 else None
    settled = upright or exif.is_raw_size(header.size, orientation, camera_size)
    orientations = (1 if settled else orientation, orientation if upright else 1)
    if mask is not None:
        cover = decode_mask(mask, size, rgb.shape[:2], f"the mask of {where}", orientations[1])
        return DecodedImage(rgb, cover if own is None else np.minimum(own, cover), "mask", size, *orientations)
    if own is not None:
        return DecodedImage(rgb, own, "alpha", size, *orientations)
    cut = opacity_mask(rgb.astype(np.float32) / 255)
    if cut is None:
        return DecodedImage(rgb, np.full(rgb.shape[:2], 255, np.uint8), "none", size, *orientations)
    return DecodedImage(_levels(cut[0]), _levels(cut[1]), "white", size, *orientations)


def encode(rgb: Array, alpha: Array) -> bytes:
    """Encode uint8 colours (H, W, 3) and alpha (H, W) as an RGBA PNG."""
    return png.encode(np.dstack([rgb, alpha]))


def _own_alpha(alpha: Array) -> Array:
    """Return opacity (H, W) uint8; alpha that was written as 0 and 1 becomes 0 and 255."""
    return alpha * 255 if alpha.max() == 1 else alpha


def _levels(values: Array) -> Array:
    return np.round(values * 255).astype(np.uint8)
