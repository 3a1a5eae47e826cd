"""Fields with a formula, one object each: what a renderer or mesher must make of them is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def place_colour(points: Tensor) -> Tensor:
    """Colour (..., 3) that names the place: (x, y, z) from [-1, 1] to [0, 1]."""
    return ((points + 1) / 2).clamp(0, 1)


@dataclass(frozen=True)
class Formula:
    """Any density; the colour names the place unless told otherwise."""

    densities: Callable[[Tensor], Tensor]
    colours: Callable[[Tensor], Tensor] = place_colour

    def density(self, points: Tensor) -> Tensor:
        return self.densities(points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.densities(points), self.colours(points)


def fog(sigma: float, low: Sequence[float], high: Sequence[float]) -> Formula:
    """A box of even density."""
    bounds = torch.tensor([list(low), list(high)])
    return Formula(lambda points: sigma * ((points >= bounds[0]) & (points <= bounds[1])).all(-1).float())


def ball(
    sigma: float, centre: Sequence[float] = (0.0, 0.0, 0.0), radius: float = 0.5, softness: float = 0.01
) -> Formula:
    """A sphere whose density falls from sigma to 0 over about `softness`, with half of it at the radius."""
    middle = torch.tensor(list(centre))
    return Formula(lambda p: sigma * torch.sigmoid((radius - torch.linalg.vector_norm(p - middle, dim=-1)) / softness))
