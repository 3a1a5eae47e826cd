"""Consistency distillation of a latent diffusion model (LCM, Luo et al. 2023, arXiv 2310.04378).

The student f(x_t, t) maps a noisy sample of any level to the clean sample at the end of the teacher's guided
trajectory, so that a few steps without guidance take the place of many guided ones. Neighbouring levels of one
trajectory must be mapped to the same sample. As in improved consistency training (Song and Dhariwal 2023), the target
is the student itself, not an average of it, and errors are measured by the pseudo-Huber distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from instant3d.modules.diffusion.noise_process import add_noise, predict_clean, predict_noise

LCM_LEVELS = 50  # noise levels on which latent consistency models are distilled, the most steps of their sampler
SIGMA_DATA, TIMESTEP_SCALE = 0.5, 10.0  # of the boundary condition, as released LCMs have them
Predict = Callable[[Tensor, Tensor], Tensor]  # (noisy samples, timesteps) to the network's output


@dataclass(frozen=True)
class ConsistencyDistillation:
    """Settings of consistency distillation.

    Attributes:
        guidance: Scale of the teacher's classifier-free guidance, which the student learns; it is sampled without.
        guidance_stop: Share of the timesteps, from the noisiest, at which the teacher is guided.
        levels: Noise levels, evenly spaced over the timesteps; the sampler `lcm` has 50.
        huber: Error below which the distance is quadratic (c of the pseudo-Huber distance).
    """

    guidance: float = 5.0
    guidance_stop: float = 1.0
    levels: int = LCM_LEVELS
    huber: float = 0.001

    def neighbours(self, drawn: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Timesteps of two neighbouring levels.

        Args:
            drawn: Timesteps (B,) drawn from all.
            count: Number of timesteps of training.

        Returns:
            The level (B,) that each drawn timestep belongs to, and the next lower one (B,), 0 below the first.
        """
        level = drawn * self.levels // count
        upper = (level + 1) * count // self.levels - 1
        return upper, (level * count // self.levels - 1).clamp(min=0)

    def losses(
        self, kind: str, abar: Tensor, clean: Tensor, noise: Tensor, drawn: Tensor, student: Predict, teacher: Predict
    ) -> Tensor:
        """Distances between the student's results at two neighbouring levels (Luo et al. 2023, eq. 17).

        Args:
            kind: What both networks predict, "epsilon" or "v_prediction".
            abar: Share of signal of each timestep (T,).
            clean: Latents (B, ...).
            noise: Their noise (B, ...).
            drawn: Timesteps (B,).
            student: The network that is trained, for the prompts.
            teacher: The frozen network with guidance.

        Returns:
            (B,).
        """
        timestep, before = self.neighbours(drawn, len(abar))
        noisy = add_noise(clean, noise, abar[timestep])
        with torch.no_grad():
            earlier = ddim_step(kind, teacher(noisy, timestep), noisy, abar[timestep], abar[before])
            target = consistency_function(kind, student(earlier, before), earlier, before, abar)
        found = consistency_function(kind, student(noisy, timestep), noisy, timestep, abar)
        return pseudo_huber(found - target, self.huber)


def ddim_step(kind: str, output: Tensor, x_t: Tensor, abar: Tensor, abar_before: Tensor) -> Tensor:
    """Noisy samples at a lower noise level (DDIM, Song et al. 2021, eq. 12 with sigma 0).

    Args:
        kind: What the network predicts.
        output: Its prediction for `x_t`, (B, ...).
        x_t: Noisy samples (B, ...).
        abar: Their share of signal (B,).
        abar_before: That of the result (B,).

    Returns:
        (B, ...).
    """
    output = output.float()
    return add_noise(predict_clean(kind, output, x_t, abar), predict_noise(kind, output, x_t, abar), abar_before)


def consistency_function(kind: str, output: Tensor, x_t: Tensor, timestep: Tensor, abar: Tensor) -> Tensor:
    """Clean samples by a consistency model: c_skip x_t + c_out z, the identity at timestep 0 (Luo et al. 2023, eq. 9).

    Args:
        kind: What the network predicts.
        output: Its prediction, (B, ...).
        x_t: Noisy samples (B, ...).
        timestep: (B,).
        abar: Share of signal of each timestep (T,).

    Returns:
        (B, ...).
    """
    skip, out = (factor.reshape(-1, *[1] * (x_t.dim() - 1)) for factor in boundary_scalings(timestep))
    return skip * x_t + out * predict_clean(kind, output.float(), x_t, abar[timestep])


def boundary_scalings(timestep: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of timesteps, which make a consistency model the identity at timestep 0."""
    scaled = TIMESTEP_SCALE * timestep.float()
    total = scaled.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total.sqrt()


def pseudo_huber(error: Tensor, c: float) -> Tensor:
    """Mean over each sample of sqrt(e^2 + c^2) - c, for errors (B, ...): (B,)."""
    return ((error.square() + c * c).sqrt() - c).flatten(1).mean(-1)
