"""Noise levels of a diffusion model's schedule, which samplers visit one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.noise_process import KINDS


def linear_alphas_cumprod(config: Mapping[str, Any]) -> Tensor | None:
    """Return the share of signal (T,) of each timestep, in float32; None for schedules other than the usual two."""
    power = {"linear": 1.0, "scaled_linear": 0.5}.get(config.get("beta_schedule", ""))
    if power is None or config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr"):
        return None
    if not {"beta_start", "beta_end", "num_train_timesteps"} <= config.keys():
        return None
    first, last = config["beta_start"] ** power, config["beta_end"] ** power
    roots = torch.linspace(first, last, config["num_train_timesteps"], dtype=torch.float32)
    return torch.cumprod(1.0 - (roots if power == 1 else roots**2), dim=0)


def has_settings(config: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration has settings, which are diffusers' defaults, and a network of `KINDS`."""
    same = all(config.get(name, value) == value for name, value in fixed.items())
    return same and config.get("prediction_type", KINDS[0]) in KINDS


class NoiseLevels:
    """The levels of a schedule, from the noisiest to clean.

    Args:
        betas: The schedule (T,), the first timestep being the least noisy.
        kind: What the network predicts, one of `noise_process.KINDS`.

    Attributes:
        timesteps: T - 1 down to 0, (T,) float32.
        sigmas: Noise over signal of each, and 0 at the end, (T + 1,).
    """

    def __init__(self, betas: Sequence[float], kind: str) -> None:
        abar = torch.cumprod(1.0 - torch.tensor(betas, dtype=torch.float32), dim=0)
        self.kind = kind
        self.sigmas = torch.cat([(((1 - abar) / abar) ** 0.5).flip(0), torch.zeros(1)])
        self.timesteps = torch.arange(len(betas) - 1.0, -1.0, -1.0)

    def index(self, timesteps: Tensor) -> Tensor:
        """Places of timesteps in `timesteps` and `sigmas`, on the CPU."""
        return len(self.timesteps) - 1 - timesteps.long().cpu()
