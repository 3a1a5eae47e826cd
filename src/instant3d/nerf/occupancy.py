"""Occupancy grid: a coarse grid of non-empty cells, and the empty distance ahead of a ray.

Density is read at the nodes of a regular grid; a cell counts as occupied if a node of it, or of a cell within
`dilation` cells of it, exceeds `threshold`. So only what fits between all nodes is missed (with the default 64 cells
per side, nodes lie as close as the texels of a 64-texel triplane), and by dropping low densities a ray loses at most
1 - exp(-length * threshold) of its light: 1 % along the cube's edge.

Around what is occupied, most samples still meet nothing. Of a triplane that is no finer than the grid, density is not
read in cells with all nodes below `NEGLIGIBLE`, which changes the opacity of a ray by about 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instant3d.nerf.baked_field import BakedField, bake, device_of, grid_density
from instant3d.nerf.field import Field

THRESHOLD = 0.005  # density below which a place counts as empty
NEGLIGIBLE = 1e-4  # density below which the cells of a smooth field need no samples
DENSE = 1.0  # density from which a place may hold a surface; below, a default cell absorbs at most 3 %
REACH = 6  # cells; longer skips save nothing
BEYOND = 1e-4  # world units by which a skip ends inside the next cell, despite rounding


@dataclass(frozen=True)
class Occupancy:
    """Distances in cells, diagonals counting as one, indexed [x, y, z]; 0 in the cells themselves.

    Attributes:
        to_occupied: (side, side, side), to the nearest occupied cell, at most REACH.
        to_dense: (side, side, side), to the nearest cell that may hold a surface, at most REACH (haze needs few
            samples).
        filled: (side, side, side) bool, the cells in which density is read; None: in all.
    """

    to_occupied: Tensor
    to_dense: Tensor
    filled: Tensor | None = None

    @classmethod
    def from_field(cls, field: Field, side: int = 64, *, threshold: float = THRESHOLD, dilation: int = 1) -> Occupancy:
        """Build the grid from the density of one object's field at (side + 1)^3 nodes.

        Args:
            field: The field.
            side: Cells per side.
            threshold: Density below which a place counts as empty.
            dilation: Cells by which occupied regions are grown.
        """
        quick = bake(field)
        nodes = grid_density(quick, torch.linspace(-1, 1, side + 1, device=device_of(field)))
        smooth = isinstance(quick, BakedField) and quick.side <= side
        filled = _cells_with(nodes > min(threshold, NEGLIGIBLE)) if smooth else None
        to_dense = _cells_away(nodes > max(threshold, DENSE), dilation)
        return cls(_cells_away(nodes > threshold, dilation), to_dense, filled)

    @property
    def side(self) -> int:
        """Number of cells per side."""
        return self.to_occupied.shape[0]

    @property
    def share(self) -> float:
        """Share of the cells that are occupied."""
        return float((self.to_occupied == 0).float().mean())

    def box(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest world coordinates (3) of occupied cells; equal if there are none."""
        cells = (self.to_occupied == 0).nonzero()
        if not len(cells):
            nowhere = torch.zeros(3, device=self.to_occupied.device)
            return nowhere, nowhere
        low, high = cells.amin(0), cells.amax(0) + 1
        return low * (2 / self.side) - 1, high * (2 / self.side) - 1

    def skip_empty(self, points: Tensor, directions: Tensor) -> Tensor:
        """Return how far each ray can advance before it could meet an occupied cell; 0 inside one.

        Args:
            points: (3, R). Coordinates come first, because arithmetic on long rows is faster.
            directions: Unit vectors (3, R).

        Returns:
            (R,) in world units.
        """
        return self._free_distance(self.to_occupied, points, directions)

    def skip_to_dense(self, points: Tensor, directions: Tensor) -> Tensor:
        """Return how far each ray can advance before it could meet a surface; otherwise as `skip_empty`."""
        return self._free_distance(self.to_dense, points, directions)

    def is_filled(self, points: Tensor) -> Tensor:
        """Return whether density is to be read at points (3, N): (N,) bool."""
        if self.filled is None:
            return torch.ones_like(points[0], dtype=torch.bool)
        return self._at(self.filled, ((points + 1) * (self.side / 2)).clamp_(0, self.side - 1).int())

    def _free_distance(self, distances: Tensor, points: Tensor, directions: Tensor) -> Tensor:
        """Return the distance to the end of the empty block around each point.

        A cell at distance k is the centre of an empty block of 2 k - 1 cells per side.
        """
        place = (points + 1) * (self.side / 2)
        cell = place.floor().clamp(0, self.side - 1)
        free = self._at(distances, cell.long())
        ahead = cell + torch.where(directions > 0, free, 1 - free)
        steep = directions.abs().clamp(min=1e-9)
        way = ((ahead - place).abs() / steep).amin(0) * (2 / self.side)
        return torch.where(free > 0, way + BEYOND, 0.0)

    def _at(self, values: Tensor, cell: Tensor) -> Tensor:
        """Return what a grid (side, side, side) holds in the cells with indices (3, N): (N,)."""
        i, j, k = cell
        return values.view(-1).index_select(0, (i * self.side + j) * self.side + k)


def _cells_away(nodes: Tensor, dilation: int) -> Tensor:
    """Return distances in cells (side, side, side), at most REACH, to those with a node in `nodes` (side + 1, ...)."""
    cells = _cells_with(nodes)
    for _ in range(dilation):
        cells = _grown(cells)
    distances = (~cells).float()
    for _ in range(REACH - 1):
        cells = _grown(cells)
        distances += ~cells
    return distances


def _cells_with(nodes: Tensor) -> Tensor:
    """Return the cells (side, side, side) with a node in `nodes` (side + 1, ...)."""
    cells = nodes
    for axis in range(3):
        cells = cells.narrow(axis, 0, cells.shape[axis] - 1) | cells.narrow(axis, 1, cells.shape[axis] - 1)
    return cells


def _grown(cells: Tensor) -> Tensor:
    """Dilate cells by one, diagonals included."""
    for axis in range(3):
        inner, grown = cells.shape[axis] - 1, cells.clone()
        grown.narrow(axis, 1, inner).logical_or_(cells.narrow(axis, 0, inner))
        grown.narrow(axis, 0, inner).logical_or_(cells.narrow(axis, 1, inner))
        cells = grown
    return cells
