"""Reference attention: self-attention that also attends to the tokens of another pass (Zero123++, arXiv 2310.15110).

A reference pass keeps the input of every self-attention of a UNet; in the main pass keys and values come from its own
tokens and the kept ones together. No weights belong to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class ReferenceAttention:
    """Attention processor that keeps its input, or attends to what it kept.

    Args:
        inner: The processor that computes the attention.
    """

    def __init__(self, inner: Any) -> None:
        self.inner, self.recording = inner, False
        self.kept: Tensor | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend from tokens (B, N, C) to themselves and, unless recording, to the kept ones (B, M, C): (B, N, C)."""
        if self.recording:
            self.kept = hidden_states
        elif self.kept is not None:
            encoder_hidden_states = torch.cat([hidden_states, self.kept], dim=1)
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


class ReferencePass:
    """Installs `ReferenceAttention` at every self-attention of a UNet.

    Args:
        unet: A `diffusers.UNet2DConditionModel`, which is changed.
    """

    def __init__(self, unet: Any) -> None:
        inner = unet.attn_processors
        self.attentions = {
            name: ReferenceAttention(each) for name, each in inner.items() if name.endswith("attn1.processor")
        }
        unet.set_attn_processor({**inner, **self.attentions})

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within this context the UNet's pass is the reference; later passes attend to it."""
        for each in self.attentions.values():
            each.recording = True
        try:
            yield
        finally:
            for each in self.attentions.values():
                each.recording = False

    def forget(self) -> None:
        """Free the kept tokens; later passes attend to themselves alone."""
        for each in self.attentions.values():
            each.kept = None
