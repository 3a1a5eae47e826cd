"""Which grids stage 1 is taught with, in which order: from caches, or from scenes that are encoded on the fly.

Every example is a function of the seed and its number alone, so an interrupted run goes on with the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from instant3d.stage1.cache import INDEX, Cache, Encoded
from instant3d.stage1.scenes_as_grids import GridScenes, read_keep
from instant3d.supply import Mixture, Numbers

FROM_CACHE = "stage 1 learns from caches: neither a VAE nor a text encoder is loaded"
FROM_SCENES = "stage 1 learns from scenes: VAE and text encoders are loaded and run at every step; a cache is faster"


@dataclass(frozen=True)
class Pictures:
    """Grids that have yet to be encoded: pixels (B, 3, H, W) in [0, 1], prompts, and the examples' numbers (B,)."""

    grids: Tensor
    prompts: tuple[str, ...]
    number: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Pictures:
        return Pictures(self.grids.to(*args, **kwargs), self.prompts, self.number)


class Scenes:
    """Scene folders as a source of `Pictures`."""

    def __init__(self, root: str | Path, size: int, keep: set[str] | None) -> None:
        self.scenes = GridScenes([root], size, keep)

    def __len__(self) -> int:
        return len(self.scenes)

    def item(self, index: int, number: int) -> Pictures:
        grid = self.scenes[index]
        return Pictures(grid.picture[None], (grid.caption,), torch.tensor([number]))


class Examples(Dataset[Encoded | Pictures]):
    """Several sources as one: endless in the order of a mixture, or, without one, everything once."""

    def __init__(
        self, sources: Sequence[Cache] | Sequence[Scenes], mixture: Mixture | None = None, limit: int | None = None
    ) -> None:
        self.sources, self.mixture = list(sources), mixture
        self.places = [(which, index) for which, source in enumerate(sources) for index in range(len(source))][:limit]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Encoded | Pictures:
        which, index = self.places[number] if self.mixture is None else self.mixture(number)
        return self.sources[which].item(index, number)


class GridData(L.LightningDataModule):
    """Grids for training and validation.

    train, val   caches (`instant3d cache-stage1`), or folders of scene folders; one or the other, not both
    weights      how often an epoch shows a grid of each of `train`: 1 is once, 2 twice, 0.5 every other epoch
    keep         a text file of the ids to train with; all by default
    size         pixels a side of grids made from scenes (a cache knows its own)
    val_grids    validation takes the first so many
    """

    def __init__(
        self,
        train: list[str] | None = None,
        val: list[str] | None = None,
        weights: list[float] | None = None,
        keep: str | None = None,
        size: int = 1024,
        batch_size: int = 8,
        workers: int = 4,
        seed: int = 0,
        val_grids: int = 128,
    ) -> None:
        super().__init__()
        self.train, self.val, self.weights, self.keep = train or [], val or [], weights, keep
        self.size, self.batch_size, self.workers, self.seed = size, batch_size, workers, seed
        self.val_grids = val_grids

    def setup(self, stage: str) -> None:
        if stage == "fit" and (self.trainer is None or self.trainer.is_global_zero):
            print(FROM_CACHE if _are_caches(self.train + self.val) else FROM_SCENES, flush=True)

    def train_dataloader(self) -> DataLoader[Encoded | Pictures]:
        sources = self._sources(self.train, "train", None if self.keep is None else read_keep(self.keep))
        mixture = Mixture([len(source) for source in sources], self.weights, self.seed)
        start, rank, world = 0, 0, 1
        if self.trainer is not None:
            start = self.trainer.global_step * self.trainer.accumulate_grad_batches
            rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = Numbers(self.batch_size, start, rank, world)
        return DataLoader(Examples(sources, mixture), batch_sampler=batches, **self._loading())

    def val_dataloader(self) -> DataLoader[Encoded | Pictures]:
        examples = Examples(self._sources(self.val, "val"), limit=self.val_grids)
        return DataLoader(examples, batch_size=self.batch_size, **self._loading())

    def test_dataloader(self) -> DataLoader[Encoded | Pictures]:
        return self.val_dataloader()

    def _sources(self, named: list[str], purpose: str, keep: set[str] | None = None) -> list[Cache] | list[Scenes]:
        if not named:
            raise ValueError(f"there is nothing for {purpose}; set data.{purpose} to a list of caches or scene folders")
        if _are_caches(named):
            return [Cache(folder, keep) for folder in named]
        return [Scenes(folder, self.size, keep) for folder in named]

    def _loading(self) -> dict[str, Any]:
        return {"num_workers": self.workers, "collate_fn": collate, "persistent_workers": self.workers > 0}


def collate(items: Sequence[Encoded] | Sequence[Pictures]) -> Encoded | Pictures:
    """One batch of examples of one kind."""
    first = items[0]
    if isinstance(first, Encoded):
        return Encoded.stack(items)  # type: ignore[arg-type]
    grids, prompts, numbers = zip(*((item.grids, item.prompts, item.number) for item in items), strict=True)
    return Pictures(torch.cat(grids), tuple(prompt for some in prompts for prompt in some), torch.cat(numbers))


def _are_caches(named: Sequence[str]) -> bool:
    """Whether all of them are caches; a mixture of both kinds is refused."""
    found = [(Path(folder) / INDEX).is_file() or any(Path(folder).glob("grids-*.safetensors")) for folder in named]
    if any(found) and not all(found):
        raise ValueError(
            f"{named[found.index(False)]} is no cache, but {named[found.index(True)]} is; learn from caches or from "
            "scenes, not from both"
        )
    return all(found)
