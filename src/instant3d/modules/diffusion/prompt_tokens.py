"""From prompts to one text encoder's tokens, as a network of our own reads them. Knows no diffusion model.

The encoder is Stable Diffusion's: CLIP's text transformer, whose last hidden state also guides SD's own UNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from instant3d.modules.diffusion import checkpoint_source as files
from instant3d.modules.diffusion.compatibility import check_tokens
from instant3d.modules.diffusion.components import write
from instant3d.modules.diffusion.loading import load
from instant3d.utils import atomic
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.tensor_dataclass import TensorDataclass

PARTS = ("tokenizer", "text_encoder")


@dataclass(frozen=True)
class PromptTokens(TensorDataclass):
    """Prompts as a text encoder reads them."""

    tokens: Tensor  # (B, N, C)
    mask: Tensor  # (B, N) bool: True where there is a word or a start or end mark, False where there is padding


class PromptEncoder:
    """A tokenizer and a CLIP text transformer, which learns nothing.

    words   of the prompts that their reader was trained on, if the tokenizer comes with a list of them
    """

    def __init__(
        self, tokenizer: Any, encoder: Any, device: str | torch.device = "cpu", words: CaptionWords | None = None
    ) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder.to(device).eval().requires_grad_(False)
        self.words = words

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        layers: int | None = None,
    ) -> PromptEncoder:
        """Of a folder with tokenizer/ and text_encoder/, such as a Stable Diffusion's, or of a Hub id.

        layers  keep only the first so many of the transformer; what leaves out the last few is called "clip skip"
        """
        found = files.folders(source, PARTS, dtype, kind="StableDiffusion")
        tokenizer, encoder = (load(found[name], name, dtype) for name in PARTS)
        check_tokens(tokenizer, encoder, str(source))
        if layers is not None:
            _shorten(encoder, layers, str(source))
        return cls(tokenizer, encoder, device, CaptionWords.read(found["tokenizer"]))

    @property
    def width(self) -> int:
        """Numbers a token, C."""
        return self.encoder.config.hidden_size

    @property
    def length(self) -> int:
        """Tokens a prompt, N, with both marks and padding."""
        return self.tokenizer.model_max_length

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> PromptTokens:
        """The last hidden state of prompts (B), in float32; what is longer than `length` is cut off.

        The transformer itself sees no mask, as in Stable Diffusion: its words look back only, never at the padding.
        """
        if not prompts or isinstance(prompts, str):
            raise ValueError(f"prompts are a list of at least one text, got {prompts!r}")
        words = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(self.encoder.device)
        return PromptTokens(self.encoder(words.input_ids).last_hidden_state.float(), words.attention_mask.bool())

    def fits(self, prompt: str) -> bool:
        """Whether the prompt fits, so that nothing of it is cut off."""
        return len(self.tokenizer(prompt, verbose=False).input_ids) <= self.length

    def to(self, device: str | torch.device) -> Self:
        self.encoder.to(device)
        return self

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write tokenizer/ and text_encoder/ into `folder`, the weights in `dtype`; what else is there stays."""
        with atomic.merged(folder) as partial:
            for name, part in zip(PARTS, (self.tokenizer, self.encoder), strict=True):
                (partial / name).mkdir()
                write(part, name, partial / name, dtype)
            if self.words is not None:
                self.words.write(partial / "tokenizer")


def _shorten(encoder: Any, layers: int, source: str) -> None:
    """Keep the first `layers` of a CLIP text transformer, and its last norm."""
    has = encoder.config.num_hidden_layers
    if not 0 <= layers <= has:
        raise ValueError(f"the text encoder of {source} has {has} layers; {layers} of them cannot be kept")
    stack = getattr(encoder, "text_model", encoder).encoder
    stack.layers = stack.layers[:layers]
    encoder.config.num_hidden_layers = layers
