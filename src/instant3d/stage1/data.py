"""Data of stage 1: training grids from caches, or from scenes that are encoded on the fly, and prompts to sample.

Every example is a function of the seed and its index alone, so an interrupted run continues with the same data.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from instant3d.scenes.dataset import SceneSources
from instant3d.scenes.shard_cache import ShardCache, is_url, local
from instant3d.stage1.cache import INDEX, LatentBatch, LatentCache
from instant3d.stage1.favored_names import with_favored_names
from instant3d.stage1.grid_dataset import ImageBatch, SceneGrids, read_keep
from instant3d.stage1.prompt_batches import PromptBatch, collate_prompts, read_prompt_batch, unfinished
from instant3d.utils import file_listing
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.data_order import PREFETCH, ResumableBatchSampler, WeightedMixture
from instant3d.utils.errors import print_escaped

FROM_CACHE = "stage 1 trains on caches: neither a VAE nor a text encoder is loaded"
FROM_SCENES = "stage 1 trains on scenes: VAE and text encoders are loaded and run at every step; a cache is faster"


class GridDataset(Dataset[LatentBatch | ImageBatch]):
    """Several sources as one dataset: endless in the order of a mixture or, without one, each example once.

    Args:
        sources: Caches or scenes.
        mixture: Order of the examples.
        limit: Without a mixture, take only the first so many examples.
    """

    def __init__(
        self,
        sources: Sequence[LatentCache | SceneGrids],
        mixture: WeightedMixture | None = None,
        limit: int | None = None,
    ) -> None:
        self.sources, self.mixture = list(sources), mixture
        self.places = [(which, index) for which, source in enumerate(sources) for index in range(len(source))][:limit]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> LatentBatch | ImageBatch:
        if self.mixture is None:
            which, index = self.places[number]
        else:
            self._prefetch(self.mixture(number + PREFETCH))
            which, index = self.mixture(number)
        return self.sources[which].item(index, number)

    def _prefetch(self, place: tuple[int, int]) -> None:
        source = self.sources[place[0]]
        if isinstance(source, SceneGrids):
            source.scenes.scenes.fetch_ahead(place[1])


class GridDataModule(L.LightningDataModule):
    """Grids for training, validation and test, and prompts for `predict`.

    Args:
        train: Training data: caches (`instant3d cache-stage1`); or folders of scene folders or shards, or URLs of
            shards; not both kinds in one list.
        val: Validation data, of the same kinds.
        test: Test data, of the same kinds.
        source_weights: How often an epoch shows a grid of each of `train`: 1 is once, 2 twice, 0.5 every other epoch.
        keep: Text file of the ids to train on; null takes all.
        favored: Text file of names such as "fire hydrant". In addition to the normal epoch, grids whose caption is one
            of them (an article and one more word may stand before it) make up `favored_share` of all examples, each
            name as often as another; for caches only.
        favored_share: Share of the examples, between 0 and 1.
        size: Pixels a side of grids made from scenes; a cache has its own size.
        batch_size: Grids per step and process.
        workers: Processes that load data.
        seed: Random seed of the order of the examples; of `predict`, the seed of the first prompt.
        val_grids: Validation takes the first so many grids.
        prompts: For `predict`: text file with one prompt a line, or the name of a shipped one.
        output: For `predict`: folder of the scenes, set by `--scenes.output`; finished prompts are left out.
        cache: Folder in which shards from behind a URL are kept; null is the user's cache.
        cache_gib: Size limit of that folder in GiB.
        window: Shards of each of `train` whose scenes are shuffled together.
    """

    def __init__(
        self,
        train: list[str] | None = None,
        val: list[str] | None = None,
        test: list[str] | None = None,
        source_weights: list[float] | None = None,
        keep: str | None = None,
        favored: str | None = None,
        favored_share: float = 0.5,
        size: int = 1024,
        batch_size: int = 8,
        workers: int = 4,
        seed: int = 0,
        val_grids: int = 128,
        prompts: str | None = None,
        output: str = "out/predictions",
        cache: str | None = None,
        cache_gib: float = 64.0,
        window: int = 8,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test, self.source_weights, self.keep = (
            train or [],
            val or [],
            test or [],
            source_weights,
            keep,
        )
        self.favored, self.favored_share = favored, favored_share
        self.size, self.batch_size, self.workers, self.seed = size, batch_size, workers, seed
        self.val_grids, self.prompts, self.output = val_grids, prompts, output
        self.shard_cache, self.window = ShardCache.in_folder(cache, cache_gib), window
        self.faults: list[str] = []

    def setup(self, stage: str) -> None:
        """Report whether training needs VAE and text encoders."""
        if stage == "fit" and (self.trainer is None or self.trainer.is_global_zero):
            cached = all(_are_caches(named) for named in (self.train, self.val) if named)
            print(FROM_CACHE if cached else FROM_SCENES, flush=True)

    def train_dataloader(self) -> DataLoader[LatentBatch | ImageBatch]:
        """Endless batches of training grids from the step at which training continues."""
        sources, weights = self._training()
        files = [source.scenes.scenes.files if isinstance(source, SceneGrids) else [] for source in sources]
        mixture = WeightedMixture([len(source) for source in sources], weights, self.seed, files, self.window)
        batches = ResumableBatchSampler.at(self.trainer, self.batch_size)
        return DataLoader(GridDataset(sources, mixture), batch_sampler=batches, **self._loading())

    @cached_property
    def words(self) -> CaptionWords | None:
        """Words of the prompts in one epoch of training; None for scenes, whose captions are not read in advance."""
        counts: defaultdict[str, float] = defaultdict(float)
        sources, weights = self._training()
        for source, weight in zip(sources, weights or [1.0] * len(sources), strict=True):
            if not isinstance(source, LatentCache):
                return None
            for row in source.rows:
                texts = source.grids[row]["texts"]
                for text in texts:
                    counts[source.index["prompts"][text]] += weight / len(texts)
        return CaptionWords.of(counts)

    def val_dataloader(self) -> DataLoader[LatentBatch | ImageBatch] | list[Any]:
        """The first `val_grids` validation grids; training may go without."""
        if not self.val and self.trainer is not None and self.trainer.state.fn == "fit":
            return []  # training without validation is allowed
        examples = GridDataset(self._sources(self.val, "val"), limit=self.val_grids)
        return DataLoader(examples, batch_size=self.batch_size, **self._loading())

    def test_dataloader(self) -> DataLoader[LatentBatch | ImageBatch]:
        """All test grids."""
        return DataLoader(GridDataset(self._sources(self.test, "test")), batch_size=self.batch_size, **self._loading())

    def predict_dataloader(self) -> DataLoader[PromptBatch]:
        """This process's share of the prompts that are not sampled yet.

        Raises:
            ValueError: No prompt list was given.
        """
        if self.prompts is None:
            raise ValueError("there are no prompts; give a text file with one prompt a line by --prompts")
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        batches, self.faults = read_prompt_batch(self.prompts, self.seed)
        if rank == 0 and self.faults:
            print_escaped("\n".join(self.faults), sys.stderr)
        own_share = unfinished(batches[rank::world], self.output)
        return DataLoader(cast(Any, own_share), batch_size=self.batch_size, collate_fn=collate_prompts)

    def _training(self) -> tuple[Sequence[LatentCache | SceneGrids], Sequence[float] | None]:
        """Training sources, and how often an epoch shows an example of each."""
        sources = self._sources(self.train, "train", None if self.keep is None else read_keep(self.keep))
        if self.favored is None:
            return sources, self.source_weights
        return with_favored_names(sources, self.source_weights, sorted(read_keep(self.favored)), self.favored_share)

    def _sources(
        self, named: list[str], purpose: str, keep: set[str] | None = None
    ) -> Sequence[LatentCache | SceneGrids]:
        if not named:
            raise ValueError(f"there is no data for {purpose}; set data.{purpose} to a list of caches or scene folders")
        if _are_caches(named):
            return [LatentCache(local(folder), keep) for folder in named]
        scene_sources = [SceneGrids(folder, self.size, keep, self.shard_cache) for folder in named]
        if purpose == "train":
            SceneSources([part for source in scene_sources for part in source.scenes.scenes.parts]).check_room(
                self.shard_cache, self.window * len(scene_sources)
            )
        return scene_sources

    def _loading(self) -> dict[str, Any]:
        return {"num_workers": self.workers, "collate_fn": collate, "persistent_workers": self.workers > 0}


def collate(items: Sequence[LatentBatch | ImageBatch]) -> LatentBatch | ImageBatch:
    """Stack examples of one kind to a batch."""
    if isinstance(items[0], LatentBatch):
        return LatentBatch.stack(cast(Sequence[LatentBatch], items))
    batches = cast(Sequence[ImageBatch], items)
    grids, numbers = (torch.cat([getattr(item, name) for item in batches]) for name in ("grids", "example_index"))
    return ImageBatch(grids, tuple(prompt for item in batches for prompt in item.prompts), numbers)


def _are_caches(named: Sequence[str]) -> bool:
    """Whether all of them are caches; a mixture of caches and scenes is refused."""
    found = [_is_cache(folder) for folder in named]
    if any(found) and not all(found):
        raise ValueError(
            f"{named[found.index(False)]} is no cache, but {named[found.index(True)]} is; train on caches or on "
            "scenes, not on both"
        )
    return all(found)


def _is_cache(named: str) -> bool:
    """Whether a folder is a cache: shards have an `index.json`, too, but tars beside it."""
    folder = local(named)
    if is_url(named):
        return False
    indexed = (folder / INDEX).is_file() and not file_listing.any_visible_files(folder, "*.tar")
    return indexed or any(folder.glob("grids-*.safetensors"))
