"""Evaluation of a function on a fine grid, only in the cells that its zero surface passes through.

The function is positive inside and negative outside. Cells are halved level by level. At the coarsest level a cell is
refined if its corners, or those of a neighbour, differ in sign; at finer ones, if its own corners differ. Wherever the
surface leaves a cell through a face, the cell behind is refined as well, so the surface found is always closed: only
parts that fit between the nodes of the coarsest grid and touch nothing larger are missed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Evaluate = Callable[[Array], Array]  # integer nodes (N, 3) of the finest grid -> values (N)

CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))
SPLIT = np.array(list(itertools.product((0, 1, 2), repeat=3)))  # nodes of a halved cell, in half edges


def refine(coarse: Array, levels: int, evaluate: Evaluate) -> tuple[Array, Array]:
    """Halve the cells of a grid `levels` times where its surface passes.

    Args:
        coarse: Values at the nodes, (M, M, M); those at the border must be negative.
        levels: Number of halvings.
        evaluate: Returns values (N) at integer nodes (N, 3) of the finest grid.

    Returns:
        Values ((M - 1) * 2^levels + 1)^3, valid at the corners of the returned cells; and the finest cells (A, 3) that
        the surface passes, each given by its lowest corner.
    """
    values, known = coarse, np.ones(coarse.shape, bool)
    cells = np.argwhere(_crossed(coarse))
    for level in reversed(range(levels)):
        start = _with_neighbours(cells, len(values) - 1) if level == levels - 1 else cells
        values, known, cells = _halved(values, known, start, _scaled(evaluate, 2**level))
    return values, cells


def _scaled(evaluate: Evaluate, factor: int) -> Evaluate:
    return lambda nodes: evaluate(nodes * factor)


def _crossed(values: Array) -> Array:
    """Whether each cell (M - 1)^3 of a grid has corners of both signs."""
    some = every = values > 0
    for axis in range(3):
        low, high = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        some, every = some[low] | some[high], every[low] & every[high]
    return some & ~every


def _with_neighbours(cells: Array, side: int) -> Array:
    near = np.zeros((side,) * 3, bool)
    around = np.clip(cells[:, None] + SPLIT - 1, 0, side - 1)
    near[tuple(around.reshape(-1, 3).T)] = True
    return np.argwhere(near)


def _halved(values: Array, known: Array, cells: Array, evaluate: Evaluate) -> tuple[Array, Array, Array]:
    """Evaluate the grid of half the spacing in `cells` (A, 3) and those behind faces that the surface crosses.

    Also returns which nodes are known, and the small cells that are crossed. Untouched parts of the arrays never
    occupy memory.
    """
    side = len(values)
    shape = (2 * side - 1,) * 3
    fine, seen = (np.zeros(shape[0] ** 3, kind) for kind in (np.float32, bool))
    taken = np.zeros((side - 1,) * 3, bool)
    taken[tuple(cells.T)] = True
    found = [np.empty((0, 3), np.int64)]
    while len(cells):
        corners = _flat(cells, side)[:, None] + _flat(CORNERS, side)
        twice = _flat(2 * cells, 2 * side - 1)[:, None]
        fine[twice + _flat(2 * CORNERS, 2 * side - 1)] = values.reshape(-1)[corners]
        seen[twice + _flat(2 * CORNERS, 2 * side - 1)] = known.reshape(-1)[corners]
        nodes = _unknown(seen, twice + _flat(SPLIT, 2 * side - 1))
        fine[nodes] = evaluate(np.stack(np.unravel_index(nodes, shape), axis=-1))
        seen[nodes] = True
        found.append(_small_cells(fine, cells, side))
        cells = _behind(fine, cells, taken)
    return fine.reshape(shape), seen.reshape(shape), np.concatenate(found)


def _flat(nodes: Array, side: int) -> Array:
    """Return the linear indices (N) of the nodes (N, 3) of a grid."""
    return (nodes[:, 0] * side + nodes[:, 1]) * side + nodes[:, 2]


def _unknown(known: Array, nodes: Array) -> Array:
    """Return the unknown ones of `nodes`, each once."""
    wanted = np.zeros(len(known), bool)
    wanted[nodes[~known[nodes]]] = True
    return np.flatnonzero(wanted)


def _small_cells(fine: Array, cells: Array, side: int) -> Array:
    """Return those of the eight children of `cells` that have corners of both signs."""
    children = (2 * cells[:, None] + CORNERS).reshape(-1, 3)
    corners = _flat(children, 2 * side - 1)[:, None] + _flat(CORNERS, 2 * side - 1)
    return children[_differ(fine[corners] > 0)]


def _behind(fine: Array, cells: Array, taken: Array) -> Array:
    """Return new cells behind a face of `cells` that the surface crosses, and mark them as taken."""
    side = len(taken) + 1
    found = [np.empty((0, 3), np.int64)]
    for axis, end in itertools.product(range(3), (0, 2)):
        behind = cells + (end - 1) * np.eye(3, dtype=np.int64)[axis]
        new = ((behind >= 0) & (behind < side - 1)).all(1)
        new[new] = ~taken[tuple(behind[new].T)]
        face = _flat(2 * cells[new], 2 * side - 1)[:, None] + _flat(SPLIT[SPLIT[:, axis] == end], 2 * side - 1)
        found.append(behind[new][_differ(fine[face] > 0)])
        taken[tuple(found[-1].T)] = True
    return np.concatenate(found)


def _differ(solid: Array) -> Array:
    """Whether each row (A, K) contains both true and false."""
    return np.any(solid, axis=1) & ~np.all(solid, axis=1)
