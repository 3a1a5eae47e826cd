"""Euler's method for diffusion models (Karras et al. 2022, section 3), equal to diffusers' scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from instant3d.modules.diffusion.inference.noise_levels import NoiseLevels, has_settings

# settings that change the method, with the values that it has here, which are also diffusers' defaults
FIXED = {
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
}


def supports(config: Mapping[str, Any]) -> bool:
    """Whether diffusers' Euler scheduler with these settings does the same as `Euler`."""
    return has_settings(config, FIXED)


class Euler(NoiseLevels):
    """A sampler that visits every level of a noise schedule, with the interface of diffusers' schedulers."""

    @property
    def init_noise_sigma(self) -> Tensor:
        """Standard deviation of pure noise at the first timestep."""
        return self.sigmas[0]

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise (B, ...) to clean samples (B, ...) at timesteps (B,), in this method's scaling."""
        sigmas = self.sigmas[self.index(timesteps)].to(clean)
        return clean + noise * sigmas.view(-1, *[1] * (clean.dim() - 1))

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Scale a sample of this method (B, ...) to what the network reads at a timestep."""
        return sample / (self.sigmas[self.index(timestep)] ** 2 + 1) ** 0.5

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
        index = self.index(timestep)
        sigma, sample = self.sigmas[index], sample.float()
        if self.kind == "epsilon":
            clean = sample - sigma * prediction
        else:
            clean = prediction * (-sigma / (sigma**2 + 1) ** 0.5) + sample / (sigma**2 + 1)
        slope = (sample - clean) / sigma
        return (sample + slope * (self.sigmas[index + 1] - sigma)).to(prediction.dtype), clean
