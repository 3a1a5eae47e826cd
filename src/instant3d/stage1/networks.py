"""The networks that training of stage 1 calls: frozen ones, and a UNet as a function of tensors alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.text import TextEmbedding
from instant3d.modules.frozen import FrozenModules
from instant3d.stage1.cache import PARTS


class Frozen(FrozenModules):
    """Frozen networks of a module, kept out of its state_dict, its EMA and deep copies.

    Args:
        base: Model that the networks are loaded from.
    """

    def __init__(self, base: str) -> None:
        self.base, self.encoders = base, Components()
        self.unet: Any = None
        self.teacher: Any = None

    def encoders_on(self, device: torch.device) -> Components:
        """VAE and text encoders on a device, loaded at the first call."""
        if self.encoders.vae is None:
            self.encoders = Components.load(self.base, parts=PARTS)
            for part in (self.encoders.vae, self.encoders.text_encoder, self.encoders.text_encoder_2):
                part.requires_grad_(False)
        return self.encoders.to(device)

    @contextmanager
    def teaching(self, device: torch.device) -> Iterator[Any]:
        """The UNet that is distilled: a copy of its own, or the one without its LoRA weights."""
        if self.teacher is not None:
            yield self.teacher.to(device)
            return
        self.unet.to(device).disable_adapters()
        try:
            yield self.unet
        finally:
            self.unet.enable_adapters()


class NoisePrediction(nn.Module):
    """An SDXL UNet as a function of tensors alone, which a CUDA graph can record."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """The UNet's output.

        Args:
            latents: (B, C, h, w).
            timestep: (B,).
            tokens: Text tokens (B, T, D).
            pooled: Summary of the text (B, P).
            time_ids: Sizes (B, 6).

        Returns:
            (B, C, h, w).
        """
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        return self.unet(latents, timestep, tokens, added_cond_kwargs=conditions, return_dict=False)[0]


def unet_output(
    network: Callable[..., Tensor], latents: Tensor, timestep: Tensor, text: TextEmbedding, size: Tensor
) -> Tensor:
    """The output of a UNet, conditioned on the grid's size and no crop (SDXL, section 2.2).

    Args:
        network: A `NoisePrediction`, or a CUDA graph of one.
        latents: Noisy latents, (B, C, h, w).
        timestep: (B,).
        text: Embedded prompts.
        size: Pixels a side of the grids, (B,).

    Returns:
        (B, C, h, w), noise or velocity.
    """
    zero = torch.zeros_like(size)
    time_ids = torch.stack([size, size, zero, zero, size, size], dim=-1).to(latents.dtype)
    return network(latents, timestep, text.tokens, text.pooled, time_ids)
