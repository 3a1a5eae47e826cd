"""Objects in front of a white background: their opacity and their colours without the white."""

from __future__ import annotations

import numpy as np

NEAR_WHITE = 245  # of 255, in all three channels: white after JPEG compression
EDGE = 2.3  # pixels: width of the band at the outline in which colours are mixed with white
REACH = 8  # pixels: search radius for the unmixed colour of an edge pixel
MIXED = 0.12  # of 1, in each channel: tolerance for recognising a mixture

Array = np.ndarray


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
