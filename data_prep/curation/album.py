"""Scenes in folders and in tars under one face: an id, a document, pictures over white. Knows nothing of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d import scenes
from instant3d.scenes import shards, transforms

STRUCTURED = (0, 1, 2, 3)  # a rendering plan's first frames are the structured views
LONGEST_ID = 500  # characters


@dataclass(frozen=True)
class Subject:
    """One scene, wherever it lies."""

    id: str
    source: Path | shards.Packed

    @property
    def where(self) -> str:
        return str(self.source) if isinstance(self.source, Path) else f"{self.source.path}:{self.source.key}"

    def document(self) -> transforms.Document:
        """Its cameras and words."""
        return scenes.document(self.source) if isinstance(self.source, Path) else self.source.document()

    def read(self, frames: Sequence[int], size: int | None = None) -> scenes.Scene:
        """Some of its frames; `size` as in `scenes.read`."""
        if isinstance(self.source, Path):
            return scenes.read(self.source, frames=frames, size=size)
        return self.source.read(frames=frames, size=size)

    def on_white(self, frames: Sequence[int], size: int | None = None) -> Tensor:
        """Pictures (V, 3, S, S) over white; oblong ones stand in the middle of a white square."""
        pictures = self.read(frames, size).views.on(1.0)
        height, width = pictures.shape[-2:]
        spare_x, spare_y = max(height - width, 0), max(width - height, 0)
        edges = (spare_x // 2, spare_x - spare_x // 2, spare_y // 2, spare_y - spare_y // 2)
        return F.pad(pictures, edges, value=1.0)


def gather(roots: Sequence[str | Path]) -> list[Subject]:
    """All scenes below folders: scene folders at any depth, and the scenes of tars (or of one tar), sorted by id."""
    found: dict[str, Subject] = {}
    for root in map(Path, roots):
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist; name a folder of scene folders or of shards")
        for subject in _below(root):
            if not _fits_a_line(subject.id):
                raise ValueError(
                    f"the id {subject.id!r:.60} of {subject.where} cannot stand on a line of a list; change it"
                )
            if subject.id in found:
                other = found[subject.id].where
                raise ValueError(
                    f"{other} and {subject.where} have the same id, {subject.id}; each scene needs its own"
                )
            found[subject.id] = subject
    if not found:
        raise FileNotFoundError(f"there is no scene in {', '.join(map(str, roots))}; `make render-data` makes some")
    return [found[name] for name in sorted(found)]


def montage(pictures: Tensor) -> Tensor:
    """Pictures (V, 3, S, S) as one (3, H, W): two in a row, or one alone; white where one is missing."""
    if len(pictures) == 1:
        return pictures[0]
    missing = pictures.new_ones(len(pictures) % 2, *pictures.shape[1:])
    rows = torch.cat([pictures, missing]).unflatten(0, (-1, 2))  # (rows, 2, 3, S, S)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _below(root: Path) -> Iterator[Subject]:
    for folder in scenes.below(root):
        yield Subject(scenes.document(folder).text("id") or folder.resolve().name, folder)
    tars = [root] if root.is_file() else sorted(root.glob("*.tar"))
    for packed in shards.index(tars) if tars else ():
        yield Subject(packed.document().text("id") or packed.key, packed)


def _fits_a_line(name: str) -> bool:
    return name.isprintable() and name == name.strip() and len(name) <= LONGEST_ID and not name.startswith("#")
