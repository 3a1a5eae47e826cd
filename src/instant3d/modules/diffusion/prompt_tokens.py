"""Token features of prompts from one CLIP text encoder, the condition of the direct system's network.

The encoder is Stable Diffusion's: CLIP's text transformer, whose last hidden state also conditions SD's own UNet.
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
from instant3d.modules.diffusion.loading import load
from instant3d.modules.diffusion.saving import write
from instant3d.utils import atomic
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.tensor_dataclass import TensorDataclass

PARTS = ("tokenizer", "text_encoder")


@dataclass(frozen=True)
class PromptTokens(TensorDataclass):
    """Token features of prompts.

    Attributes:
        tokens: (B, N, C) float32.
        mask: (B, N) bool; True at words and at start and end marks, False at padding.
    """

    tokens: Tensor  # (B, N, C)
    mask: Tensor  # (B, N) bool: True where there is a word or a start or end mark, False where there is padding


class PromptEncoder:
    """A tokenizer and a frozen CLIP text transformer.

    Args:
        tokenizer: A CLIP tokenizer.
        encoder: A `transformers.CLIPTextModel`, or one with a projection, which is not used.
        device: Where the encoder runs.
        words: Words of the prompts that the conditioned network was trained on, if they are known.
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
        """Load from a folder with tokenizer/ and text_encoder/, such as a Stable Diffusion's, or from a Hub id.

        Args:
            source: Folder or Hub id.
            device: Where the encoder runs.
            dtype: Precision of its weights.
            layers: Keep only the first so many layers of the transformer; leaving out the last few is called "clip
                skip".

        Raises:
            FileNotFoundError: The source or a part of it does not exist.
            ValueError: Tokenizer and encoder do not fit together, or the encoder has fewer layers.
        """
        folders = files.folders(source, PARTS, dtype, kind="StableDiffusion")
        tokenizer, encoder = (load(folders[name], name, dtype) for name in PARTS)
        check_tokens(tokenizer, encoder, str(source))
        if layers is not None:
            _shorten(encoder, layers, str(source))
        return cls(tokenizer, encoder, device, CaptionWords.read(folders["tokenizer"]))

    @property
    def width(self) -> int:
        """Channels of a token, C."""
        return self.encoder.config.hidden_size

    @property
    def length(self) -> int:
        """Tokens of a prompt, N, including both marks and padding."""
        return self.tokenizer.model_max_length

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> PromptTokens:
        """Encode prompts (B): the last hidden state in float32; what exceeds `length` is cut off.

        The transformer gets no padding mask, as in Stable Diffusion: its attention is causal, so that words do not
            depend
        on the padding after them.

        Raises:
            ValueError: `prompts` is empty or one text.
        """
        if not prompts or isinstance(prompts, str):
            raise ValueError(f"prompts are a list of at least one text, got {prompts!r}")
        words = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(self.encoder.device)
        return PromptTokens(self.encoder(words.input_ids).last_hidden_state.float(), words.attention_mask.bool())

    def fits(self, prompt: str) -> bool:
        """Whether the whole prompt fits in `length` tokens."""
        return len(self.tokenizer(prompt, verbose=False).input_ids) <= self.length

    def to(self, device: str | torch.device) -> Self:
        """Move the encoder."""
        self.encoder.to(device)
        return self

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write tokenizer/ and text_encoder/ into `folder`, the weights in `dtype`; other files there are kept."""
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
