"""Random draws of a training step of stage 1: timesteps, noise and dropped prompts, by example."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instant3d.modules.diffusion.text import TextEmbedding
from instant3d.stage1.cache import LatentBatch
from instant3d.utils.random_numbers import normal_by_index, uniform_by_index

QUARTERS = 4  # parts of the timesteps whose losses are logged separately


@dataclass(frozen=True)
class NoiseSample:
    """Per-example random draws of one training step.

    Attributes:
        timestep: (B,) integers.
        noise: (B, C, h, w), the noise added to the latents.
        posterior_noise: (B, C, h, w), the noise that samples latents from the VAE's posterior.
        drop_text: (B,) bool, whether the prompt is dropped.
    """

    timestep: Tensor
    noise: Tensor
    posterior_noise: Tensor
    drop_text: Tensor


def sample_noise(grids: LatentBatch, seed: int, timesteps: int, prompt_dropout: float) -> NoiseSample:
    """Random draws of a batch, functions of the seed and each example's index alone: not of its batch or device.

    Args:
        grids: The batch.
        seed: Random seed.
        timesteps: Timesteps are drawn from 0 to this number, exclusive.
        prompt_dropout: Probability of a dropped prompt.
    """
    shape, index = grids.mean.shape[1:], grids.example_index
    timestep = (uniform_by_index(index, (), seed, 0) * timesteps).long()
    noise, posterior_noise = normal_by_index(index, (2, *shape), seed, 1).unbind(1)
    return NoiseSample(timestep, noise, posterior_noise, uniform_by_index(index, (), seed, 2) < prompt_dropout)


def drop_text(text: TextEmbedding, dropped: Tensor) -> TextEmbedding:
    """Replace the embeddings of dropped prompts, where `dropped` (B,) is True, by zeros, SDXL's empty prompt."""
    empty = TextEmbedding.zeros_like(text)
    tokens = torch.where(dropped[:, None, None], empty.tokens, text.tokens)
    return TextEmbedding(tokens, torch.where(dropped[:, None], empty.pooled, text.pooled))


def loss_by_quarter(name: str, loss: Tensor, timestep: Tensor, timesteps: int) -> dict[str, Tensor]:
    """Mean loss of the examples in each quarter of the timesteps, for the log.

    Args:
        name: Prefix of the names.
        loss: (B,).
        timestep: (B,).
        timesteps: Number of training timesteps.

    Returns:
        `name`_0 to `name`_3; quarters without an example are left out.
    """
    quarter = timestep * QUARTERS // timesteps
    return {f"{name}_{k}": loss[quarter == k].mean() for k in range(QUARTERS) if (quarter == k).any()}
