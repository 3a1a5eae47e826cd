"""How the learning rate goes on, of all that is trained here."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def rate(step: int, warmup: int, total: int | None) -> float:
    """Factor of the learning rate: linear up to 1 over `warmup` steps, then 1, or half a cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    if total is None:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def scheduled(optimizer: Optimizer, warmup: int, total: int | None) -> dict[str, Any]:
    """What Lightning's `configure_optimizers` returns: the optimizer with that factor, taken anew at every step."""
    schedule = LambdaLR(optimizer, lambda step: rate(step, warmup, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
