"""Random numbers drawn on the generator's device, so that training on a GPU does not wait for the CPU to draw them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rand_like(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1) of a tensor's shape, dtype and device, drawn as `drawn_on` says."""
    return torch.rand(tensor.shape, **drawn_on(generator, tensor.device)).to(tensor)


def randn_like(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Normal numbers (mean 0, variance 1) of a tensor's shape, dtype and device, drawn as `drawn_on` says."""
    return torch.randn(tensor.shape, **drawn_on(generator, tensor.device)).to(tensor)


def drawn_on(generator: torch.Generator | None, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The arguments `generator` and `device` of torch's random functions.

    Args:
        generator: What draws; torch's own generator of `device` if None.
        device: Where to draw without a generator; a generator draws on its own device, for it can on no other.
    """
    return {"generator": generator, "device": device if generator is None else generator.device}
