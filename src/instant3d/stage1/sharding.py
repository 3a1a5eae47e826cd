"""Fully sharded training of a UNet (FSDP2): each process keeps its share of weights, gradients and optimiser state."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard

UNITS = ("BasicTransformerBlock", "ResnetBlock2D")  # diffusers' layers whose weights are gathered together


def shard(unet: nn.Module, mesh: Any) -> None:
    """Shard a UNet in place: each layer of UNITS by itself, all other weights together.

    A unit's weights are gathered before its pass and freed after it, so that few units are whole at a time.

    Args:
        unet: A UNet of diffusers, on the device of the mesh.
        mesh: Device mesh of one dimension, over which weights are split.
    """
    for layer in unet.modules():
        if type(layer).__name__ in UNITS:
            fully_shard(layer, mesh=mesh)
    fully_shard(unet, mesh=mesh)
