"""Encoding and decoding of scene images, masks, depth and normal maps.

All input is untrusted: sizes are limited before pixels are decoded, and nothing is unpickled.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from instant3d.utils import images
from instant3d.utils.errors import LIBRARY_ERRORS

MOST_LABELS = 16  # a mask with at most so many values may hold labels instead of opacity
NEAR_WHITE = 245  # of 255, in all three channels: white after JPEG compression
EDGE = 2.3  # pixels: width of the band at the outline in which colours are mixed with white
REACH = 8  # pixels: search radius for the unmixed colour of an edge pixel
MIXED = 0.12  # of 1, in each channel: tolerance for recognising a mixture
DEPTH_LEVELS = 65535
COLOURED = 32  # of 255: least difference between channels of a coloured pixel; less may be grey after JPEG compression

Array = np.ndarray


@dataclass(frozen=True)
class DecodedImage:
    """An image with its alpha.

    Attributes:
        rgb: (H, W, 3) uint8.
        alpha: (H, W) uint8.
        alpha_source: Where alpha came from: "alpha", "mask", "white" (background flooded from the border), "rembg", or
            "none" (the whole image counts as object).
        ignored_orientation: EXIF orientation that was not applied, 2 to 8; 1 if there was none to apply.
        full_size: Height and width of the file in pixels, which may be larger than those of `rgb`.
    """

    rgb: Array
    alpha: Array
    alpha_source: str
    full_size: tuple[int, int] | None = None
    ignored_orientation: int = 1


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
    orientation = images.orientation(header)
    upright = images.is_upright_size(header.size, orientation, camera_size)
    size = header.size if upright else header.size[::-1]  # height, width
    pixels = np.asarray(images.open_image(data, where, enough=enough, upright=upright, check=check))
    rgb, own = pixels[..., :3], _own_alpha(pixels[..., 3]) if pixels.shape[-1] == 4 else None
    settled = upright or images.is_raw_size(header.size, orientation, camera_size)
    ignored = 1 if settled else orientation
    if mask is not None:
        cover = _mask(mask, size, rgb.shape[:2], where, orientation if upright else 1)
        return DecodedImage(rgb, cover if own is None else np.minimum(own, cover), "mask", size, ignored)
    if own is not None:
        return DecodedImage(rgb, own, "alpha", size, ignored)
    cut = opacity_mask(rgb.astype(np.float32) / 255)
    if cut is None:
        return DecodedImage(rgb, np.full(rgb.shape[:2], 255, np.uint8), "none", size, ignored)
    return DecodedImage(_levels(cut[0]), _levels(cut[1]), "white", size, ignored)


def opacity_mask(rgb: Array) -> tuple[Array, Array] | None:
    """Cut an object out of a white background.

    Near-white pixels that are connected to the border through near-white pixels are background. White parts inside the
    object stay. Object pixels at the edge whose colour is a mixture of white with that of the nearest pixel behind the
    edge become as transparent as their share of white. Compositing the result over white restores the image.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].

    Returns:
        Straight colours (H, W, 3) and alpha (H, W); None if less than half of the border is near-white background.
    """
    outside = _flood(rgb)
    if outside is None:
        return None
    alpha = np.where(outside, 0, _opacity(rgb, outside)).astype(np.float32)
    straight = 1 - (1 - rgb) / np.maximum(alpha, 1e-6)[..., None]
    return np.where(outside[..., None], rgb, straight.clip(0, 1)).astype(np.float32), alpha


def encode(rgb: Array, alpha: Array) -> bytes:
    """Encode uint8 colours (H, W, 3) and alpha (H, W) as an RGBA PNG."""
    return _png(Image.fromarray(np.ascontiguousarray(np.dstack([rgb, alpha]))))


def decode_depth(data: bytes, unit: float | None, size: tuple[int, int], where: str) -> Array:
    """Decode a depth map from a 16-bit PNG or an .npy of floats.

    Args:
        data: The encoded file.
        unit: Length of one step in world units. By default 0.001 for a PNG (the common convention), 1 for an .npy.
        size: Expected height and width.
        where: Name of the map for error messages.

    Returns:
        (H, W) float32, 0 where depth is unknown.

    Raises:
        ValueError: It has another format or size.
    """
    if data[:6] == b"\x93NUMPY":
        depth = _numpy(data, size, where) * (1.0 if unit is None else unit)
    else:
        image = images.open_raw(data, where)
        if image.mode not in ("I;16", "I;16B", "I;16L", "I"):
            raise ValueError(
                f"{where} is a depth map in mode {image.mode}; expected a 16-bit grey PNG or an .npy of floats"
            )
        depth = np.asarray(image).astype(np.float64) * (1e-3 if unit is None else unit)
    _same_size(depth.shape[:2], size, where)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and counts as unknown
        depth = depth.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def encode_depth(depth: Array, unit: float) -> bytes:
    """Encode depth (H, W) as a 16-bit PNG in steps of `unit`; 0 stays 0, and other values do not become 0."""
    steps = np.clip(np.round(depth.astype(np.float64) / unit), 1, DEPTH_LEVELS)
    return _png(Image.fromarray(np.where(depth > 0, steps, 0).astype(np.uint16)))


def decode_normals(data: bytes, size: tuple[int, int], where: str) -> Array:
    """Decode an 8-bit PNG of normals, in which 128 is zero.

    Args:
        data: The encoded file.
        size: Expected height and width.
        where: Name of the map for error messages.

    Returns:
        Unit vectors (H, W, 3) float32; 0 where the PNG is grey (128, 128, 128).

    Raises:
        ValueError: It has another format or size.
    """
    image = np.asarray(images.open_image(data, where).convert("RGB")).astype(np.float32)
    _same_size(image.shape[:2], size, where)
    vectors = (image - 128) / 127
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
    image = images.to_uint8(images.open_raw(data, where))
    grey = image.mode in ("1", "L", "LA")
    levels = np.asarray(image.convert("L" if grey else "RGB"))
    _same_size(levels.shape[:2], size, where)
    return levels.reshape(*levels.shape[:2], -1)


def encode_normals(normals: Array) -> bytes:
    """Encode vectors (H, W, 3) in [-1, 1] as an 8-bit PNG."""
    return _png(Image.fromarray(np.round(np.clip(normals, -1, 1) * 127 + 128).astype(np.uint8)))


def _own_alpha(alpha: Array) -> Array:
    """Return opacity (H, W) uint8; alpha that was written as 0 and 1 becomes 0 and 255."""
    return alpha * 255 if alpha.max() == 1 else alpha


def _mask(data: bytes, full: tuple[int, int], size: tuple[int, int], where: str, orientation: int) -> Array:
    """Decode a mask of height and width `full` to opacity (H, W) uint8 of height and width `size`.

    One of the stored pixels of an image to which an EXIF orientation was applied is turned with it.
    """
    where = f"the mask of {where}"
    stored = images.header(data, where, lambda *_: None).size
    turned = orientation != 1 and stored == full  # width and height: a mask of the stored pixels of an upright image
    _same_size(stored if turned else stored[::-1], full, where)  # before anything is decoded
    image = images.open_raw(data, where, check=lambda *_: None)
    if turned:
        image = images.oriented(image, orientation)
    opacity = _opacity_of(image)
    if full == size:
        return opacity
    return np.asarray(Image.fromarray(opacity).resize(size[::-1], Image.Resampling.BOX))


def _opacity_of(mask: Image.Image) -> Array:
    """Return opacity (H, W) uint8: labels other than 0 are opaque, other masks are as opaque as they are bright."""
    if mask.mode == "P" and "transparency" not in mask.info and not _is_grey(mask.convert("RGB")):
        return np.where(np.asarray(mask) > 0, np.uint8(255), np.uint8(0))  # a palette of labels
    levels, most = _brightness(mask)
    values = np.unique(levels)
    two = len(values) <= 2 and values[0] == 0
    if two or (len(values) <= MOST_LABELS and values[-1] < most / 2):  # read as opacity, nothing would count as object
        return np.where(levels > 0, np.uint8(255), np.uint8(0))
    return levels if most == 255 else np.asarray(images.to_uint8(mask).convert("L"))


def _brightness(mask: Image.Image) -> tuple[Array, int]:
    """Return the values (H, W) of a mask and their maximum: its transparency if it has some, else its brightness."""
    if mask.mode.startswith("I"):
        return np.asarray(mask), 65535
    if mask.has_transparency_data:
        alpha = np.asarray(images.convert(mask, "RGBA", "a mask").getchannel("A"))
        if alpha.min() < 255:
            return alpha, 255
    if mask.mode in ("1", "L", "LA"):
        return np.asarray(mask.convert("L")), 255
    colours = mask.convert("RGB")
    if _is_grey(colours):
        return np.asarray(colours.convert("L")), 255
    return np.asarray(colours).max(axis=-1), 255  # a colour is as bright as its strongest channel


def _is_grey(image: Image.Image) -> bool:
    """Whether no pixel of an RGB image is clearly coloured."""
    pixels = np.asarray(image)
    return bool((pixels.max(axis=-1) - pixels.min(axis=-1)).max() < COLOURED)


def _flood(rgb: Array) -> Array | None:
    """Return the near-white background, (H, W) bool; None if less than half of the border is near-white."""
    from scipy import ndimage

    white = rgb.min(axis=-1) >= (NEAR_WHITE - 0.5) / 255
    edge = np.zeros_like(white)
    edge[[0, -1], :] = edge[:, [0, -1]] = True
    if white[edge].mean() < 0.5:
        return None
    regions, _ = ndimage.label(white)
    return np.isin(regions, np.unique(regions[edge & white]))


def _opacity(rgb: Array, outside: Array) -> Array:
    """Return the opacity (H, W) of the object: 1 except at its edge, where colours are mixed with white."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(~outside)
    edge = ~outside & (depth <= EDGE)
    opacity = np.ones(outside.shape, np.float32)
    if not (depth > EDGE).any():  # all is as thin as an edge
        return opacity
    away, nearest = ndimage.distance_transform_edt(depth <= EDGE, return_indices=True)
    edge &= away <= REACH
    color, pure = 1 - rgb[edge], 1 - rgb[nearest[0], nearest[1]][edge]  # as differences from white
    share = ((color * pure).sum(-1) / np.maximum((pure**2).sum(-1), 1e-3)).clip(0, 1)
    mixed = np.abs(color - share[:, None] * pure).max(-1) < MIXED
    opacity[edge] = np.where(mixed, np.maximum(share, color.max(-1)), 1)  # no colour is darker than black
    return opacity


def _numpy(data: bytes, size: tuple[int, int], where: str) -> Array:
    """Read an .npy array after checking its header; object arrays (pickles) are refused."""
    try:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if dtype.kind != "f" or shape not in (size, (*size, 1)):
            raise ValueError(f"holds {dtype} of shape {shape}, but floats of shape {size} were expected")
        return np.load(io.BytesIO(data), allow_pickle=False).reshape(size).astype(np.float64)
    except LIBRARY_ERRORS as error:
        raise ValueError(f"{where} is not a usable depth map: {error}; write it again") from error


def _same_size(got: tuple[int, ...], size: tuple[int, int], where: str) -> None:
    if tuple(got) != tuple(size):
        raise ValueError(f"{where} is {got[1]} x {got[0]} pixels, but its image is {size[1]} x {size[0]}")


def _levels(values: Array) -> Array:
    return np.round(values * 255).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=2)
    return stream.getvalue()
