"""What a radiance field is to the renderer and the mesher: points in, density and colour out."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Field(Protocol):
    """Anything that knows density and colour at points; the leading shape (...) is the objects'."""

    def density(self, points: Tensor) -> Tensor:
        """Density (..., N), per world unit and >= 0, at world points (..., N, 3)."""
        ...

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density (..., N) and colour (..., N, 3) in [0, 1] at world points (..., N, 3)."""
        ...


STEP = 0.01 / 1.75  # world units, of differences: 0.01 in the box of side 3.5 of arXiv 2311.08403


def normals(field: Field, points: Tensor) -> Tensor:
    """Unit vectors (..., N, 3) along which density falls fastest: outward from a surface (0 where it is flat)."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(field.density(points).sum(), points, create_graph=differentiable)
    return -torch.nn.functional.normalize(gradient, dim=-1)


def finite_difference_normals(field: Field, points: Tensor, step: float = STEP) -> Tensor:
    """The same by central differences, which can be learned from.

    `normals` has no derivative of its own where the sampling of planes has none. Where a field tells its density before
    the activation (`raw_density`), that is looked at: it has a slope where density itself is flat.
    """
    height = getattr(field, "raw_density", field.density)
    offsets = step * torch.eye(3, dtype=points.dtype, device=points.device)
    around = points[..., None, :] + torch.cat([offsets, -offsets])  # (..., N, 6, 3)
    ahead, behind = height(around.flatten(-3, -2)).unflatten(-1, (-1, 2, 3)).unbind(-2)
    return torch.nn.functional.normalize((behind - ahead) / (2 * step), dim=-1)
