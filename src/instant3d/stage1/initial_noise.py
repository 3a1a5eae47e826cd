"""Initial state of sampling: noise over a faint image of a dark blob in the middle of each white tile.

The noise of training never quite hides the image, so pure noise is a state that the network was not trained on, whose
mean stands for a mid-grey image. The mean of a blob under noise stands for one object on white (arXiv 2311.06214,
section 3.1).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from instant3d.stage1.grid import SIDE, pack
from instant3d.stage1.sampling_options import STARTS, Start


def start_image(kind: Start, size: int, sigma: float = 0.1, *, shrunk: bool = False) -> Tensor | None:
    """Initial image of a grid.

    Args:
        kind: "blob" is 1 - g in each tile, g a Gaussian of peak 1 at the tile's centre. "square" is 1 - m, m a square
            at the tile's centre with the area under the Gaussian, so that its side is sqrt(2 pi) sigma; edge pixels are
            covered by their share. "noise" is no image.
        size: Pixels a side of the grid, even.
        sigma: Standard deviation of the Gaussian, in tile sides.
        shrunk: Make the blob twice as large with its peak on a pixel and average 2 x 2 of its pixels, as GRM does: the
            peak then lies a quarter of a pixel right of and below the tile's centre.

    Returns:
        (3, size, size) in [0, 1], or None for pure noise.

    Raises:
        ValueError: `kind` is unknown, or `size` or `sigma` is out of range.
    """
    if kind not in STARTS:
        raise ValueError(f"the start of sampling is one of {', '.join(STARTS)}, got {kind!r}")
    if size < SIDE or size % SIDE or sigma <= 0:
        raise ValueError(f"a start image needs an even size and a positive sigma, got {size} and {sigma}")
    if kind == "noise":
        return None
    tile_side = size // SIDE
    offset = (torch.arange(tile_side) + 0.5) / tile_side - 0.5  # pixel centres relative to the tile's centre
    if kind == "blob" and shrunk:
        line = _gaussian(torch.arange(size) / size - 0.5, sigma).unflatten(0, (tile_side, 2)).mean(1)
    elif kind == "blob":
        line = _gaussian(offset, sigma)
    else:
        half = min(math.sqrt(2 * math.pi) * sigma, 1) / 2
        line = ((half - offset.abs()) * tile_side + 0.5).clamp(0, 1)
    return pack((1 - line[:, None] * line).expand(SIDE**2, 3, tile_side, tile_side))


def _gaussian(offset: Tensor, sigma: float) -> Tensor:
    return torch.exp(-(offset**2) / (2 * sigma**2))


def start_latents(clean: Tensor | None, noise: Tensor, scheduler: Any) -> Tensor:
    """Noisy latents at the first of the scheduler's timesteps, in the scheduler's own scaling.

    Args:
        clean: Latents of the initial image, (C, h, w) or (B, C, h, w), or None for pure noise.
        noise: Standard normal, (B, C, h, w).
        scheduler: A diffusers scheduler whose timesteps are set. DDIM holds x_t = sqrt(abar_t) z + sqrt(1 - abar_t)
            eps; Euler holds x_t / sqrt(abar_t) = z + sigma_t eps, the same state.

    Returns:
        (B, C, h, w).
    """
    if clean is None:
        return noise * scheduler.init_noise_sigma
    first = scheduler.timesteps[:1].expand(len(noise))
    return scheduler.add_noise(clean.expand_as(noise), noise, first)
