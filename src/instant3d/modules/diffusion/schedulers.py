"""Samplers over a noise schedule, as diffusers builds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instant3d.modules.diffusion.loading import without_warnings

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",  # second order, multistep (Lu et al. 2022, DPM-Solver++ 2M)
    "lcm": "LCMScheduler",  # for weights distilled to few steps (Luo et al. 2023); adds new noise at every step
}


def build_scheduler(config: Mapping[str, Any], name: str, spacing: str | None = None) -> Any:
    """Build a sampler, one of SAMPLERS, over the noise schedule in a scheduler's configuration.

    Args:
        config: Configuration of any diffusers scheduler.
        name: Key of SAMPLERS.
        spacing: Which of the T = 1000 training timesteps n steps visit: "leading" multiples of T // n (so that
            sampling begins below T: at 958 of 999 for 30 steps of SDXL), "trailing" those that end at T - 1,
            "linspace" both ends; by default that of `config`. Lin et al. 2023 (table 2) find trailing best for few
            steps. DDIM, which diffusers lets step by T // n whatever is visited, takes trailing in linspace's place.

    Raises:
        ValueError: There is no such sampler.
    """
    import diffusers

    if name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}; choose among {', '.join(SAMPLERS)}")
    # latents are not images, so their values must not be clipped to [-1, 1]
    settings = {**config, "clip_sample": False, "thresholding": False}
    # else what was left to the defaults of another class would change when the scheduler is saved and loaded
    settings.pop("_use_default_values", None)
    if spacing is not None:
        settings["timestep_spacing"] = spacing
    if name == "ddim" and settings.get("timestep_spacing") == "linspace":
        settings["timestep_spacing"] = "trailing"
    with without_warnings():
        return getattr(diffusers, SAMPLERS[name]).from_config(settings)
