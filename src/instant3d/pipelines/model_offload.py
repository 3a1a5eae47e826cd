"""Offloading of networks to the CPU while they are not in use and device memory is short."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class ModelOffloader:
    """Moves networks between the CPU and a device.

    Args:
        parts: The networks by name.
        device: Where networks run. On a CPU nothing is moved.
        limit: Bytes that all weights on the device may take together. Networks of one call of `load_to_device` stay
            together even if they take more. None: networks are never moved back to the CPU.
    """

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device, limit: int | None = None) -> None:
        self.parts, self.device, self.limit = dict(parts), device, limit
        self.present: list[str] = []  # on the device, the one that was used last at the end

    def load_to_device(self, *names: str) -> None:
        """Move networks to the device; to make room, the least recently used others are moved to the CPU.

        Args:
            names: Keys of `parts` that are needed at the same time.

        Raises:
            KeyError: There is no network of that name.
        """
        if self.device.type == "cpu":
            return
        others = [name for name in self.present if name not in names]
        while self.limit is not None and others and self._bytes([*others, *names]) > self.limit:
            self.parts[others.pop(0)].to("cpu")
        for name in names:
            self.parts[name].to(self.device)
        self.present = [*others, *names]

    def _bytes(self, names: list[str]) -> int:
        return sum(weight_bytes(self.parts[name]) for name in names)


def weight_bytes(network: nn.Module) -> int:
    """Return the bytes that a network's parameters and buffers take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*network.parameters(), *network.buffers()])


def fair_share(device: torch.device) -> int | None:
    """Return the default limit for weights, in bytes: six tenths of a GPU's free memory, the rest for activations.

    Args:
        device: Where the networks run.

    Returns:
        The limit; None, which is no limit, on a CPU.
    """
    if device.type != "cuda":
        return None
    return int(0.6 * torch.cuda.mem_get_info(device)[0])
