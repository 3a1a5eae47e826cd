"""Triangles in the plane to the pixels that they cover."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

AT_ONCE = 2**20  # pixels of bounding boxes that are tested together


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
    limits = np.array([width, height])
    low = np.clip(np.ceil(corners.min(1) - margin - 0.5), 0, limits).astype(np.int64)
    high = np.clip(np.floor(corners.max(1) + margin - 0.5) + 1, 0, limits).astype(np.int64)
    size = (high - low).clip(min=0)
    parts = [_covered(corners, low, size, some, width, margin) for some in _chunks(size.prod(1))]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
    pixel, face, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return pixel, face, weights


def _chunks(areas: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of triangles whose boxes hold any pixel, about `AT_ONCE` pixels together."""
    some = np.flatnonzero(areas)
    group = np.cumsum(areas[some]) // AT_ONCE
    yield from np.split(some, np.flatnonzero(np.diff(group)) + 1) if len(some) else ()


def _covered(
    corners: np.ndarray, low: np.ndarray, size: np.ndarray, some: np.ndarray, width: int, margin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coverings by triangles `some`."""
    count = size[some].prod(1)
    face = np.repeat(some, count)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    row, column = np.divmod(number, size[face, 0])
    x, y = low[face, 0] + column, low[face, 1] + row
    a, ab, ac = corners[some, 0], corners[some, 1] - corners[some, 0], corners[some, 2] - corners[some, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    inverse = np.divide(1.0, area, out=np.zeros_like(area), where=np.abs(area) > 1e-12)
    slopes = np.stack([ac[:, 1], -ac[:, 0], -ab[:, 1], ab[:, 0]], 1) * inverse[:, None]  # of both coordinates
    reach = (
        margin * np.stack([np.linalg.norm(side, axis=1) for side in (ac - ab, ac, ab)], 1) * np.abs(inverse)[:, None]
    )
    own = np.repeat(np.arange(len(some)), count)
    dx, dy = x + 0.5 - a[own, 0], y + 0.5 - a[own, 1]
    slopes, reach = slopes[own], reach[own]
    v, w = slopes[:, 0] * dx + slopes[:, 1] * dy, slopes[:, 2] * dx + slopes[:, 3] * dy
    weights = np.stack([1 - v - w, v, w], 1)
    inside = (weights >= -reach).all(1) & (inverse[own] != 0)
    return (y * width + x)[inside], face[inside], weights[inside]


def nearest_of(pixel: np.ndarray, rank: np.ndarray, pixels: int) -> np.ndarray:
    """For each of `pixels` pixels, which of its coverings (N,) has the lowest `rank` (N,); -1 where there is none."""
    order = np.argsort(-rank, kind="stable")
    chosen = np.full(pixels, -1, np.int64)
    chosen[pixel[order]] = order  # of several for one pixel, the last stays
    return chosen
