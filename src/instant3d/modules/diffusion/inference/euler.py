"""Euler's method for diffusion models (Karras et al. 2022, section 3), equal to diffusers' scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.noise_process import KINDS

# settings that change the method, with the values that it has here, which are also diffusers' defaults
FIXED = {
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
}


def supports(config: Mapping[str, Any]) -> bool:
    """Whether diffusers' Euler scheduler with these settings does the same as `Euler`."""
    same = all(config.get(name, value) == value for name, value in FIXED.items())
    return same and config.get("prediction_type", KINDS[0]) in KINDS


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


class Euler:
    """A sampler that visits every level of a noise schedule, with the interface of diffusers' schedulers.

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

    @property
    def init_noise_sigma(self) -> Tensor:
        """Standard deviation of pure noise at the first timestep."""
        return self.sigmas[0]

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise (B, ...) to clean samples (B, ...) at timesteps (B,), in this method's scaling."""
        sigmas = self.sigmas[self._index(timesteps)].to(clean)
        return clean + noise * sigmas.view(-1, *[1] * (clean.dim() - 1))

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Scale a sample of this method (B, ...) to what the network reads at a timestep."""
        return sample / (self.sigmas[self._index(timestep)] ** 2 + 1) ** 0.5

    def step(
        self, prediction: Tensor, timestep: Tensor, sample: Tensor, generator: object = None, return_dict: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Go to the next timestep.

        Args:
            prediction: The network's output (B, ...).
            timestep: One of `timesteps`.
            sample: The sample (B, ...).
            generator: Not used, for this method adds no noise; here for diffusers' callers.
            return_dict: Not used; likewise.

        Returns:
            The next sample, and the clean one that the prediction implies.
        """
        index = self._index(timestep)
        sigma, sample = self.sigmas[index], sample.float()
        if self.kind == "epsilon":
            clean = sample - sigma * prediction
        else:
            clean = prediction * (-sigma / (sigma**2 + 1) ** 0.5) + sample / (sigma**2 + 1)
        slope = (sample - clean) / sigma
        return (sample + slope * (self.sigmas[index + 1] - sigma)).to(prediction.dtype), clean

    def _index(self, timesteps: Tensor) -> Tensor:
        return len(self.timesteps) - 1 - timesteps.long().cpu()
