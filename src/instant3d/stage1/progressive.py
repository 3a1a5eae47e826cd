"""Progressive distillation of a latent diffusion model (Salimans and Ho 2022, arXiv 2202.00512).

One step of the student takes the place of several of the teacher, guidance included (Meng et al. 2023, arXiv
2210.03142). In consistency distillation targets are the student's own results; here they are what the teacher reaches,
so that fewer training steps do. The student is sampled by Euler or DDIM with its own number of steps, without guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from instant3d.modules.diffusion.noise_process import add_noise, predict_clean
from instant3d.stage1.consistency import Predict, ddim_step


@dataclass(frozen=True)
class ProgressiveDistillation:
    """Settings of progressive distillation.

    Attributes:
        guidance: Scale of the teacher's classifier-free guidance, which the student learns; it is sampled without.
        guidance_stop: Share of the timesteps, from the noisiest, at which the teacher is guided.
        steps: Steps that the student is sampled with.
        teacher_steps: Steps of the teacher for each of the student's.
    """

    guidance: float = 5.0
    guidance_stop: float = 1.0
    steps: int = 4
    teacher_steps: int = 3

    def __post_init__(self) -> None:
        if self.steps < 1 or self.teacher_steps < 1:
            raise ValueError(f"steps and teacher_steps are at least 1, got {self.steps} and {self.teacher_steps}")

    def visited(self, drawn: Tensor, count: int) -> Tensor:
        """Timesteps that the teacher visits in one step of the student.

        Args:
            drawn: Timesteps (B,) drawn from all.
            count: Number of timesteps of training.

        Returns:
            (teacher_steps + 1, B), as samplers with trailing timesteps visit them: from the beginning of the student's
            step that the drawn timestep lies in to its end, which is -1 for clean samples.
        """
        part = drawn * self.steps // count
        left = (part + 1) * self.teacher_steps - torch.arange(self.teacher_steps + 1, device=drawn.device)[:, None]
        return (left.double() * count / (self.steps * self.teacher_steps)).round().long() - 1

    def losses(
        self, kind: str, abar: Tensor, clean: Tensor, noise: Tensor, drawn: Tensor, student: Predict, teacher: Predict
    ) -> Tensor:
        """Errors of the clean samples that the student predicts (Salimans and Ho 2022, algorithm 2).

        The target is the clean sample by which one step of DDIM reaches what the teacher reaches in `teacher_steps`.
        Errors are weighted by max(SNR, 1), the paper's truncated SNR.

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
        shares = torch.cat([abar, abar.new_ones(1)])  # the timestep -1 is clean
        timesteps = self.visited(drawn, len(abar))
        first, last = shares[timesteps[0]], shares[timesteps[-1]]
        start = add_noise(clean, noise, first)
        with torch.no_grad():
            reached = start
            for now, following in pairwise(timesteps):
                reached = ddim_step(kind, teacher(reached, now), reached, shares[now], shares[following])
            target = implied_clean(start, reached, first, last)
        found = predict_clean(kind, student(start, timesteps[0]).float(), start, first)
        weight = (first / (1 - first)).clamp(min=1.0)
        return weight * (found - target).square().flatten(1).mean(-1)


def implied_clean(x_t: Tensor, reached: Tensor, abar: Tensor, abar_reached: Tensor) -> Tensor:
    """The clean sample z by which one step of DDIM leads from x_t to `reached` (Salimans and Ho 2022, appendix G).

    Args:
        x_t: Noisy samples (B, ...).
        reached: Samples at a lower noise level (B, ...).
        abar: Share of signal of `x_t` (B,).
        abar_reached: That of `reached` (B,).

    Returns:
        (B, ...).
    """
    shape = (-1, *[1] * (x_t.dim() - 1))
    ratio = ((1 - abar_reached) / (1 - abar)).sqrt()  # of the noise
    signal = abar_reached.sqrt() - ratio * abar.sqrt()
    return (reached - ratio.reshape(shape) * x_t) / signal.reshape(shape)
