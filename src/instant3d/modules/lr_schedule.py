"""Learning-rate schedule of all training: linear warm-up, then half a cosine to zero.

The cosine falls over a number of steps or, where a run has a time limit (`trainer.max_time`), over its seconds.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def lr_factor(step: int, warmup: int, progress: float) -> float:
    """Factor of the learning rate.

    Args:
        step: Optimiser steps taken so far.
        warmup: Steps over which the factor rises linearly to 1.
        progress: Share of the training that is over, in [0, 1]; 0 throughout keeps the rate constant.
    """
    rise = min(1.0, (step + 1) / max(1, warmup))
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def training_progress(trainer: L.Trainer, step: int, warmup: int = 0) -> float:
    """Compute the share of a run that is over: of its steps after the warm-up or of its time, whichever ends first.

    Args:
        trainer: Its number of steps, or the time limit of a `Timer` callback, ends the run.
        step: Optimiser steps taken so far.
        warmup: Steps of the warm-up.

    Returns:
        A share in [0, 1], the same in every process.
    """
    shares = [max(0, step - warmup) / max(1, trainer.estimated_stepping_batches - warmup)]
    for timer in (one for one in trainer.callbacks if isinstance(one, Timer)):  # type: ignore[attr-defined]
        if (remaining := timer.time_remaining()) is not None:
            elapsed = timer.time_elapsed()
            shares.append(elapsed / max(elapsed + remaining, 1e-9))
    # every process of DDP must take the same rate, and their clocks differ
    return float(trainer.strategy.broadcast(max(shares))) if len(shares) > 1 else shares[0]


def with_lr_schedule(optimizer: Optimizer, warmup: int, trainer: L.Trainer | None) -> dict[str, Any]:
    """The return value of `configure_optimizers`: an optimizer with `lr_factor`, updated at every step.

    Args:
        optimizer: Holds the highest learning rates.
        warmup: Steps of the linear rise.
        trainer: Its `max_steps` or `max_time` ends the cosine; None keeps the rate constant after the warm-up.
    """

    def factor(step: int) -> float:
        return lr_factor(step, warmup, 0.0 if trainer is None else training_progress(trainer, step, warmup))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
