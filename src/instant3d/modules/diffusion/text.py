"""Prompt embeddings of SDXL's two text encoders, the conditions of its UNet (Podell et al. 2023, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from instant3d.modules.diffusion.components import Components
from instant3d.utils.prompts import abbreviate, cut_off
from instant3d.utils.tensor_dataclass import TensorDataclass


@dataclass(frozen=True)
class TextEmbedding(TensorDataclass):
    """An embedded prompt.

    Attributes:
        tokens: (B, N, D), penultimate hidden states of both encoders, concatenated along D.
        pooled: (B, P), the projected summary of the second encoder.
    """

    tokens: Tensor
    pooled: Tensor

    @classmethod
    def zeros_like(cls, embedding: Self) -> Self:
        """Zeros of the same shape: SDXL's empty prompt, in classifier-free guidance and in prompt dropout."""
        return embedding.map(torch.zeros_like)


@torch.no_grad()
def encode(components: Components, prompts: Sequence[str]) -> TextEmbedding:
    """Embed prompts with both text encoders.

    Args:
        components: An SDXL with both tokenizers and text encoders.
        prompts: B texts; what exceeds the tokenizers' maximal length is cut off.

    Raises:
        ValueError: `prompts` is empty or one text, or a tokenizer or encoder is not loaded.
    """
    if not prompts or isinstance(prompts, str):
        raise ValueError(f"prompts are a list of at least one text, got {prompts!r}")
    first = _read(components.tokenizer, components.text_encoder, prompts)
    second = _read(components.tokenizer_2, components.text_encoder_2, prompts)
    tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return TextEmbedding(tokens=tokens, pooled=second.text_embeds)


def fits(components: Components, prompt: str) -> bool:
    """Whether a prompt fits in both tokenizers' maximal length, so that nothing of it is cut off."""
    tokenizers = (components.tokenizer, components.tokenizer_2)
    return all(len(each(prompt, verbose=False).input_ids) <= each.model_max_length for each in tokenizers)


def truncation_message(components: Components, prompts: Sequence[str]) -> str:
    """Return how many of the prompts are cut off at their end, with an example; "" if none is."""
    cut = [prompt for prompt in prompts if not fits(components, prompt)]
    if not cut:
        return ""
    lost = cut_off(cut[0], lambda text: fits(components, text))
    return (
        f"{len(cut)} of {len(prompts)} prompts are longer than what the text encoders read, such as "
        f"{abbreviate(cut[0])}; its end makes no difference: {lost!r}"
    )


def _read(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> Any:
    if tokenizer is None or encoder is None:
        raise ValueError("prompts are encoded by two tokenizers and two text encoders; load those parts too")
    ids = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return encoder(ids.to(encoder.device), output_hidden_states=True)
