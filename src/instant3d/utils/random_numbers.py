"""Random numbers generated directly on the device that uses them, so that a GPU does not wait for the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the odd number nearest to 2**64 divided by the golden ratio, as an int64


def rand_like(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1) of a tensor's shape, dtype and device; drawn as by `generator_kwargs`."""
    return torch.rand(tensor.shape, **generator_kwargs(generator, tensor.device)).to(tensor)


def randn_like(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Normal numbers (mean 0, variance 1) of a tensor's shape, dtype and device; drawn as by `rand_like`."""
    return torch.randn(tensor.shape, **generator_kwargs(generator, tensor.device)).to(tensor)


def generator_kwargs(generator: torch.Generator | None, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the arguments `generator` and `device` of torch's random functions.

    Args:
        generator: Random generator; torch's own generator of `device` if None.
        device: Where to draw without a generator; a generator can draw only on its own device.
    """
    return {"generator": generator, "device": device if generator is None else generator.device}


def uniform_by_index(numbers: Tensor, shape: Sequence[int], *key: int) -> Tensor:
    """Uniform numbers in [0, 1) that depend only on each example's number, not on its batch or device.

    A counter-based generator (Salmon et al. 2011): a whole batch is drawn by a few operations where it is used,
    without a generator for each example.

    Args:
        numbers: Example numbers, (B,) int64; the result lies on their device.
        shape: Shape of one example's random numbers.
        *key: Seed and purpose; different keys give independent streams.

    Returns:
        (B, *shape), float32, in steps of 2**-24.
    """
    stream = numbers.to(torch.int64)
    for part in key:
        stream = _mixed(stream + _signed((part + 1) * GOLDEN))
    counter = torch.arange(1, math.prod(shape) + 1, device=numbers.device) * GOLDEN
    bits = _mixed(_mixed(stream)[:, None] + counter)
    return (_shifted(bits, 40).float() * 2.0**-24).reshape(len(numbers), *shape)


def normal_by_index(numbers: Tensor, shape: Sequence[int], *key: int) -> Tensor:
    """Normal numbers (mean 0, variance 1), (B, *shape) float32, by Box and Muller 1958; see `uniform_by_index`."""
    radius, angle = uniform_by_index(numbers, (2, *shape), *key).unbind(1)
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)


def _mixed(state: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014): every bit of the result depends on every bit."""
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, places: int) -> Tensor:
    """Logical shift to the right, which fills with zeros; torch's own shift keeps the sign."""
    return (state >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    """Return the int64 with the bits of a number modulo 2**64."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value
