"""Closed surfaces with texture coordinates: boxes, lathes, prisms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import manifold3d
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
FloatArray = Sequence[float] | Vectors  # a point, a size
GRID = 2.0**-13  # vertices lie on this lattice, so that the last bit of a sine never reaches a file


@dataclass(frozen=True)
class Shape:
    """A triangle mesh, +z up, with vertices split at texture seams and sharp edges.

    Attributes:
        vertices: (N, 3), multiples of GRID, so that vertices at one place are exactly equal.
        faces: (F, 3), anticlockwise seen from outside.
        uv: (N, 2), 1 is one repeat of the texture, v upwards.
        patch: (N,), number of a vertex's smooth patch; edges between patches are sharp.
    """

    vertices: Vectors
    faces: NDArray[np.int64]
    uv: Vectors
    patch: NDArray[np.int64]


@dataclass(frozen=True)
class Patch:
    """A grid of points on a surface, which faces outwards along columns x rows.

    Attributes:
        points: (rows, columns, 3).
        uv: (rows, columns, 2).
        ring: Whether the last column is the first one again.
    """

    points: Vectors
    uv: Vectors
    ring: bool = False


def snap(points: Vectors) -> Vectors:
    """Move points to the lattice; -0 becomes 0."""
    return np.round(points / GRID) * GRID + 0.0


def weld(vertices: Vectors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group vertices that lie at one position of the lattice.

    Args:
        vertices: (N, 3).

    Returns:
        Index of the first vertex of each distinct position (P,), and number of each vertex's position (N,).
    """
    lattice = np.round(vertices / GRID).astype(np.int64) + 2**20
    key = (lattice[:, 0] << 42) | (lattice[:, 1] << 21) | lattice[:, 2]
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    return first, place


def assemble(patches: Sequence[Patch]) -> Shape:
    """Triangulate patches into one shape, leaving out triangles without area (at poles)."""
    vertices, faces, uv, number = [], [], [], []
    offset = 0
    for index, patch in enumerate(patches):
        rows, columns = patch.points.shape[:2]
        corner = np.arange(rows * columns).reshape(rows, columns)
        a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
        quads = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], axis=2)
        vertices.append(patch.points.reshape(-1, 3))
        uv.append(patch.uv.reshape(-1, 2))
        faces.append(quads.reshape(-1, 3) + offset)
        number.append(np.full(rows * columns, index))
        offset += rows * columns
    points = snap(np.concatenate(vertices))
    return _without_slivers(Shape(points, np.concatenate(faces), np.concatenate(uv), np.concatenate(number)))


def _without_slivers(shape: Shape) -> Shape:
    """Drop triangles two of whose corners coincide, then vertices that no triangle uses."""
    _, place = weld(shape.vertices)
    a, b, c = place[shape.faces].T
    faces = shape.faces[(a != b) & (b != c) & (c != a)]
    used, compact = np.unique(faces, return_inverse=True)
    return Shape(shape.vertices[used], compact.reshape(-1, 3), shape.uv[used], shape.patch[used])


def moved(shape: Shape, rotation: Vectors | None = None, shift: FloatArray = (0.0, 0.0, 0.0)) -> Shape:
    """The shape turned, then shifted.

    Args:
        shape: Any shape.
        rotation: (3, 3); none leaves it as it is.
        shift: (3,).
    """
    points = shape.vertices if rotation is None else shape.vertices @ rotation.T
    return _without_slivers(replace(shape, vertices=snap(points + np.asarray(shift))))


def scaled(shape: Shape, factors: FloatArray) -> Shape:
    """Stretch along the axes by positive factors."""
    return _without_slivers(replace(shape, vertices=snap(shape.vertices * np.asarray(factors))))


def box_patches(size: FloatArray, tile: float = 0.0, cells: int = 1) -> list[Patch]:
    """Six faces of a box centred at the origin.

    Args:
        size: Lengths along x, y and z.
        tile: Length of a repeat, as in `Texture.tile`.
        cells: Number of quads along each edge.
    """
    half = np.asarray(size, dtype=np.float64) / 2
    steps = np.linspace(-1, 1, cells + 1)
    patches = []
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1)):
        # Side faces have v along +z, so that wood and bricks stand upright.
        right, up = ((axis + 1) % 3, (axis + 2) % 3) if axis != 1 else (0, 2)
        outward = 1 if axis != 1 else -1
        points = np.empty((cells + 1, cells + 1, 3))
        points[..., axis] = sign * half[axis]
        points[..., right] = steps * half[right] * sign * outward
        points[..., up] = steps[:, None] * half[up]
        length = np.array([half[right], half[up]]) * 2 / tile if tile > 0 else np.ones(2)
        patches.append(Patch(points, _spread(cells + 1, cells + 1, length, tile)))
    return patches


def box(size: FloatArray, tile: float = 0.0) -> Shape:
    """A box centred at the origin."""
    return assemble(box_patches(size, tile))


def _spread(rows: int, columns: int, length: NDArray, tile: float) -> Vectors:
    """Texture coordinates of a grid that spans `length` repeats, or all but the rim of one image."""
    low, high = (0.0, 1.0) if tile > 0 else (0.02, 0.98)  # a repeating sampler would mix in the opposite rim
    u, v = np.meshgrid(np.linspace(low, high, columns), np.linspace(low, high, rows))
    return np.stack([u * length[0], v * length[1]], axis=-1)


def _runs(profile: Vectors) -> list[Vectors]:
    """Split a profile at corners sharper than 50 degrees."""
    steps = np.diff(profile, axis=0)
    steps = steps / np.sqrt((steps**2).sum(-1, keepdims=True))
    corners = np.flatnonzero((steps[:-1] * steps[1:]).sum(-1) < 0.64) + 1
    cuts = [0, *corners.tolist(), len(profile) - 1]
    return [profile[i : j + 1] for i, j in pairwise(cuts)]


def _resampled(run: Vectors, rows: int) -> Vectors:
    """A straight run with `rows` intervals; runs that already bend keep their points."""
    if len(run) > 2 or rows <= 1:
        return run
    return run[0] + (run[1] - run[0]) * np.linspace(0, 1, rows + 1)[:, None]


def lathe_patches(
    profile: Sequence[Sequence[float]] | Vectors,
    sides: int,
    stretch: Sequence[float] = (1.0, 1.0),
    tile: float = 0.0,
    rows: int = 1,
) -> list[Patch]:
    """Surface of a profile turned about the z axis.

    Args:
        profile: (K, 2), points (radius, z). The solid lies to the left of its direction, so it runs from the bottom
            pole outwards, up and back to the axis.
        sides: Number of sides around.
        stretch: Scales of x and y.
        tile: Length of a repeat, as in `Texture.tile`.
        rows: Number of intervals of each straight run.
    """
    points = np.asarray(profile, dtype=np.float64)
    turn = 2 * np.pi * (np.arange(sides + 1) % sides) / sides
    circle = np.stack([np.cos(turn), np.sin(turn)], -1) * np.asarray(stretch)
    patches = []
    for run in _runs(points):
        run = _resampled(run, rows)
        ring = np.empty((len(run), sides + 1, 3))
        ring[..., :2] = run[:, None, :1] * circle
        ring[..., 2] = run[:, None, 1]
        patches.append(Patch(ring, _lathe_uv(run, ring, stretch, tile), ring=True))
    return patches


def _lathe_uv(run: Vectors, ring: Vectors, stretch: Sequence[float], tile: float) -> Vectors:
    """Texture coordinates: discs are projected from above; walls unroll, with a whole number of repeats around."""
    flat = bool(np.all(run[:, 1] == run[0, 1]))
    if flat and tile > 0:
        return ring[..., :2] / tile * (1.0 if run[-1, 0] < run[0, 0] else np.array([1.0, -1.0]))
    length = np.sqrt((np.diff(run, axis=0) ** 2).sum(-1)).sum()
    around = 2 * np.pi * run[:, 0].mean() * (stretch[0] + stretch[1]) / 2
    repeats = np.array([max(1.0, np.floor(around / tile + 0.5)), length / tile]) if tile > 0 else np.ones(2)
    return _spread(ring.shape[0], ring.shape[1], repeats, tile)


def lathe(
    profile: Sequence[Sequence[float]] | Vectors,
    sides: int,
    stretch: Sequence[float] = (1.0, 1.0),
    tile: float = 0.0,
) -> Shape:
    """A solid of revolution.

    Args:
        profile: (K, 2), points (radius, z), as in `lathe_patches`.
        sides: Number of sides around.
        stretch: Scales of x and y.
        tile: Length of a repeat, as in `Texture.tile`.
    """
    return assemble(lathe_patches(profile, sides, stretch, tile))


def arc(radius: float, start_deg: float, end_deg: float, steps: int, centre: Sequence[float] = (0, 0)) -> Vectors:
    """Points of a circle in the (radius, z) plane. Poles are exact.

    Args:
        radius: Of the circle.
        start_deg: Angle of the first point; 0 degrees is outwards, 90 up.
        end_deg: Angle of the last point.
        steps: Number of intervals.
        centre: (radius, z) of its centre.

    Returns:
        (steps + 1, 2).
    """
    angle = np.radians(np.linspace(start_deg, end_deg, steps + 1))
    points = np.round(np.stack([np.cos(angle), np.sin(angle)], -1), 12)
    return points * radius + np.asarray(centre, dtype=np.float64)


def prism(outline: Sequence[Sequence[float]] | Vectors, depth: float, tile: float = 0.0) -> Shape:
    """A simple polygon in the xz plane with thickness along y.

    Args:
        outline: (K, 2), corners (x, z), anticlockwise seen from -y.
        depth: Thickness.
        tile: Length of a repeat, as in `Texture.tile`.
    """
    flat = np.asarray(outline, dtype=np.float64)
    front = np.stack([flat[:, 0], np.full(len(flat), -depth / 2), flat[:, 1]], -1)
    back = front + np.array([0.0, depth, 0.0])
    walls = assemble([_wall(front, back, i, tile) for i in range(len(flat))])
    triangles = np.asarray(manifold3d.triangulate([flat]), dtype=np.int64)
    span = flat.max(0) - flat.min(0)
    cap_uv = flat / tile if tile > 0 else 0.02 + 0.96 * (flat - flat.min(0)) / span
    start, count = len(walls.vertices), len(flat)
    return Shape(
        np.concatenate([walls.vertices, snap(front), snap(back)]),
        np.concatenate([walls.faces, triangles + start, triangles[:, ::-1] + start + count]),
        np.concatenate([walls.uv, cap_uv, cap_uv]),
        np.concatenate([walls.patch, np.full(count, count), np.full(count, count + 1)]),
    )


def _wall(front: Vectors, back: Vectors, index: int, tile: float) -> Patch:
    """The rectangle behind one edge of a prism's outline."""
    here, there = index, (index + 1) % len(front)
    points = np.stack([np.stack([front[there], front[here]]), np.stack([back[there], back[here]])])
    edge = front[there] - front[here]
    length = np.array([np.sqrt((edge**2).sum()), back[0, 1] - front[0, 1]]) / tile if tile > 0 else np.ones(2)
    return Patch(points, _spread(2, 2, length, tile))


def joined(pieces: Sequence[Shape]) -> Shape:
    """Several shapes as one, overlapping as they may."""
    starts = np.cumsum([0] + [len(piece.vertices) for piece in pieces])
    patches = np.cumsum([0] + [int(piece.patch.max()) + 1 for piece in pieces])
    return Shape(
        np.concatenate([piece.vertices for piece in pieces]),
        np.concatenate([piece.faces + start for piece, start in zip(pieces, starts, strict=False)]),
        np.concatenate([piece.uv for piece in pieces]),
        np.concatenate([piece.patch + start for piece, start in zip(pieces, patches, strict=False)]),
    )


def normals(shape: Shape) -> Vectors:
    """Unit vertex normals (N, 3): area-weighted over the faces of the same patch that meet at a point."""
    _, place = weld(shape.vertices)
    _, group = np.unique(place * (int(shape.patch.max()) + 1) + shape.patch, return_inverse=True)
    a, b, c = (shape.vertices[shape.faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    total = np.zeros((int(group.max()) + 1, 3))
    for corner in range(3):
        np.add.at(total, group[shape.faces[:, corner]], across)
    summed = total[group]
    return summed / np.maximum(np.sqrt((summed**2).sum(-1, keepdims=True)), 1e-12)
