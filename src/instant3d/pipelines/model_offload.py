"""Which networks are on the device: those that are about to be used; others wait on the CPU when memory is short.

Knows nothing of what the networks do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class ModelOffloader:
    """Moves networks between the CPU, where they wait, and a device.

    limit   bytes that the weights on the device may take together; what is used together stays together, even if it
            takes more. None: whatever was used once stays
    """

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device, limit: int | None = None) -> None:
        self.parts, self.device, self.limit = dict(parts), device, limit
        self.present: list[str] = []  # on the device, the one that was used last at the end

    def load_to_device(self, *names: str) -> None:
        """Have these networks on the device; those that were not used for longest make room."""
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
    """What a network's parameters and buffers take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*network.parameters(), *network.buffers()])


def fair_share(device: torch.device) -> int | None:
    """What weights may take if nobody says: six tenths of the memory that is free, as activations need room too."""
    if device.type != "cuda":
        return None
    return int(0.6 * torch.cuda.mem_get_info(device)[0])
