"""What sampling starts from: noise with a faint picture of something dark in the middle of each white tile.

Training's noise never quite hides the picture below it, so sampling from nothing but noise shows the network a state
that it has not seen, whose mean says "mid-grey all over". A blob under the noise says "white, with one object in the
middle", and the network agrees (arXiv 2311.06214, section 3.1). Knows nothing of networks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from instant3d.stage1.grid import SIDE, pack
from instant3d.stage1.sampling_options import STARTS, Start


def start_image(kind: Start, size: int, sigma: float = 0.1) -> Tensor | None:
    """A grid (3, size, size) in [0, 1] to start from, or None for nothing but noise.

    blob     1 - g in each tile, g a Gaussian of peak 1 at the tile's centre, `sigma` in tile sides
    square   1 - m, m a square at the tile's centre that takes the place of the blob and darkens as much: its side is
             sqrt(2 pi) sigma, so that it has the area under the Gaussian. Edge pixels are covered by their share
    """
    if kind not in STARTS:
        raise ValueError(f"sampling starts from {', '.join(STARTS)}; there is no {kind!r}")
    if size < SIDE or size % SIDE or sigma <= 0:
        raise ValueError(f"a start image needs an even size and a positive sigma, got {size} and {sigma}")
    if kind == "noise":
        return None
    tile_side = size // SIDE
    offset = (torch.arange(tile_side) + 0.5) / tile_side - 0.5  # of pixel centres from the tile's centre
    if kind == "blob":
        line = torch.exp(-(offset**2) / (2 * sigma**2))
    else:
        half = min(math.sqrt(2 * math.pi) * sigma, 1) / 2
        line = ((half - offset.abs()) * tile_side + 0.5).clamp(0, 1)
    return pack((1 - line[:, None] * line).expand(SIDE**2, 3, tile_side, tile_side))


def start_latents(clean: Tensor | None, noise: Tensor, scheduler: Any) -> Tensor:
    """The noisy state (B, C, h, w) at the first of the scheduler's timesteps, in the scheduler's own scaling.

    clean      latents of the start image (C, h, w), or None
    noise      standard normal (B, C, h, w)
    scheduler  one of diffusers', its timesteps set. DDIM holds x_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps; Euler
               holds x_t / sqrt(abar_t) = z + sigma_t eps, the same state
    """
    if clean is None:
        return noise * scheduler.init_noise_sigma
    first = scheduler.timesteps[:1].expand(len(noise))
    return scheduler.add_noise(clean.expand_as(noise), noise, first)
