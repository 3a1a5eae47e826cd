"""What a VAE loses of images, for training on views as a latent diffusion model decodes them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from instant3d.modules.diffusion.components import Components
from instant3d.modules.frozen import FrozenModule
from instant3d.utils import bundled
from instant3d.views import Views

OPAQUE = 0.5  # alpha from which a pixel's own colour can be told from the white behind it


class VaeBlur(FrozenModule):
    """Encodes and decodes views by a VAE, on white as they are generated; cameras and alpha stay.

    Args:
        source: Folder, Hub id or file of the model whose VAE it is; None is the bundled stage 1.
        probability: Of the views of an object, all together.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: A file is damaged, or the probability is not in [0, 1].
    """

    def __init__(self, source: str | None, probability: float) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"the probability of VAE blur must be in [0, 1], got {probability}")
        folder = bundled.weights_folder(bundled.STAGE1, source, option="model.vae_inputs.model")
        self.vae, self.probability = Components.load(folder, parts=["vae"]).vae, probability
        self.freeze()

    @torch.no_grad()
    def forward(self, views: Views, generator: torch.Generator) -> Views:
        """Views (B, V), of which those of some objects are decoded from their latents."""
        chosen = torch.rand(len(views.rgb), generator=generator, device=generator.device) < self.probability
        rgb = views.rgb.clone()
        for k in chosen.nonzero()[:, 0].tolist():
            rgb[k] = self.blurred(views[k])
        return replace(views, rgb=rgb)

    @torch.no_grad()
    def blurred(self, views: Views) -> Tensor:
        """Straight colours (V, 3, H, W) of views (V,) after the VAE; the old ones where they are mostly white."""
        latents = self.vae.encode(2 * views.composite(1.0) - 1).latent_dist.mode()
        decoded = (self.vae.decode(latents, return_dict=False)[0].to(views.rgb.dtype) + 1) / 2
        own = (decoded - (1 - views.alpha)) / views.alpha.clamp(min=OPAQUE)
        return torch.where(views.alpha > OPAQUE, own.clamp(0, 1), views.rgb)
