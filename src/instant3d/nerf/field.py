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


def normals(field: Field, points: Tensor) -> Tensor:
    """Unit vectors (..., N, 3) along which density falls fastest: outward from a surface (0 where it is flat)."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(field.density(points).sum(), points, create_graph=differentiable)
    return -torch.nn.functional.normalize(gradient, dim=-1)
