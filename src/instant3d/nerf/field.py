"""Interface of a radiance field: density and colour at points, and normals from density."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Field(Protocol):
    """Density and colour at points; leading dimensions (...) are objects."""

    def density(self, points: Tensor) -> Tensor:
        """Return the density (..., N), per world unit and >= 0, at world points (..., N, 3)."""
        ...

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (..., N) and colour (..., N, 3) in [0, 1] at world points (..., N, 3)."""
        ...


STEP = 0.01 / 1.75  # step of differences in world units: 0.01 in the box of side 3.5 of arXiv 2311.08403


def normals(field: Field, points: Tensor) -> Tensor:
    """Return the negative normalised gradient of density (..., N, 3), outward from a surface; 0 where there is none."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(field.density(points).sum(), points, create_graph=differentiable)
    return -torch.nn.functional.normalize(gradient, dim=-1)


def finite_difference_normals(field: Field, points: Tensor, step: float = STEP) -> Tensor:
    """Compute normals by central differences, which are differentiable for training.

    `normals` has no derivative of its own where plane sampling has none. Where a field offers its density before
    the activation (`raw_density`), that is used: it has a slope where density itself is constant.

    Args:
        field: The field.
        points: (..., N, 3).
        step: Offset of the differences in world units.

    Returns:
        (..., N, 3).
    """
    return -torch.nn.functional.normalize(finite_difference_gradient(field, points, step), dim=-1)


def finite_difference_gradient(field: Field, points: Tensor, step: float = STEP) -> Tensor:
    """Gradient (..., N, 3) of the density at points (..., N, 3), before its activation if the field offers that.

    Args:
        field: The field.
        points: (..., N, 3).
        step: Offset of the central differences in world units.
    """
    heights = getattr(field, "raw_density", field.density)
    offsets = step * torch.eye(3, dtype=points.dtype, device=points.device)
    around = points[..., None, :] + torch.cat([offsets, -offsets])  # (..., N, 6, 3)
    ahead, behind = heights(around.flatten(-3, -2)).unflatten(-1, (-1, 2, 3)).unbind(-2)
    return (ahead - behind) / (2 * step)
