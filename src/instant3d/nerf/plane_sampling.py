"""Bilinear samples of three axis-aligned planes, by `grid_sample` or on a CPU by a table of corners."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    pass

PLANE_AXES = ((0, 1), (0, 2), (1, 2))  # world axes along the width and the height of each plane


def sample_planes(planes: Tensor, points: Tensor) -> Tensor:
    """Sum three bilinear samples, one from each plane.

    Equal to three calls of `grid_sample` (`align_corners=False`, zeros outside). On a CPU the twelve corners of a
    point are one weighted sum of rows of a table, which `embedding_bag` does several times faster.

    Args:
        planes: (B, 3, C, P, P).
        points: (B, N, 3).

    Returns:
        (B, N, C).
    """
    if planes.device.type == "cpu":
        return sample_table(corner_table(planes), points, planes.shape[-1])
    return _sample_by_grid(planes, points)


def _sample_by_grid(planes: Tensor, points: Tensor) -> Tensor:
    grid = torch.stack([points[..., list(axes)] for axes in PLANE_AXES], dim=1)  # (B, 3, N, 2)
    values = planes.flatten(0, 1).to(grid.dtype)  # coordinates are not converted instead: they need more than 8 bits
    flat = F.grid_sample(values, grid.flatten(0, 1)[:, None], align_corners=False)
    return flat.unflatten(0, (-1, 3)).sum(1)[:, :, 0].transpose(1, 2).to(planes.dtype)


def corner_table(planes: Tensor) -> Tensor:
    """Arrange planes (B, 3, C, P, P) as rows of features, each plane padded with zeros: (B * 3 * (P + 2)^2, C)."""
    return F.pad(planes.permute(0, 1, 3, 4, 2), (0, 0, 1, 1, 1, 1)).flatten(0, 3)


def sample_table(table: Tensor, points: Tensor, side: int) -> Tensor:
    """Sum three bilinear samples, one from each plane, from a table of the planes' corners.

    Args:
        table: `corner_table` of the planes, (B * 3 * (side + 2)^2, C).
        points: (B, N, 3).
        side: Texels along each side of a plane.

    Returns:
        (B, N, C).
    """
    batch, count = points.shape[:2]
    index, weight = _corners(points.flatten(0, 1), side)
    if batch > 1:
        rows = 3 * (side + 2) ** 2
        index = index + rows * torch.arange(batch, dtype=index.dtype).repeat_interleave(count)[:, None]
    weight = weight.to(table.dtype)
    if torch.is_grad_enabled() and table.requires_grad and not weight.requires_grad:
        flat = _WeightedRows.apply(table, index, weight)
    else:
        flat = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    return flat.unflatten(0, (batch, count))


class _WeightedRows(torch.autograd.Function):
    """Weighted sums of a table's rows, whose gradient by the table is one sparse product.

    torch's own gradient sorts all row numbers first, which takes three to four times as long for the same numbers.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        """Sum rows of a table (R, C) by their indices and weights (N, 12): (N, C)."""
        ctx.save_for_backward(index, weight)
        ctx.rows = len(table)
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        from scipy.sparse import csr_matrix

        index, weight = ctx.saved_tensors
        starts = np.arange(0, index.numel() + 1, index.shape[1])
        exact = torch.promote_types(gradient.dtype, torch.float32)
        share = csr_matrix((weight.to(exact).flatten(), index.flatten(), starts), shape=(len(index), ctx.rows))
        return torch.from_numpy(share.T @ gradient.to(exact).numpy()).to(gradient.dtype), None, None


def _corners(points: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return rows of one object's table and their bilinear weights, both (N, 12), for points (N, 3).

    Row numbers are affine in the point's cell, and each weight is a product of two affine functions of its position in
    the cell: three small products, many times faster than gathering coordinates. In float64, because only that is safe
    from autocast and from reduced-precision products, which would corrupt row numbers.
    """
    rows, across, down = _corner_maps(side)
    cell = ((points.double() + 1) * (side / 2) - 0.5).clamp(-1, side)
    low = cell.detach().floor().clamp(max=side - 1)
    part = cell - low
    index = torch.addmm(rows[0], low, rows[1:]).int()
    return index, torch.addmm(across[0], part, across[1:]) * torch.addmm(down[0], part, down[1:])


@functools.lru_cache
def _corner_maps(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Affine maps (1 + 3, 12), constants first, from cell indices to rows and from the position in it to weights."""
    framed = side + 2
    with torch.inference_mode(False):  # cached for later calls, some of which need gradients
        rows, across, down = torch.zeros(3, 4, 12, dtype=torch.float64)
    for corner, (plane, upper, right) in enumerate(itertools.product(range(3), range(2), range(2))):
        along_width, along_height = PLANE_AXES[plane]
        rows[0, corner] = plane * framed**2 + (upper + 1) * framed + right + 1
        rows[1 + along_width, corner] += 1
        rows[1 + along_height, corner] += framed
        across[0, corner], across[1 + along_width, corner] = 1 - right, 2 * right - 1
        down[0, corner], down[1 + along_height, corner] = 1 - upper, 2 * upper - 1
    return rows, across, down
