"""A small text-to-image diffusion model of the small world, trained on its images: guidance with errors."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.direct.dataset import LENGTH, VOCABULARY, ViewDataset, sample_indices, tokenize, tokenize_views
from benchmarks.direct.training import update_average
from benchmarks.direct.world import SIZE
from instant3d.direct.guidance.finite_set import scaled_linear
from instant3d.direct.guidance.sds import classifier_free_guidance
from instant3d.modules.diffusion.noise_process import add_noise, predict_clean

WIDTH = 48  # of a word
BLOCK = 2  # pixels a side that the UNet takes as one place, which is a third of the work
WITHOUT_PROMPT = 0.1  # share of images that are trained on without their caption
BATCH, RATE, DECAY = 32, 1e-3, 0.999
SAMPLING_STEPS, SCALE = 25, 3.0  # of classifier-free guidance when it samples by itself


class SmallDiffusionModel(nn.Module):
    """A UNet of a million weights with its own embeddings of captions; predicts the noise."""

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

    def embed_words(self, words: Tensor) -> Tensor:
        """Numbers of words (..., 9) -> (..., 9, 48)."""
        return self.words(words) + self.places

    def forward(self, x_t: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        """The noise in x_t (B, 3, S, S) at timesteps t (B,), given embedded captions (B, 9, 48)."""
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(x_t, BLOCK), t, conditions).sample, BLOCK)

    # the protocol of DiffusionGuidance

    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 3, 20, 20) from -1 to 1."""
        if images.shape[-1] != SIZE:
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
        return 2 * images - 1

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        return self.embed_words(tokenize(prompts))

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        return self(x_t, t, conditions)


def train(
    model: SmallDiffusionModel,
    dataset: ViewDataset,
    prompts: Sequence[str],
    numbers: Sequence[int],
    steps: int,
    seed: int,
) -> None:
    """Train on images of the kinds `numbers`; the model ends with averaged weights."""
    generator = torch.Generator().manual_seed(seed)
    texts, average = tokenize_views(prompts), copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = sample_indices(numbers, BATCH, generator)
        images, view = dataset.sample(chosen, generator)
        conditions = model.embed_words(_drop_captions(texts[chosen, view], generator))
        t = torch.randint(len(model.abar), (BATCH,), generator=generator)
        eps = torch.randn(images.shape, generator=generator)
        predicted = model(add_noise(model.encode_images(images), eps, model.abar[t]), t, conditions)
        optimizer.zero_grad()
        F.mse_loss(predicted, eps).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model, min(DECAY, (step + 1) / (step + 10)))
    model.load_state_dict(average.state_dict())


def _drop_captions(words: Tensor, generator: torch.Generator) -> Tensor:
    """Some captions (B, 9) without a word, for classifier-free guidance."""
    return words * (torch.rand(len(words), 1, generator=generator) >= WITHOUT_PROMPT)


@torch.no_grad()
def sample(model: SmallDiffusionModel, prompts: Sequence[str], generator: torch.Generator) -> Tensor:
    """Images (B, 3, 20, 20) in [0, 1] of prompts (B), by 25 steps of DDIM (Song et al. 2021) from pure noise."""
    conditions, nothing = model.embed_prompts(prompts), model.embed_prompts([""] * len(prompts))
    x = torch.randn(len(prompts), 3, SIZE, SIZE, generator=generator)
    times = torch.linspace(len(model.abar) - 1, 0, SAMPLING_STEPS + 1).round().long()
    for now, then in itertools.pairwise(times):
        t, abar = now.expand(len(x)), model.abar[now].expand(len(x))
        eps = classifier_free_guidance(model.predict_noise(x, t, nothing), model.predict_noise(x, t, conditions), SCALE)
        z = predict_clean("epsilon", eps, x, abar).clamp(-1, 1)
        eps = (x - abar[0].sqrt() * z) / (1 - abar[0]).sqrt()  # what is left of the noise once values are in range
        x = add_noise(z, eps, model.abar[then].expand(len(x)))
    return (z + 1) / 2
