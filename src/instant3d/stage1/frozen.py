"""Networks of stage 1 that are not trained: the UNet under LoRA weights, VAE and text encoders."""

from __future__ import annotations

from typing import Any

import torch

from instant3d.modules.diffusion.components import Components
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

    def encoders_on(self, device: torch.device) -> Components:
        """VAE and text encoders on a device, loaded at the first call."""
        if self.encoders.vae is None:
            self.encoders = Components.load(self.base, parts=PARTS)
            for part in (self.encoders.vae, self.encoders.text_encoder, self.encoders.text_encoder_2):
                part.requires_grad_(False)
        return self.encoders.to(device)
