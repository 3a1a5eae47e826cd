"""The file of features: one or several vectors for each scene, by id.

A .safetensors with one tensor `features` (N, V, D) of unit vectors in float16, V being 1 where the views of a scene
were averaged; its metadata hold ids, model and frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from instant3d.utils import atomic

FORMAT = "instant3d-features-1"
MAX_BYTES = 2**36


@dataclass(frozen=True)
class Features:
    """Unit vectors (N, V, D) of N scenes, their ids, and what they were made with."""

    ids: tuple[str, ...]
    vectors: Tensor
    made_with: dict[str, str]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        known = {**self.made_with, "format": FORMAT, "ids": json.dumps(self.ids)}
        with atomic.partial_file(path, one_writer=True) as partial:
            save_file({"features": self.vectors.half().contiguous()}, partial, metadata=known)


def load(path: str | Path) -> Features:
    """The features in a file, checked."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `instant3d data curate features` writes it")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes; is it a file of features?")
    try:
        with safe_open(path, "pt") as file:
            known, vectors = dict(file.metadata() or {}), file.get_tensor("features")
        ids = tuple(json.loads(known.pop("ids")))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no whole file of features ({error}); make it again") from error
    if known.pop("format", None) != FORMAT or vectors.dim() != 3 or not 0 < len(ids) == len(vectors):
        raise ValueError(f"{path} is no file of features of the kind {FORMAT}; make it again")
    if len(set(ids)) < len(ids) or not all(isinstance(name, str) for name in ids) or not vectors.isfinite().all():
        raise ValueError(f"{path} names a scene twice, or holds numbers that are not finite; make it again")
    return Features(ids, vectors, known)


def joined(parts: Sequence[Features]) -> Features:
    """Join parts with the same settings, sorted by id; of two entries for an id the first counts."""
    where: dict[str, Tensor] = {}
    for part in parts:
        for name, vectors in zip(part.ids, part.vectors, strict=True):
            where.setdefault(name, vectors)
    ids = tuple(sorted(where))
    return Features(ids, torch.stack([where[name] for name in ids]), parts[0].made_with)
