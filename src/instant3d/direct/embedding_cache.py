"""Embeddings of a list of texts by index: computed once and cached, or computed anew if they exceed a size limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from instant3d.utils.tensor_dataclass import TensorDataclass

AT_ONCE = 64  # texts in a call of the encoder
MOST_BYTES = 2**31  # 1,890 animals from three views are 1.8 GB to Stable Diffusion 2, 26,880 sentences of daily life 25


class EmbeddingCache:
    """Embeddings of T texts.

    Args:
        texts: The texts.
        embed: Embeds a list of texts: a tensor or a tensor dataclass whose first dimension is the texts'.
        most_bytes: Size limit of the cache; above it nothing is cached, and every lookup embeds its texts again.
    """

    def __init__(self, texts: Sequence[str], embed: Callable[[list[str]], Any], most_bytes: int = MOST_BYTES) -> None:
        self.texts, self.embed = list(texts), embed
        first = embed(self.texts[:AT_ONCE])
        self.kept: Any = None
        if byte_size(first) / min(AT_ONCE, len(self.texts)) * len(self.texts) <= most_bytes:
            rest = [self.texts[k : k + AT_ONCE] for k in range(AT_ONCE, len(self.texts), AT_ONCE)]
            self.kept = concatenate([first, *map(embed, rest)])

    def __getitem__(self, numbers: Tensor) -> Any:
        """Embeddings (..., *row) of texts with indices (...)."""
        if self.kept is not None:
            return self.kept[numbers]
        unique, place = numbers.unique(return_inverse=True)
        texts = [self.texts[k] for k in unique.tolist()]
        rows = concatenate([self.embed(texts[k : k + AT_ONCE]) for k in range(0, len(texts), AT_ONCE)])
        return rows[place]


def concatenate(rows: Sequence[Any]) -> Any:
    """Concatenate tensors or tensor dataclasses."""
    first = rows[0]
    return type(first).cat(rows) if isinstance(first, TensorDataclass) else torch.cat(list(rows))


def byte_size(rows: Any) -> int:
    """Bytes of a tensor or of all tensors of a tensor dataclass."""
    found: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        found.append(tensor.nbytes)
        return tensor

    count(rows) if isinstance(rows, Tensor) else rows.map(count)
    return sum(found)
