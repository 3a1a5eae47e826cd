"""Local windows of cross-attention: each plane token attends to the patches that its column projects to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.nerf.plane_sampling import PLANE_AXES

WINDOW = 3  # patches a side around each projection


def columns(side: int) -> Tensor:
    """Points on the columns of plane tokens, two for each of `side` cells along them: (3 * side^2, 2 * side, 3).

    Tokens are ordered plane, row, column; their columns run through their centres, along the axis across the plane.
    """
    centres = (torch.arange(side) + 0.5) * (2 / side) - 1
    along = (torch.arange(2 * side) + 0.5) / side - 1
    points = torch.empty(3, side, side, 2 * side, 3)
    for plane, (across, down) in enumerate(PLANE_AXES):
        (other,) = {0, 1, 2} - {across, down}
        points[plane, ..., across] = centres[:, None]
        points[plane, ..., down] = centres[:, None, None]
        points[plane, ..., other] = along
    return points.flatten(0, 2)


@torch.no_grad()
def projection_mask(cameras: Cameras, side: int, rows: int, wide: int, extra: int = 0) -> Tensor:
    """Which tokens of the views each plane token attends to.

    These are the patches within a window around the projections of its column (epipolar lines; LaRa, arXiv 2407.04699,
    has groups of neighbouring cells), and all without a patch. A token whose column no view shows attends to all.

    Args:
        cameras: (B, V).
        side: Tokens along each side of a plane.
        rows: Patches along a view's height.
        wide: Patches along its width.
        extra: Tokens before a view's patches, such as a class token.

    Returns:
        (B, 3 * side^2, V * (extra + rows * wide)) bool.
    """
    points = columns(side).to(cameras.intrinsics)
    tokens, samples = points.shape[:2]
    where, depth = cameras.project(points.flatten(0, 1).expand(*cameras.shape, -1, 3))
    shown = (depth > 0) & ((where >= 0) & (where < 1)).all(-1)
    patch = (where * where.new_tensor([wide, rows])).long()
    index = torch.where(shown, patch[..., 1] * wide + patch[..., 0], 0).unflatten(-1, (tokens, samples))
    near = torch.zeros(*cameras.shape, tokens, rows * wide, device=where.device)
    near.scatter_reduce_(-1, index, shown.unflatten(-1, (tokens, samples)).to(near.dtype), "amax")
    near = F.max_pool2d(near.unflatten(-1, (rows, wide)).flatten(0, 2)[:, None], WINDOW, 1, WINDOW // 2)
    near = near[:, 0].flatten(1).unflatten(0, (*cameras.shape, tokens)).transpose(1, 2) > 0  # (B, tokens, V, patches)
    near |= ~near.any(-1, keepdim=True).any(-2, keepdim=True)
    return F.pad(near, (extra, 0), value=True).flatten(2)
