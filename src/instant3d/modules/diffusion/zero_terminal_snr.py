"""Noise schedules whose last timestep holds no signal (Lin et al. 2023, "Common diffusion noise schedules...")."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from instant3d.modules.diffusion.schedulers import build_scheduler


def rescale_to_zero_terminal_snr(scheduler: Any) -> Tensor:
    """Rescale a scheduler's noise so that its last timestep holds no signal (Lin et al. 2023, algorithm 1).

    Args:
        scheduler: Its configuration is changed, which determines the samplers that are built from it.

    Returns:
        The new alphas_cumprod (T,).

    Raises:
        ValueError: Its network predicts the noise, which tells nothing where there is no signal.
    """
    if scheduler.config.prediction_type != "v_prediction":
        raise ValueError("zero_terminal_snr needs a network that predicts v; set prediction_type to v_prediction")
    scheduler.register_to_config(rescale_betas_zero_snr=True)
    return build_scheduler(scheduler.config, "ddim").alphas_cumprod  # Euler's would keep a little signal
