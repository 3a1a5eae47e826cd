"""Options of sampling: the one place that names samplers, starts and defaults. It does not import torch.

The settings that the weights of a stage 1 are meant for are read by `recommended_sampling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Sampler = Literal["euler", "ddim", "dpm++", "lcm"]
Start = Literal["blob", "square", "noise"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
STARTS: tuple[str, ...] = get_args(Start)


@dataclass(frozen=True)
class Sampling:
    """Options of sampling a grid.

    Attributes:
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 is none, above it each step costs two network evaluations.
        guidance_stop: Share of the steps with guidance; the later ones have none and cost one evaluation (guidance in
            a limited interval, Kynkäänniemi et al. 2024).
        rescale: 0 to 1, how far guidance may not change the spread of the network's predictions (Lin et al. 2024).
        sampler: Euler, DDIM, DPM-Solver++ 2M (Lu et al. 2022), or that of latent consistency models (LCM, Luo et al.
            2023) for weights that were distilled for it, such as by LCM-LoRA, with a guidance of 1 to 2.
        start: Initial image under the noise; see `stage1.initial_noise.start_image`.
        sigma: Size of the initial image's blob or square, in tile sides.
        start_timestep: Training timestep at which sampling begins, which sets the noise level; by default the last.
    """

    steps: int = 30
    guidance: float = 5.0
    guidance_stop: float = 1.0
    rescale: float = 0.0
    sampler: Sampler = "euler"
    start: Start = "blob"
    sigma: float = 0.1
    start_timestep: int | None = None
