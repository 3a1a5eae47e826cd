"""What an encoder says of a list of texts, by their numbers: read once and kept, or read anew where all is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from instant3d.utils.tensor_dataclass import TensorDataclass

AT_ONCE = 64  # texts
MOST_BYTES = 2**31  # 1,890 animals from three views are 1.8 GB to Stable Diffusion 2, 26,880 sentences of daily life 25


class EmbeddingCache:
    """Rows of texts (T), as `read` gives them: a tensor or a batch of some, whose first dimension is the texts'.

    most_bytes  what is kept may take; above it nothing is, and every lookup reads its texts again
    """

    def __init__(self, texts: Sequence[str], embed: Callable[[list[str]], Any], most_bytes: int = MOST_BYTES) -> None:
        self.texts, self.embed = list(texts), embed
        first = embed(self.texts[:AT_ONCE])
        self.kept: Any = None
        if byte_size(first) / min(AT_ONCE, len(self.texts)) * len(self.texts) <= most_bytes:
            rest = [self.texts[k : k + AT_ONCE] for k in range(AT_ONCE, len(self.texts), AT_ONCE)]
            self.kept = concatenate([first, *map(embed, rest)])

    def __getitem__(self, numbers: Tensor) -> Any:
        """Rows (..., *row) of texts number (...)."""
        if self.kept is not None:
            return self.kept[numbers]
        asked, place = numbers.unique(return_inverse=True)
        texts = [self.texts[k] for k in asked.tolist()]
        rows = concatenate([self.embed(texts[k : k + AT_ONCE]) for k in range(0, len(texts), AT_ONCE)])
        return rows[place]


def concatenate(rows: Sequence[Any]) -> Any:
    """Rows of several readings in one."""
    first = rows[0]
    return type(first).cat(rows) if isinstance(first, TensorDataclass) else torch.cat(list(rows))


def byte_size(rows: Any) -> int:
    """Bytes that rows take."""
    found: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        found.append(tensor.nbytes)
        return tensor

    count(rows) if isinstance(rows, Tensor) else rows.map(count)
    return sum(found)
