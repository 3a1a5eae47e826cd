"""AdamW with float32 state by PyTorch, or with 8-bit state by bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

Kind = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]

EIGHT_BIT = {"adamw_8bit": "AdamW8bit", "paged_adamw_8bit": "PagedAdamW8bit"}


def make_adamw(parameters: Sequence[nn.Parameter], kind: Kind, **settings: Any) -> Optimizer:
    """Make an AdamW.

    Args:
        parameters: What it trains.
        kind: "adamw"; or bitsandbytes' with both moments in 8 bits, 2 bytes a parameter in place of 8 (Dettmers et al.
            2022, arXiv 2110.02861), "paged" ones moving to the CPU's memory while the GPU's is full.
        **settings: `lr`, `betas` and `weight_decay`.

    Raises:
        ValueError: bitsandbytes is needed and cannot be imported.
    """
    if kind == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    try:
        import bitsandbytes
    except (ImportError, OSError):
        raise ValueError(
            f"the optimiser {kind} needs bitsandbytes, which is not installed or cannot be loaded; "
            "`pip install 'instant3d[optimisers]'`, or set model.optimizer to adamw"
        ) from None
    return getattr(bitsandbytes.optim, EIGHT_BIT[kind])(parameters, **settings)
