"""Triangulation of polygons: fans for convex ones, ear clipping for concave ones."""

from __future__ import annotations

import numpy as np

from instant3d.mesh.untrusted import TooLarge

MAX_TESTS = 250_000  # of corners of concave polygons, some ten seconds
FLAT = 1e-9  # a reflex turn below this share of the polygon's area counts as straight

Triangle = tuple[int, int, int]


class Triangulator:
    """Triangulates the polygons of one file, with a limit on the total work."""

    def __init__(self) -> None:
        self.tests_left = MAX_TESTS

    def triangles(self, polygons: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Triangulate polygons with the same number of corners.

        Args:
            polygons: Vertex indices of each polygon's corners, (P, N).
            places: Vertex positions, (V, 3).

        Returns:
            (T, 4): polygon and three corner numbers within it for each triangle; N - 2 triangles per polygon.

        Raises:
            TooLarge: Clipping the concave polygons would take too long.
        """
        count, corners = polygons.shape
        fan = np.array([(0, k, k + 1) for k in range(1, corners - 1)])
        found = np.repeat(fan[None], count, axis=0)
        if corners > 3:
            for k in np.flatnonzero(concave(places[polygons])):
                found[k] = self._ears(places[polygons[k]])
        number = np.repeat(np.arange(count), corners - 2)
        return np.column_stack([number, found.reshape(-1, 3)])

    def _ears(self, ring: np.ndarray) -> list[Triangle]:
        """Return the triangles of one simple polygon (N, 3) by ear clipping."""
        flat, left, found = _flattened(ring), list(range(len(ring))), list[Triangle]()
        while len(left) > 3:
            ears = (k for k in range(len(left)) if self._is_ear(flat, left, k))
            at = next(ears, 0)  # a self-intersecting polygon may have none
            found.append((left[at - 1], left[at], left[(at + 1) % len(left)]))
            del left[at]
        return [*found, (left[0], left[1], left[2])]

    def _is_ear(self, flat: np.ndarray, left: list[int], k: int) -> bool:
        """Whether a corner is convex and its triangle contains no other corner."""
        self.tests_left -= 1
        if self.tests_left < 0:
            raise TooLarge("its concave faces have too many corners; triangulate it first")
        a, b, c = (flat[left[j % len(left)]] for j in (k - 1, k, k + 1))
        if _turn(a, b, c) <= 0:
            return False
        others = flat[left]
        inside = (_turn(a, b, others) >= 0) & (_turn(b, c, others) >= 0) & (_turn(c, a, others) >= 0)
        own = [(others == corner).all(1) for corner in (a, b, c)]  # by place: a ring round a hole repeats corners
        return not (inside & ~np.any(own, 0)).any()


def _normals(rings: np.ndarray) -> np.ndarray:
    """Newell normal of each polygon (P, N, 3), of length twice its area, (P, 3); also defined for non-planar ones."""
    return np.cross(rings - rings[:, :1], np.roll(rings, -1, 1) - rings[:, :1]).sum(1)


def concave(rings: np.ndarray) -> np.ndarray:
    """Whether any corner of each polygon (P, N, 3) is reflex, (P,)."""
    normals = _normals(rings)
    before, after = rings - np.roll(rings, 1, 1), np.roll(rings, -1, 1) - rings
    turns = np.einsum("pnk,pk->pn", np.cross(before, after), normals)
    return (turns < -FLAT * np.square(normals).sum(-1, keepdims=True)).any(1)


def _flattened(ring: np.ndarray) -> np.ndarray:
    """Project a polygon along its normal's longest axis, (N, 2), counter-clockwise."""
    normal = _normals(ring[None])[0]
    axis = int(np.abs(normal).argmax())
    kept = [(axis + 1) % 3, (axis + 2) % 3]
    return ring[:, kept if normal[axis] > 0 else kept[::-1]]


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return twice the signed area of a, b, c, (2,) or (N, 2) each; positive if counter-clockwise."""
    return (b[0] - a[0]) * (c[..., 1] - a[1]) - (b[1] - a[1]) * (c[..., 0] - a[0])
