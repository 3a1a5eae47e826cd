"""Packing of four views into one image of 2 x 2 tiles, and back.

The tiles are row-major, `0 1` above `2 3`, and tile k shows the view of camera k of `cameras.structured_cameras()`:
elevation 20, azimuths 45, 135, 225 and 315 degrees (Instant3D, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from instant3d.cameras import Cameras, structured_cameras
from instant3d.scenes.white_background import opacity_mask
from instant3d.views import Views

SIDE = 2  # tiles along each side of the grid


def pack(views: Tensor) -> Tensor:
    """Pack four views (..., 4, C, S, S) into one image (..., C, 2 S, 2 S).

    Raises:
        ValueError: The views have another shape.
    """
    if views.dim() < 4 or views.shape[-4] != SIDE**2 or views.shape[-1] != views.shape[-2]:
        raise ValueError(f"a grid is made of four square views (..., 4, C, S, S), got {tuple(views.shape)}")
    *batch, _, channels, size, _ = views.shape
    tiles = views.reshape(*batch, SIDE, SIDE, channels, size, size)
    return tiles.movedim(-3, -5).movedim(-3, -2).reshape(*batch, channels, SIDE * size, SIDE * size)


def unpack(grid: Tensor) -> Tensor:
    """Split an image (..., C, 2 S, 2 S) into its four views (..., 4, C, S, S).

    Raises:
        ValueError: The image is not square with an even side.
    """
    if grid.dim() < 3 or grid.shape[-1] != grid.shape[-2] or grid.shape[-1] % SIDE:
        raise ValueError(f"a grid of 2 x 2 views is square with an even side, got {tuple(grid.shape)}")
    *batch, channels, side, _ = grid.shape
    size = side // SIDE
    tiles = grid.reshape(*batch, channels, SIDE, size, SIDE, size)
    return tiles.movedim(-2, -3).movedim(-5, -3).reshape(*batch, SIDE**2, channels, size, size)


def to_views(grid: Tensor, cameras: Cameras | None = None) -> Views:
    """Structured views with alpha from a grid over white.

    Args:
        grid: (3, 2 S, 2 S) in [0, 1].
        cameras: Cameras (4,) of the tiles; by default the structured ones.

    Returns:
        Views (4,) with straight colours; alpha is found by `scenes.white_background.opacity_mask`. A tile
        without a white border counts as object altogether.
    """
    tiles = unpack(grid.detach().cpu().float().clamp(0, 1))
    rgb, alpha = zip(*map(_cut, tiles), strict=True)
    return Views(torch.stack(rgb), torch.stack(alpha), structured_cameras() if cameras is None else cameras)


def _cut(tile: Tensor) -> tuple[Tensor, Tensor]:
    """Straight colours (3, S, S) and alpha (1, S, S) of a tile (3, S, S)."""
    cut = opacity_mask(tile.permute(1, 2, 0).numpy())
    if cut is None:
        return tile, torch.ones_like(tile[:1])
    rgb, alpha = (torch.from_numpy(part) for part in cut)
    return rgb.permute(2, 0, 1), alpha[None]
