"""DPM-Solver++ of second order, multistep (2M; Lu et al. 2022, algorithm 2), equal to diffusers' scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.inference.noise_levels import NoiseLevels, has_settings

# settings that change the method, with the values that it has here, which are also diffusers' defaults
FIXED = {
    "algorithm_type": "dpmsolver++",
    "lambda_min_clipped": -float("inf"),
    "lower_order_final": True,
    "solver_order": 2,
    "solver_type": "midpoint",
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_flow_sigmas": False,
    "use_lu_lambdas": False,
    "variance_type": None,
}


def supports(config: Mapping[str, Any]) -> bool:
    """Whether diffusers' scheduler with these settings does the same as `DpmSolver`."""
    return has_settings(config, FIXED)


class DpmSolver(NoiseLevels):
    """A sampler that visits every level of a noise schedule, with the interface of diffusers' schedulers.

    A step extrapolates the clean samples of the last two levels; the first and the last step use one.
    """

    init_noise_sigma = 1.0  # standard deviation of pure noise at the first timestep

    def __init__(self, betas: Sequence[float], kind: str) -> None:
        super().__init__(betas, kind)
        self.signal = 1 / (self.sigmas**2 + 1) ** 0.5
        self.noise = self.sigmas * self.signal
        self.log_snr = torch.log(self.signal) - torch.log(self.noise)  # half of it: the paper's lambda
        self.earlier: Tensor | None = None

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise (B, ...) to clean samples (B, ...) at timesteps (B,)."""
        signal, share = (
            part[self.index(timesteps)].to(clean).view(-1, *[1] * (clean.dim() - 1))
            for part in (self.signal, self.noise)
        )
        return signal * clean + share * noise

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The network reads this method's samples as they are."""
        return sample

    def step(
        self, prediction: Tensor, timestep: Tensor, sample: Tensor, generator: object = None, return_dict: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Go to the next timestep.

        Args:
            prediction: The network's output (B, ...).
            timestep: One of `timesteps`, in their order.
            sample: The sample (B, ...).
            generator: Not used, for this method adds no noise; here for diffusers' callers.
            return_dict: Not used; likewise.

        Returns:
            The next sample, and the clean one that the prediction implies.
        """
        here = int(self.index(timestep))
        clean, earlier = self._clean(prediction, sample, here), self.earlier
        self.earlier = clean
        step = self.log_snr[here + 1] - self.log_snr[here]
        decay = self.signal[here + 1] * (torch.exp(-step) - 1.0)
        reached = (self.noise[here + 1] / self.noise[here]) * sample.float() - decay * clean
        if earlier is not None and here + 1 < len(self.timesteps):
            ratio = (self.log_snr[here] - self.log_snr[here - 1]) / step
            reached = reached - 0.5 * decay * ((1.0 / ratio) * (clean - earlier))
        return reached.to(prediction.dtype), clean

    def _clean(self, prediction: Tensor, sample: Tensor, here: int) -> Tensor:
        if self.kind == "epsilon":
            return (sample - self.noise[here] * prediction) / self.signal[here]
        return self.signal[here] * sample - self.noise[here] * prediction
