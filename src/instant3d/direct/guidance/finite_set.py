"""Exact diffusion model of a finite set of captioned images in closed form: a guidance model without training.

The images are the centres X_k of a Gaussian mixture with standard deviation s. Its noisy samples are again a mixture,
whose score is known:

    E[x_0 | x_t, y] = sum_k r_k m_k,   r = softmax_k(log pi_k(y) - |x_t - sqrt(abar) X_k|^2 / 2 (abar s^2 + 1 - abar))
    eps_hat = (x_t - sqrt(abar) E[x_0 | x_t, y]) / sqrt(1 - abar)

where m_k is the posterior mean within one component and pi(y) are the shares of the images that prompt y names. It is
what a network with unlimited training on that set would predict, so that errors of the trained generator are its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.direct.view_prompts import VIEWS

SAME_PLACE = 1e-4  # tolerance of cosines: less than a degree


class FiniteSetGuidance:
    """A `DiffusionGuidance` over K images, the prompt of each, and the view it shows.

    Args:
        images: (K, 3, side, side) in [0, 1].
        prompts: Prompt of each image, K texts.
        views: Index into `VIEWS` of each image, (K,), or how well each view's words fit it, (K, 3).
        spread: s, for image values in [-1, 1].
        abar: Share of signal left at each of T timesteps; that of Stable Diffusion by default.
        taken_from: Unit vectors (K, 3) to the camera of each image, if the model is to be conditioned on the camera as
            well, like those that were trained with cameras (MVDream, Shi et al. 2023).

    Raises:
        ValueError: The numbers of images, prompts and views differ.
    """

    def __init__(
        self,
        images: Tensor,
        prompts: Sequence[str],
        views: Tensor,
        *,
        spread: float = 0.1,
        abar: Tensor | None = None,
        taken_from: Tensor | None = None,
    ) -> None:
        if len(images) != len(prompts) or len(images) != len(views):
            raise ValueError(
                f"each image needs a prompt and a view, got {len(images)}, {len(prompts)} and {len(views)} of them"
            )
        self.side = images.shape[-1]
        self.centres = (2 * images - 1).flatten(1)
        self.squares = self.centres.square().sum(1)
        self.rows = {name: number for number, name in enumerate(dict.fromkeys(prompts))}
        self.owner = torch.tensor([self.rows[name] for name in prompts], device=images.device)
        named = F.one_hot(views, len(VIEWS)) if views.dim() == 1 else views
        self.named = named.to(self.centres)
        self.spread = spread
        self.abar = (scaled_linear() if abar is None else abar).to(self.centres)
        self.taken_from = None if taken_from is None else taken_from.to(self.centres)

    def encode_images(self, images: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) in [0, 1] to (B, 3, side, side) with values in [-1, 1]."""
        if images.shape[-1] != self.side:
            size = (self.side, self.side)
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return 2 * images.to(self.centres.dtype) - 1

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Share of each image, (B, K), in the meaning of "PROMPT", "PROMPT, VIEW" or the empty prompt (all alike).

        Raises:
            ValueError: No image has that prompt or view.
        """
        return torch.stack([self._shares(prompt) for prompt in prompts])

    def _shares(self, prompt: str) -> Tensor:
        text, _, view = prompt.rpartition(", ")
        if view not in VIEWS:
            text, view = prompt, ""
        if text and text not in self.rows:
            raise ValueError(
                f"the images show {len(self.rows)} prompts, and {text!r} is none of them; use their captions as prompts"
            )
        shares = torch.ones_like(self.squares) if not text else (self.owner == self.rows[text]).to(self.squares)
        if view:
            shares = shares * self.named[:, VIEWS.index(view)]
        if not shares.any():
            raise ValueError(f"no image shows {prompt!r}; render it from all sides")
        return shares / shares.sum()

    def condition_on_camera(self, conditions: Tensor, directions: Tensor) -> Tensor:
        """Restrict shares (B, K) to images whose cameras are nearest to directions (B, 3), if the model has cameras."""
        if self.taken_from is None:
            return conditions
        cosine = (directions.to(self.taken_from) @ self.taken_from.T).masked_fill(conditions == 0, -2.0)
        kept = conditions * (cosine > cosine.amax(dim=1, keepdim=True) - SAME_PLACE)
        return kept / kept.sum(dim=1, keepdim=True)

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        """Exact noise prediction.

        Args:
            x_t: Noisy images, (B, ...).
            t: Timesteps, (B,).
            conditions: Shares (B, K) from `embed_prompts`.

        Returns:
            eps_hat, (B, ...).
        """
        abar = self.abar[t][:, None]
        flat = x_t.flatten(1)
        variance = abar * self.spread**2 + 1 - abar
        apart = flat.square().sum(1, keepdim=True) - 2 * abar.sqrt() * (flat @ self.centres.T) + abar * self.squares
        share = torch.softmax(conditions.log() - apart / (2 * variance), dim=1)
        pull = abar.sqrt() * self.spread**2 / variance  # how far a component's mean follows x_t
        clean = (1 - pull * abar.sqrt()) * (share @ self.centres) + pull * flat
        return ((flat - abar.sqrt() * clean) / (1 - abar).sqrt()).view_as(x_t)


def scaled_linear(steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """abar (steps,) of Stable Diffusion's schedule, in float64 (Rombach et al. 2022).

    Args:
        steps: Number of timesteps.
        start: First beta.
        end: Last beta; the square roots of beta rise linearly.
    """
    beta = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    return (1 - beta).cumprod(0)
