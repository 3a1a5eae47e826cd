"""Marching cubes (Lorensen and Cline 1987) in PyTorch, for grids on a GPU; on the CPU scikit-image's is as fast.

The table of cases is computed. On each face of a cell, a run of solid corners is cut off by a segment from the edge at
which a walk around the face enters it to the edge at which the walk leaves it. The segments of the six faces form
closed loops, which become fans of triangles without a side inside a face. Neighbouring cells cut their common face
alike, also where solid corners are diagonal, so the surface is closed and has two triangles at each side.
"""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

Edge = tuple[int, int]  # its two corners, the lower first

CORNERS = list(itertools.product((0, 1), repeat=3))
EDGES: list[Edge] = [
    (a, b)
    for a, b in itertools.combinations(range(8), 2)
    if sum(map(abs, (CORNERS[b][k] - CORNERS[a][k] for k in range(3)))) == 1
]


@torch.no_grad()
def marching_cubes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Extract the surface where values on a grid pass zero.

    Args:
        values: (X, Y, Z), positive inside and not zero anywhere; those at the border must be negative.

    Returns:
        Crossings of the grid's edges (V, 3) float64, in nodes, by linear interpolation; triangles (F, 3) between them,
        counter-clockwise from outside.
    """
    shape, solid = values.shape, values > 0
    case = torch.zeros([side - 1 for side in shape], dtype=torch.uint8, device=values.device)
    for k, corner in enumerate(CORNERS):
        case |= solid[tuple(slice(c, c + side - 1) for c, side in zip(corner, shape, strict=True))].to(torch.uint8) << k
    cells = ((case != 0) & (case != 255)).nonzero()
    triangles = _table().to(values.device)[case[tuple(cells.T)].long()]  # (A, T, 3) edges of the cell; -1: none
    cell, number = (triangles[..., 0] >= 0).nonzero(as_tuple=True)
    edges = triangles[cell, number]  # (F, 3)
    low, axis = _edge_places(values.device)
    node = cells[cell][:, None] + low[edges]  # (F, 3, 3)
    linear = (node[..., 0] * shape[1] + node[..., 1]) * shape[2] + node[..., 2]
    found, faces = torch.unique(linear * 3 + axis[edges], return_inverse=True)
    return _crossings(values, found // 3, found % 3), faces


def _crossings(values: Tensor, node: Tensor, axis: Tensor) -> Tensor:
    """Points (V, 3) at which values pass zero on the edges from nodes (V) along axes (V)."""
    stride = torch.tensor([values.shape[1] * values.shape[2], values.shape[2], 1], device=values.device)
    flat = values.reshape(-1).double()
    first, second = flat[node], flat[node + stride[axis]]
    place = torch.stack(
        [node // stride[0], node // stride[1] % values.shape[1], node % values.shape[2]], dim=-1
    ).double()
    return place.scatter_add(1, axis[:, None], (first / (first - second))[:, None])


def _edge_places(device: torch.device) -> tuple[Tensor, Tensor]:
    """The lower corner (12, 3) of each of a cell's edges, and its axis (12)."""
    low = torch.tensor([CORNERS[a] for a, _ in EDGES], device=device)
    high = torch.tensor([CORNERS[b] for _, b in EDGES], device=device)
    return low, (high - low).argmax(-1)


@functools.cache
def _table() -> Tensor:
    """Triangles of each of the 256 cases by the numbers of their edges, (256, T, 3), filled up with -1."""
    rows = [_triangles(case) for case in range(256)]
    most = max(map(len, rows))
    return torch.tensor([row + [(-1, -1, -1)] * (most - len(row)) for row in rows])


def _triangles(case: int) -> list[tuple[int, int, int]]:
    """Triangles of a case, whose bit k says that corner k is solid: a fan for each loop."""
    following = dict(segment for face in _faces() for segment in _segments(face, case))
    triangles = []
    while following:
        loop = [next(iter(following))]
        while (after := following.pop(loop[-1])) != loop[0]:
            loop.append(after)
        turns = (loop[k:] + loop[:k] for k in range(len(loop)))
        fan = next(turn for turn in turns if not any(_on_a_face(turn[0], edge) for edge in turn[2:-1]))
        numbers = [EDGES.index(edge) for edge in fan]
        triangles += [(numbers[0], second, third) for second, third in itertools.pairwise(numbers[1:])]
    return triangles


def _on_a_face(one: Edge, other: Edge) -> bool:
    return any({*one, *other} <= set(face) for face in _faces())


def _segments(face: list[int], case: int) -> list[tuple[Edge, Edge]]:
    """Segments that cut the runs of solid corners off a face, from the edge before a run to the edge after it."""
    solid = [bool(case >> corner & 1) for corner in face]
    segments = []
    for k in range(4):
        if solid[k] and not solid[k - 1]:
            end = next(n for n in range(k, k + 4) if not solid[(n + 1) % 4])
            segments.append((_edge(face[k - 1], face[k]), _edge(face[end % 4], face[(end + 1) % 4])))
    return segments


def _edge(a: int, b: int) -> Edge:
    return min(a, b), max(a, b)


def _faces() -> list[list[int]]:
    """Corners of the six faces of a cell, counter-clockwise from outside."""
    faces = []
    for axis, end in itertools.product(range(3), (0, 1)):
        corners = []
        for u, v in ((0, 0), (1, 0), (1, 1), (0, 1)):
            place = [0, 0, 0]
            place[axis], place[(axis + 1) % 3], place[(axis + 2) % 3] = end, u, v
            corners.append(CORNERS.index(tuple(place)))
        faces.append(corners if end else corners[::-1])
    return faces
