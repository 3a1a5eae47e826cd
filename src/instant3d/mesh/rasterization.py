"""Triangles in the plane to the pixels that they cover."""

from __future__ import annotations

import numpy as np

ROUNDING = 1e-9  # pixels by which a pixel's centre may lie outside a triangle that it is on the edge of
SLIVER = 1e-12  # square pixels; triangles of a smaller area cover nothing


def rasterize(
    corners: np.ndarray, width: int, height: int, margin: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pixels whose centres lie in triangles.

    Args:
        corners: (F, 3, 2), x to the right and y down in pixels; pixel (0, 0) spans [0, 1] x [0, 1]. Either winding.
        width: Of the image in pixels.
        height: Of the image in pixels.
        margin: Distance in pixels from its edges at which a triangle still covers a pixel.

    Returns:
        For each covering of a pixel by a triangle: the pixel's number, row-major (N,); the triangle's (N,); the
        barycentric coordinates (N, 3) of the pixel's centre, some negative where it lies in the margin. A pixel that
        several triangles cover occurs several times.
    """
    corners = np.asarray(corners, np.float64)
    low, high = corners.min(1) - margin, corners.max(1) + margin
    low, high = _within(low, high, np.array([width, height]))
    slope, offset, reach = _barycentric(corners, margin)
    tall = np.where(np.isfinite(offset[:, 0]), (high - low)[:, 1].clip(min=0), 0)
    face, y = _expanded(low[:, 1], tall)
    at_row = slope[face, :, 1] * (y + 0.5)[:, None] + offset[face]  # the coordinates (R, 3) at x = 0
    start, end = _spans(slope[face, :, 0], at_row + reach[face], low[face, 0], high[face, 0])
    row, x = _expanded(start, end - start)
    face = face[row]
    v, w = (at_row[row, k] + slope[face, k, 0] * (x + 0.5) for k in (1, 2))
    return y[row] * width + x, face, np.stack([1 - v - w, v, w], 1)


def _within(low: np.ndarray, high: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first pixels and those after the last whose centres lie in boxes from `low` to `high` (F, 2)."""
    first, after = np.ceil(low - 0.5), np.floor(high - 0.5) + 1
    return np.clip(first, 0, limits).astype(np.int64), np.clip(after, 0, limits).astype(np.int64)


def _barycentric(corners: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Barycentric coordinates as functions of the place: slopes (F, 3, 2), offsets (F, 3); how much `margin` is (F, 3).

    Offsets of triangles without area are not finite.
    """
    opposite = np.roll(corners, 1, 1) - np.roll(corners, -1, 1)  # the side across from each corner
    double_area = opposite[:, 0, 0] * opposite[:, 1, 1] - opposite[:, 0, 1] * opposite[:, 1, 0]
    scale = np.where(np.abs(double_area) > SLIVER, double_area, np.nan)[:, None]
    slope = np.stack([-opposite[..., 1], opposite[..., 0]], -1) / scale[..., None]
    offset = -(slope * np.roll(corners, -1, 1)).sum(-1)
    return slope, offset, margin * np.linalg.norm(slope, axis=-1)


def _spans(slope: np.ndarray, at_zero: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First pixel and pixel after the last (R,) in which slope * x + at_zero (R, 3) are all at least 0."""
    start, end = low.astype(np.float64), high.astype(np.float64)
    for k in range(3):
        rises, falls = slope[:, k] > 0, slope[:, k] < 0
        edge = -at_zero[:, k] / np.where(rises | falls, slope[:, k], 1.0) - 0.5
        start = np.where(rises, np.maximum(start, np.ceil(edge - ROUNDING)), start)
        end = np.where(falls, np.minimum(end, np.floor(edge + ROUNDING) + 1), end)
        end = np.where(~(rises | falls) & (at_zero[:, k] < -ROUNDING), start, end)
    return start.astype(np.int64), np.maximum(end, start).astype(np.int64)


def _expanded(start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `count` (K,) numbers from `start` (K,) on: which k it belongs to, and the number."""
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(count.sum()) + np.repeat(start - (np.cumsum(count) - count), count)


def interpolate(attribute: np.ndarray, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Interpolate a vertex attribute on triangles.

    Args:
        attribute: (V, C).
        faces: The triangle (N, 3) of each place.
        weights: Barycentric coordinates (N, 3) of each place.

    Returns:
        (N, C), in the attribute's precision.
    """
    weights = weights.astype(attribute.dtype)
    first, second, third = (attribute.take(faces[:, k], 0) * weights[:, k, None] for k in range(3))
    return first + second + third  # many times faster than a sum along an axis of three


def smallest(weights: np.ndarray) -> np.ndarray:
    """Return the smallest of the three coordinates (N, 3) of each place: (N,)."""
    return np.minimum(np.minimum(weights[:, 0], weights[:, 1]), weights[:, 2])


def nearest_of(pixel: np.ndarray, rank: np.ndarray, pixels: int) -> np.ndarray:
    """Choose one of the coverings of each pixel, the one of lowest rank.

    Args:
        pixel: Number of the pixel of each covering (N,), as `rasterize` returns it.
        rank: Rank of each covering (N,); of equal ranks the last is chosen.
        pixels: Number of pixels P.

    Returns:
        Index of the chosen covering (P,); -1 where there is none.
    """
    lowest = np.full(pixels, np.inf)
    np.minimum.at(lowest, pixel, rank)
    best = np.flatnonzero(rank == lowest[pixel])
    chosen = np.full(pixels, -1, np.int64)
    chosen[pixel[best]] = best  # of equal ones, the last stays
    return chosen
