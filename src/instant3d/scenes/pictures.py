"""Encoded pictures, depth and normal maps to arrays and back. Knows nothing of cameras or folders.

Everything read is untrusted: sizes are bounded before pixels are decoded, and nothing is unpickled.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2**26  # 8192 x 8192, of one picture
NEAR_WHITE = 245  # of 255, in all three channels: white that JPEG has touched
EDGE = 2.3  # pixels: how far white is mixed into an object at its outline
REACH = 8  # pixels: how far from the edge the colour that is mixed there may be sought
MIXED = 0.12  # of 1, in each channel: how far a colour may be from the mixture that it is taken for
DEPTH_LEVELS = 65535

Array = np.ndarray


@dataclass(frozen=True)
class Picture:
    """`rgb` (H, W, 3) and `alpha` (H, W) in uint8; `matte` tells where alpha came from."""

    rgb: Array
    alpha: Array
    matte: str
    """"alpha", "mask", "white" (flooded from the border), "rembg", or "none" (all of it counts as object)."""


def decode(data: bytes, mask: bytes | None, where: str) -> Picture:
    """A picture with its alpha: its own, times `mask` if there is one; else cut from a white background.

    Without either, near-white pixels that touch the border through other near-white pixels are background, if such
    pixels make up at least half of the border. White parts inside the object stay. Otherwise alpha is 1 everywhere.
    """
    image = opened(data, where)
    transparent = "A" in image.getbands() or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    rgb = pixels[..., :3]
    if mask is not None:
        cover = _mask(mask, rgb.shape[:2], where)
        own = pixels[..., 3] if transparent else np.full_like(cover, 255)
        return Picture(rgb, np.minimum(own, cover), "mask")
    if transparent:
        return Picture(rgb, pixels[..., 3], "alpha")
    cut = matte(rgb.astype(np.float32) / 255)
    if cut is None:
        return Picture(rgb, np.full(rgb.shape[:2], 255, np.uint8), "none")
    return Picture(_levels(cut[0]), _levels(cut[1]), "white")


def matte(rgb: Array) -> tuple[Array, Array] | None:
    """Straight colours (H, W, 3) and alpha (H, W) of an object on white, from float32 rgb (H, W, 3) in [0, 1].

    Near-white pixels that touch the border through other near-white pixels are background; None if such pixels make
    up less than half of the border. White parts inside the object stay. Object pixels at the edge are taken for
    mixtures of white with the colour of the nearest pixel behind the edge, where their own colour is such a mixture,
    and are as opaque as its share. Put back over white, the cut gives the picture that it came from.
    """
    outside = _flood(rgb)
    if outside is None:
        return None
    alpha = np.where(outside, 0, _opacity(rgb, outside)).astype(np.float32)
    straight = 1 - (1 - rgb) / np.maximum(alpha, 1e-6)[..., None]
    return np.where(outside[..., None], rgb, straight.clip(0, 1)).astype(np.float32), alpha


def encode(rgb: Array, alpha: Array) -> bytes:
    """An RGBA PNG from uint8 (H, W, 3) and (H, W)."""
    return _png(Image.fromarray(np.ascontiguousarray(np.dstack([rgb, alpha]))))


def decode_depth(data: bytes, unit: float | None, size: tuple[int, int], where: str) -> Array:
    """Depth (H, W) in float32 from a 16-bit PNG or an .npy of floats; `unit` is the length of one step.

    Without a unit a PNG counts thousandths (the ecosystem's default) and an .npy world units. 0 where unknown.
    """
    if data[:6] == b"\x93NUMPY":
        depth = _numpy(data, size, where) * (1.0 if unit is None else unit)
    else:
        image = opened(data, where, steps=True)
        if image.mode not in ("I;16", "I;16B", "I;16L", "I"):
            raise ValueError(
                f"{where} is a depth map in mode {image.mode}; expected a 16-bit grey PNG or an .npy of floats"
            )
        depth = np.asarray(image).astype(np.float64) * (1e-3 if unit is None else unit)
    _same_size(depth.shape[:2], size, where)
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)


def encode_depth(depth: Array, unit: float) -> bytes:
    """A 16-bit PNG of depth (H, W) in steps of `unit`; 0 stays 0, and what is not 0 does not become 0."""
    steps = np.clip(np.round(depth.astype(np.float64) / unit), 1, DEPTH_LEVELS)
    return _png(Image.fromarray(np.where(depth > 0, steps, 0).astype(np.uint16)))


def decode_normals(data: bytes, size: tuple[int, int], where: str) -> Array:
    """Unit vectors (H, W, 3) in float32 from an 8-bit PNG, 128 being zero; 0 where the PNG is grey (128, 128, 128)."""
    image = np.asarray(opened(data, where).convert("RGB")).astype(np.float32)
    _same_size(image.shape[:2], size, where)
    vectors = (image - 128) / 127
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 0.5, vectors / np.maximum(length, 1e-6), 0).astype(np.float32)


def decode_levels(data: bytes, size: tuple[int, int], where: str) -> Array:
    """The 8-bit levels of a map as stored, uint8: (H, W, 1) if it is grey, else (H, W, 3); alpha is left out."""
    image = opened(data, where)
    grey = image.mode in ("1", "L", "LA")
    levels = np.asarray(image.convert("L" if grey else "RGB"))
    _same_size(levels.shape[:2], size, where)
    return levels.reshape(*levels.shape[:2], -1)


def encode_normals(normals: Array) -> bytes:
    """An 8-bit PNG of vectors (H, W, 3) in [-1, 1]."""
    return _png(Image.fromarray(np.round(np.clip(normals, -1, 1) * 127 + 128).astype(np.uint8)))


def opened(data: bytes, where: str, *, steps: bool = False, formats: tuple[str, ...] | None = None) -> Image.Image:
    """A fully decoded picture; `steps` allows 16-bit grey, which other readers of a picture would clip.

    formats  Pillow's names of those that are taken; all by default
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own word on large pictures; the bound below is ours
            image = Image.open(io.BytesIO(data), formats=formats)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{where} has more than {MAX_PIXELS} pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        known = ", ".join(formats) if formats else "any known format, such as PNG, JPEG or WEBP"
        raise ValueError(f"{where} is not a readable picture: it is not {known}; export it again") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{where} is not a readable picture ({error or 'no detail'}); export it again") from error
    if not steps and image.mode.startswith(("I", "F")):
        raise ValueError(f"{where} is a grey picture with more than 8 bits; save it as an ordinary 8-bit PNG")
    return image


def _mask(data: bytes, size: tuple[int, int], where: str) -> Array:
    image = opened(data, f"the mask of {where}")
    if "A" in image.getbands() and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        mask = np.asarray(image.convert("RGBA").getchannel("A"))
    else:
        mask = np.asarray(image.convert("L"))
    _same_size(mask.shape, size, f"the mask of {where}")
    return mask


def _flood(rgb: Array) -> Array | None:
    """Where near-white reaches the border, (H, W) bool; None if less than half of the border is near-white."""
    from scipy import ndimage

    white = rgb.min(axis=-1) >= (NEAR_WHITE - 0.5) / 255
    edge = np.zeros_like(white)
    edge[[0, -1], :] = edge[:, [0, -1]] = True
    if white[edge].mean() < 0.5:
        return None
    regions, _ = ndimage.label(white)
    return np.isin(regions, np.unique(regions[edge & white]))


def _opacity(rgb: Array, outside: Array) -> Array:
    """How opaque each pixel (H, W) of the object is: 1 but at its edge, where colours are mixed with white."""
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
    """An .npy array, its header checked before any memory is taken; object arrays (pickles) are refused."""
    try:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if dtype.kind != "f" or shape not in (size, (*size, 1)):
            raise ValueError(f"holds {dtype} of shape {shape}, but floats of shape {size} were expected")
        return np.load(io.BytesIO(data), allow_pickle=False).reshape(size).astype(np.float64)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{where} is not a usable depth map: {error}") from error


def _same_size(got: tuple[int, ...], size: tuple[int, int], where: str) -> None:
    if tuple(got) != tuple(size):
        raise ValueError(f"{where} is {got[1]} x {got[0]} pixels, but its picture is {size[1]} x {size[0]}")


def _levels(values: Array) -> Array:
    return np.round(values * 255).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
