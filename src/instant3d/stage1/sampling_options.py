"""How grids of views are sampled: the one place that names samplers, starts and defaults. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Sampler = Literal["euler", "ddim", "dpm++"]
Start = Literal["blob", "square", "noise"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
STARTS: tuple[str, ...] = get_args(Start)


@dataclass(frozen=True)
class Sampling:
    """How a grid is drawn.

    Attributes:
        steps: Denoising steps. The default is the fewest that the bundled weights need (`python -m benchmarks.steps`).
        guidance: 1 follows the prompt alone; above, away from the negative prompt too, at twice the work.
        rescale: 0 to 1, how far guidance may not change the spread of the network's answers (Lin et al. 2023).
        sampler: Euler, DDIM, or DPM-Solver++ 2M (Lu et al. 2022).
        start: What lies under the noise; see `stage1.initial_noise.start_image`.
        sigma: Size of the start, in tile sides.
        start_timestep: How much noise covers the start, as one of training's timesteps; by default the most there is.
    """

    steps: int = 30
    guidance: float = 5.0
    rescale: float = 0.0
    sampler: Sampler = "euler"
    start: Start = "blob"
    sigma: float = 0.1
    start_timestep: int | None = None
