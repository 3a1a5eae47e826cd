"""Sampling of six views from one image by Zero123++ (arXiv 2310.15110), step by step as its authors' pipeline.

The image conditions the UNet twice: by reference attention to its own noised latents, and by its CLIP embedding, which
is added to the tokens of the empty prompt with a weight that grows along them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instant3d.modules.diffusion.reference_attention import ReferencePass
from instant3d.modules.diffusion.schedulers import build_scheduler
from instant3d.modules.diffusion.zero123plus_parts import Zero123PlusParts
from instant3d.utils.progress import OnStep
from instant3d.utils.tensor_dataclass import TensorDataclass

SHIFT, SCALE = 0.22, 0.75  # of latents in training, after the VAE's own factor
CONTRAST = 0.8 / 0.5  # training images were divided by this
Draw = Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Zero123PlusSampling:
    """Options of sampling six views.

    Attributes:
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; at 1 or below there is none.
        seed: Random seed.
    """

    steps: int = 75
    guidance: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"sampling takes 1 to 1000 steps, got {self.steps}")


DEFAULT_SAMPLING = Zero123PlusSampling()


@dataclass(frozen=True)
class ImageConditions(TensorDataclass):
    """Conditions of the two halves, without and with the image.

    Attributes:
        reference: (2, C, r, r), latents of an empty image and of the image, without the VAE's factor.
        text: (2, N, D), tokens of the empty prompt, without and with the image's embedding.
    """

    reference: Tensor
    text: Tensor


class Zero123Plus:
    """Generates six views of the object in one image.

    Args:
        parts: The components; attention of the UNet is changed.
    """

    def __init__(self, parts: Zero123PlusParts) -> None:
        self.parts = parts
        self.unet, self.vae = parts.networks["unet"], parts.networks["vae"]
        self.reference_pass = ReferencePass(self.unet)

    @torch.no_grad()
    def encode(self, image: Image.Image, draw: Draw) -> ImageConditions:
        """Encode an image; `draw` gives the posterior's noise of the image and then of the empty image.

        Args:
            image: Square RGB image over the model's background.
            draw: Standard normal numbers of a shape.
        """
        pixels, clip_pixels = (
            preprocess(image, self.parts.extractors[name])[None]
            for name in ("feature_extractor_vae", "feature_extractor_clip")
        )
        with_image = self._posterior(pixels, draw)
        reference = torch.cat([self._posterior(torch.zeros_like(pixels), draw), with_image])
        vision = self.parts.networks["vision_encoder"]
        embedding = vision(clip_pixels.to(vision.device, vision.dtype)).image_embeds.float()
        empty = self._empty_prompt()
        ramp = torch.tensor(self.parts.ramp, device=empty.device)[:, None]
        return ImageConditions(reference, torch.cat([empty, empty + ramp * embedding[:, None].to(empty.device)]))

    def _posterior(self, pixels: Tensor, draw: Draw) -> Tensor:
        """Sample latents (1, C, r, r) of pixels (1, 3, H, W), without the VAE's factor."""
        posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        noise = draw(tuple(posterior.mean.shape)).to(posterior.mean.device)
        return posterior.mean.float() + posterior.std.float() * noise

    def _empty_prompt(self) -> Tensor:
        """Tokens (1, N, D) of the empty prompt: start, end, and padding by 0."""
        encoder = self.parts.networks["text_encoder"]
        config = encoder.config
        ids = torch.zeros(1, config.max_position_embeddings, dtype=torch.long, device=encoder.device)
        ids[0, :2] = torch.tensor([config.vocab_size - 2, config.vocab_size - 1])
        return encoder(ids).last_hidden_state.float()

    @torch.no_grad()
    def denoise(
        self,
        conditions: ImageConditions,
        draw: Draw,
        sampling: Zero123PlusSampling = DEFAULT_SAMPLING,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Sample latents (1, C, h, w) of the views by Euler ancestral steps.

        Args:
            conditions: As `encode` returns them.
            draw: Standard normal numbers of a shape; in order the start, then for each step the reference's noise and
                the step's own.
            sampling: Steps and guidance.
            on_step: Called after each step with the steps done and their number.
        """
        timesteps, sigmas = noise_levels(self.parts.scheduler, sampling.steps)
        conditions = conditions.to(self.unet.device) if sampling.guidance > 1 else conditions[1:].to(self.unet.device)
        x = float(sigmas[0]) * self._drawn(draw, (1, self.unet.config.in_channels, *self.latent_size))
        for k, timestep in enumerate(timesteps.tolist()):
            sigma, after = float(sigmas[k]), float(sigmas[k + 1])
            reference_noise = self._drawn(draw, tuple(conditions.reference.shape))
            v = self.predict(x, timestep, sigma, conditions, reference_noise)
            if sampling.guidance > 1:
                v = v[:1] + sampling.guidance * (v[1:] - v[:1])
            clean = x / (1 + sigma**2) - v * sigma / (1 + sigma**2) ** 0.5
            x = ancestral_step(x, clean, sigma, after, self._drawn(draw, tuple(x.shape)))
            if on_step is not None:
                on_step(k + 1, sampling.steps)
        self.reference_pass.forget()
        return x

    def predict(
        self, x: Tensor, timestep: int, sigma: float, conditions: ImageConditions, reference_noise: Tensor
    ) -> Tensor:
        """Predict v with the UNet, after the reference pass at the same timestep.

        Args:
            x: Noisy latents (1, C, h, w), clean latents plus `sigma` times noise.
            timestep: Training timestep.
            sigma: Noise level.
            conditions: Both halves, or the one with the image.
            reference_noise: Standard normal noise of the shape of `conditions.reference`.

        Returns:
            v of each half, (2 or 1, C, h, w), in float32.
        """
        root = (1 + sigma**2) ** 0.5
        with self.reference_pass.recording():
            self._unet((conditions.reference + sigma * reference_noise) / root, timestep, conditions.text)
        return self._unet((x / root).expand(len(conditions.text), -1, -1, -1), timestep, conditions.text)

    def _unet(self, x: Tensor, timestep: int, text: Tensor) -> Tensor:
        dtype = self.unet.dtype
        return self.unet(x.to(dtype), timestep, text.to(dtype), return_dict=False)[0].float()

    def _drawn(self, draw: Draw, shape: tuple[int, ...]) -> Tensor:
        return draw(shape).to(self.unet.device)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents of all views."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        rows, columns = self.parts.rows_and_columns
        return rows * self.parts.view_size // factor, columns * self.parts.view_size // factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (1, C, h, w) to one image of all views, (3, H, W) in [0, 1] over the background."""
        raw = (latents / SCALE + SHIFT) / self.vae.config.scaling_factor
        decoded = self.vae.decode(raw.to(self.vae.device, self.vae.dtype), return_dict=False)[0][0].float()
        return (CONTRAST * decoded / 2 + 0.5).clamp(0, 1)


def noise_levels(config: Mapping[str, Any], steps: int) -> tuple[Tensor, Tensor]:
    """Timesteps (n,) in trailing spacing and noise levels sigma (n + 1,), of which the last is 0."""
    abar = build_scheduler(config, "ddim").alphas_cumprod.double()
    left = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    timesteps = (len(abar) * left).round().long() - 1
    sigmas = ((1 - abar) / abar).sqrt()[timesteps]
    return timesteps, torch.cat([sigmas, sigmas.new_zeros(1)])


def ancestral_step(x: Tensor, clean: Tensor, sigma: float, after: float, noise: Tensor) -> Tensor:
    """Take one step of Euler ancestral sampling: down by Euler, then up by fresh noise (Karras et al. 2022).

    Args:
        x: Noisy latents (1, C, h, w).
        clean: Clean latents predicted from them, (1, C, h, w).
        sigma: Noise level of `x`, above 0.
        after: Noise level after the step.
        noise: Standard normal noise (1, C, h, w).

    Returns:
        Latents (1, C, h, w) at noise level `after`.
    """
    up = (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5
    down = (after**2 - up**2) ** 0.5
    return x + (x - clean) / sigma * (down - sigma) + up * noise


def preprocess(image: Image.Image, settings: Mapping[str, Any]) -> Tensor:
    """Resize an image on bytes, crop its centre and normalise it as CLIP's image processor: (3, S, S).

    Args:
        image: RGB image.
        settings: preprocessor_config.json: `size`, `resample`, `crop_size`, `image_mean` and `image_std`.
    """
    shortest, side = settings["size"]["shortest_edge"], settings["crop_size"]["height"]
    factor = shortest / min(image.size)
    size = tuple(max(shortest, int(length * factor)) for length in image.size)
    resized = image.resize(size, Image.Resampling(settings["resample"]))
    left, top = ((length - side) // 2 for length in size)
    pixels = torch.from_numpy(np.array(resized.crop((left, top, left + side, top + side)))).permute(2, 0, 1)
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("image_mean", "image_std"))
    return (pixels.float() / 255 - mean) / std


def over_background(image: Image.Image, level: int) -> Image.Image:
    """Lay an RGBA image over grey of a level of 255; an RGB image is returned as it is."""
    if image.mode != "RGBA":
        return image
    laid = Image.new("RGB", image.size, (level, level, level))
    laid.paste(image, mask=image.getchannel("A"))
    return laid
