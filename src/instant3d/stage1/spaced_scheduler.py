"""Samplers over only the noise levels that a number of steps visits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.inference import dpm_solver, euler
from instant3d.modules.diffusion.inference.noise_levels import linear_alphas_cumprod
from instant3d.modules.diffusion.loading import without_warnings
from instant3d.modules.diffusion.noise_process import KINDS
from instant3d.modules.diffusion.schedulers import build_scheduler
from instant3d.modules.diffusion.view_layout import Spacing
from instant3d.stage1.consistency import LCM_LEVELS
from instant3d.stage1.sampling_options import Sampling

# the samplers as in their papers: the last step ends at clean latents
SETTINGS = {
    "set_alpha_to_one": True,
    "final_sigmas_type": "zero",
    "use_karras_sigmas": False,
}
LEAST_SIGNAL = 2.0**-24  # abar where it should be zero; Euler divides by its root


def spaced_scheduler(
    config: Mapping[str, Any], sampling: Sampling, spacing: Spacing = "trailing"
) -> tuple[Any, Tensor]:
    """Build a sampler over only the noise levels that it visits.

    The timesteps begin at `start_timestep` and are spread evenly below it ("trailing": Lin et al. 2024, section 3.3).
    diffusers' schedulers step through their own timesteps by a fixed stride, which drifts where `steps` does not divide
    their number, and cannot begin below the last; over a schedule of `steps` levels the stride is one.

    Args:
        config: Configuration of the model's scheduler, with the noise schedule of its training.
        sampling: Steps, sampler and first timestep.
        spacing: "legacy" visits floor(first (1 - k / steps)) instead, as Stability AI's first SDXL code does. LCM
            visits some of the levels it was distilled on, whatever the spacing.

    Returns:
        The sampler, and the training timesteps (steps,) with its noise levels, which the UNet is conditioned on.

    Raises:
        ValueError: The first timestep is not one of training's, or there are fewer timesteps than steps.
    """
    abar = linear_alphas_cumprod(config)
    levels = (build_scheduler(config, "ddim").alphas_cumprod if abar is None else abar).double()
    first = len(levels) - 1 if sampling.start_timestep is None else sampling.start_timestep
    if not 0 <= first < len(levels):
        raise ValueError(f"start_timestep must be one of training's timesteps 0 to {len(levels) - 1}, got {first}")
    if sampling.steps > first + 1:
        raise ValueError(f"{sampling.steps} steps do not fit into timesteps 0 to {first}; give fewer steps")
    if sampling.sampler == "lcm":
        return _lcm_scheduler(config, sampling.steps, first)
    left = torch.arange(sampling.steps, 0, -1)
    if spacing == "legacy":  # in whole numbers: floating point slips at some numbers of steps
        timesteps = first * left // sampling.steps
    else:
        timesteps = ((first + 1) * (left.double() / sampling.steps)).round().long() - 1
    kept = levels[timesteps].clamp(min=LEAST_SIGNAL).flip(0)
    betas = 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
    kind = config.get("prediction_type", KINDS[0])
    if sampling.sampler == "euler" and euler.supports(config):
        return euler.Euler(betas.tolist(), kind), timesteps
    if sampling.sampler == "dpm++" and dpm_solver.supports(config):
        return dpm_solver.DpmSolver(betas.tolist(), kind), timesteps
    visited = {"num_train_timesteps": sampling.steps, "trained_betas": betas.tolist(), "rescale_betas_zero_snr": False}
    scheduler = build_scheduler({**config, **SETTINGS, **visited}, sampling.sampler, "trailing")
    scheduler.set_timesteps(sampling.steps)
    return scheduler, timesteps


def _lcm_scheduler(config: Mapping[str, Any], steps: int, first: int) -> tuple[Any, Tensor]:
    """LCM's sampler over its own choice of levels; its formula needs the timesteps of training."""
    levels = min(LCM_LEVELS, first + 1)
    if steps > levels:
        raise ValueError(f"the sampler lcm takes at most {levels} steps from timestep {first}, got {steps}")
    left = levels - torch.arange(steps) * levels // steps
    timesteps = ((first + 1) * (left.double() / levels)).round().long() - 1
    scheduler = build_scheduler({**config, **SETTINGS}, "lcm")
    with without_warnings():  # of timesteps that are not those of a start at the last one
        scheduler.set_timesteps(timesteps=timesteps.tolist())
    return scheduler, timesteps
