"""One interface to scenes in folders and in tars: id, document, images on white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d import scenes
from instant3d.scenes import shards, transforms
from instant3d.scenes.dataset import SceneSources

STRUCTURED = (0, 1, 2, 3)  # a rendering plan's first frames are the structured views
LONGEST_ID = 500  # characters

Broken = list[tuple[str, str]]  # what could not be read, and why


@dataclass(frozen=True)
class SceneRef:
    """A scene in a folder or in a tar."""

    id: str
    source: Path | shards.PackedScene

    @property
    def where(self) -> str:
        """Where the scene is, for messages: its folder, or `TAR:KEY`."""
        return str(self.source) if isinstance(self.source, Path) else f"{self.source.path}:{self.source.key}"

    def document(self) -> transforms.Document:
        """Read the scene's `transforms.json`."""
        return scenes.document(self.source) if isinstance(self.source, Path) else self.source.document()

    def read(self, frames: Sequence[int], size: int | None = None) -> scenes.Scene:
        """Read some of the scene's frames; `size` as in `scenes.read`."""
        if isinstance(self.source, Path):
            return scenes.read(self.source, frames=frames, size=size, maps=())
        return self.source.read(frames=frames, size=size, maps=())

    def on_white(self, frames: Sequence[int], size: int | None = None) -> Tensor:
        """Images (V, 3, S, S) on white; those that are not square are padded with white."""
        images = self.read(frames, size).views.composite(1.0)
        height, width = images.shape[-2:]
        spare_x, spare_y = max(height - width, 0), max(width - height, 0)
        edges = (spare_x // 2, spare_x - spare_x // 2, spare_y // 2, spare_y - spare_y // 2)
        return F.pad(images, edges, value=1.0)


def find_scenes(roots: Sequence[str | Path]) -> tuple[list[SceneRef], Broken]:
    """All scenes below folders, sorted by id: scene folders at any depth, and the scenes of tars (or of one tar).

    Scenes whose document cannot be read, or whose id is invalid in a list or repeated, are returned separately.
    """
    found: dict[str, SceneRef] = {}
    broken: Broken = []
    for root in map(Path, roots):
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist; name a folder of scene folders or of shards")
    sources = SceneSources.find(roots)
    for number in range(len(sources)):
        try:
            subject = SceneRef(sources.identity(number), sources.source(number))
        except (ValueError, OSError) as error:
            broken.append((sources.where(number), str(error)))
            continue
        if not _fits_a_line(subject.id):
            broken.append((subject.where, f"its id {subject.id!r:.60} cannot stand on a line of a list; change it"))
        elif found.setdefault(subject.id, subject) is not subject:
            broken.append(
                (subject.where, f"{found[subject.id].where} has the same id, {subject.id}; each needs its own")
            )
    if not found:
        hint = f"{broken[0][0]}: {broken[0][1]}" if broken else "`make render-data` makes some"
        raise FileNotFoundError(f"there is no usable scene in {', '.join(map(str, roots))}; {hint}")
    return [found[name] for name in sorted(found)], broken


def montage(images: Tensor) -> Tensor:
    """Arrange images (V, 3, S, S) in one (3, H, W): two in a row, or one alone; white where one is missing."""
    if len(images) == 1:
        return images[0]
    missing = images.new_ones(len(images) % 2, *images.shape[1:])
    rows = torch.cat([images, missing]).unflatten(0, (-1, 2))  # (rows, 2, 3, S, S)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _fits_a_line(name: str) -> bool:
    return name.isprintable() and name == name.strip() and len(name) <= LONGEST_ID and not name.startswith("#")
