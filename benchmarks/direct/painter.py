"""A small text-to-image diffusion model of the small world, trained on its images: guidance with errors."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.direct.album import LENGTH, VOCABULARY, Album, drawn_from, numbered, views_of
from benchmarks.direct.course import follow
from benchmarks.direct.world import SIZE
from instant3d.direct.guidance.finite_set import scaled_linear
from instant3d.direct.guidance.sds import classifier_free_guidance
from instant3d.modules.diffusion.noise_process import add_noise, predict_clean

WIDTH = 48  # of a word
BLOCK = 2  # pixels a side that the UNet takes as one place, which is a third of the work
WITHOUT_PROMPT = 0.1  # share of images that are learned without their caption
BATCH, RATE, DECAY = 32, 1e-3, 0.999
SAMPLING_STEPS, SCALE = 25, 3.0  # of classifier-free guidance when it paints by itself


class Painter(nn.Module):
    """A UNet of a million weights that reads captions by embeddings of its own; predicts the noise."""

    abar: Tensor

    def __init__(self, seed: int = 0) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("abar", scaled_linear().float())
        self.words = nn.Embedding(len(VOCABULARY), WIDTH)
        self.places = nn.Parameter(0.5 * torch.randn(LENGTH, WIDTH))
        self.unet = UNet2DConditionModel(
            sample_size=SIZE // BLOCK,
            in_channels=3 * BLOCK**2,
            out_channels=3 * BLOCK**2,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        )

    def read(self, words: Tensor) -> Tensor:
        """Numbers of words (..., 9) -> (..., 9, 48)."""
        return self.words(words) + self.places

    def forward(self, x_t: Tensor, t: Tensor, told: Tensor) -> Tensor:
        """The noise in x_t (B, 3, S, S) at timesteps t (B,), told (B, 9, 48)."""
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(x_t, BLOCK), t, told).sample, BLOCK)

    # what a Guide does

    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 3, 20, 20) from -1 to 1."""
        if images.shape[-1] != SIZE:
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
        return 2 * images - 1

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        return self.read(numbered(prompts))

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        return self(x_t, t, conditions)


def learn(
    painter: Painter, album: Album, prompts: Sequence[str], numbers: Sequence[int], steps: int, seed: int
) -> None:
    """Train on images of the kinds `numbers`; the painter is left with averaged weights."""
    generator = torch.Generator().manual_seed(seed)
    texts, average = views_of(prompts), copy.deepcopy(painter)
    optimizer = torch.optim.AdamW(painter.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = drawn_from(numbers, BATCH, generator)
        pictures, view = album.draw(chosen, generator)
        told = painter.read(_forgotten(texts[chosen, view], generator))
        t = torch.randint(len(painter.abar), (BATCH,), generator=generator)
        eps = torch.randn(pictures.shape, generator=generator)
        answer = painter(add_noise(painter.encode_images(pictures), eps, painter.abar[t]), t, told)
        optimizer.zero_grad()
        F.mse_loss(answer, eps).backward()
        torch.nn.utils.clip_grad_norm_(painter.parameters(), 1.0)
        optimizer.step()
        follow(average, painter, min(DECAY, (step + 1) / (step + 10)))
    painter.load_state_dict(average.state_dict())


def _forgotten(words: Tensor, generator: torch.Generator) -> Tensor:
    """Some captions (B, 9) without a word, so that the painter also knows what there is in general."""
    return words * (torch.rand(len(words), 1, generator=generator) >= WITHOUT_PROMPT)


@torch.no_grad()
def paint(painter: Painter, prompts: Sequence[str], generator: torch.Generator) -> Tensor:
    """Images (B, 3, 20, 20) in [0, 1] of prompts (B), by 25 steps of DDIM (Song et al. 2021) from pure noise."""
    told, nothing = painter.embed_prompts(prompts), painter.embed_prompts([""] * len(prompts))
    x = torch.randn(len(prompts), 3, SIZE, SIZE, generator=generator)
    times = torch.linspace(len(painter.abar) - 1, 0, SAMPLING_STEPS + 1).round().long()
    for now, then in itertools.pairwise(times):
        t, abar = now.expand(len(x)), painter.abar[now].expand(len(x))
        eps = classifier_free_guidance(painter.predict_noise(x, t, nothing), painter.predict_noise(x, t, told), SCALE)
        z = predict_clean("epsilon", eps, x, abar).clamp(-1, 1)
        eps = (x - abar[0].sqrt() * z) / (1 - abar[0]).sqrt()  # what is left of the noise once values are in range
        x = add_noise(z, eps, painter.abar[then].expand(len(x)))
    return (z + 1) / 2
