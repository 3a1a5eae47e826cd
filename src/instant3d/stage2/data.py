"""Data of stage 2: input and target views of scenes, cropping and augmentation.

Every example is a function of the seed and its index alone, so an interrupted run continues with the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from instant3d.scenes.dataset import FolderSource, SceneSources
from instant3d.scenes.shard_cache import ShardCache
from instant3d.stage2.augmentation import ViewSampling, augment_colors, augment_inputs, crop_windows, rotate_about_z
from instant3d.utils.data_order import PREFETCH, EpochShuffle, ResumableBatchSampler, generator_from_key
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views

STRUCTURED = (0, 1, 2, 3)  # a rendering plan's first frames are the structured views


@dataclass(frozen=True)
class ReconstructionBatch(TensorDataclass):
    """Input views of the network, and target views that its field is compared with.

    Attributes:
        inputs: Views (V,), or (B, V) in a batch.
        targets: Views (M,), or (B, M) in a batch.
    """

    inputs: Views  # (V,)
    targets: Views  # (M,)


class TrainDataset(Dataset[ReconstructionBatch]):
    """Endless training examples; example k is always the same.

    Args:
        found: Scenes, or paths of scene folders.
        image_size: Side of the input images in pixels.
        view_sampling: How examples are drawn.
        seed: Random seed.
        window: Shards whose scenes are shuffled together, if there are more of them than that.
        coarse: Examples at the beginning that are drawn by `view_sampling.coarse`.
    """

    def __init__(
        self,
        found: SceneSources | Sequence[Path],
        image_size: int,
        view_sampling: ViewSampling,
        seed: int = 0,
        window: int = 8,
        coarse: int = 0,
    ) -> None:
        self.scenes = found if isinstance(found, SceneSources) else SceneSources([FolderSource(found)])
        self.image_size, self.view_sampling, self.seed = image_size, view_sampling, seed
        self.order = EpochShuffle(len(self.scenes), self.scenes.files, window, seed)
        self.coarse = coarse

    def __getitem__(self, number: int) -> ReconstructionBatch:
        self.scenes.fetch_ahead(self.order(number + PREFETCH))
        which, generator = self.order(number), generator_from_key(self.seed, number, 1)
        d = self.view_sampling.coarse if number < self.coarse else self.view_sampling
        document = self.scenes.document(which)
        count = document.count
        if count < d.inputs:
            raise ValueError(
                f"{document.where} has {count} frames, {d.inputs} are needed as inputs; leave it out or lower `inputs`"
            )
        structured = (
            count >= len(STRUCTURED) == d.inputs
            and float(torch.rand((), generator=generator)) < d.structured_probability
        )
        input_frames = (
            list(STRUCTURED) if structured else torch.randperm(count, generator=generator)[: d.inputs].tolist()
        )
        target_frames = torch.randperm(count, generator=generator)[: d.targets].tolist()
        inputs = self.scenes.read(which, frames=input_frames, maps=()).views
        targets = self.scenes.read(which, frames=target_frames, maps=d.maps).views
        if d.random_rotation:
            angle_deg = 90.0 * int(torch.randint(4, (), generator=generator))
            inputs, targets = rotate_about_z(inputs, angle_deg), rotate_about_z(targets, angle_deg)
        inputs = inputs.resized(self.image_size, self.image_size)
        if d.downsample_probability and float(torch.rand((), generator=generator)) < d.downsample_probability:
            inputs = inputs.resized(self.image_size // 2, self.image_size // 2).resized(
                self.image_size, self.image_size
            )
        inputs = augment_inputs(inputs, d.camera_jitter, d.warp_probability, generator)
        inputs = augment_colors(inputs, d.color_jitter, d.color_noise, generator)
        return ReconstructionBatch(inputs, crop_windows(targets, d, generator) if d.patch else targets)


class EvalDataset(Dataset[ReconstructionBatch]):
    """One example of each scene: structured views in, every other frame (at most `targets`) out, without random draws.

    Args:
        found: Scenes, or paths of scene folders.
        image_size: Side of the input images in pixels.
        targets: Most target views of a scene; all by default.
        target_size: Side of the target views in pixels; as they are by default.
        limit: Most scenes.
    """

    __test__ = False

    def __init__(
        self,
        found: SceneSources | Sequence[Path],
        image_size: int,
        targets: int | None = None,
        target_size: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.scenes = found if isinstance(found, SceneSources) else SceneSources([FolderSource(found)])
        self.image_size, self.targets, self.target_size, self.limit = image_size, targets, target_size, limit

    def __len__(self) -> int:
        return len(self.scenes) if self.limit is None else min(self.limit, len(self.scenes))

    def __getitem__(self, index: int) -> ReconstructionBatch:
        document = self.scenes.document(index)
        if document.count <= len(STRUCTURED):
            raise ValueError(
                f"{document.where} has {document.count} frames; four inputs and at least one target are needed"
            )
        last = document.count if self.targets is None else min(document.count, len(STRUCTURED) + self.targets)
        inputs = self.scenes.read(index, frames=STRUCTURED, maps=()).views
        targets = self.scenes.read(index, frames=range(len(STRUCTURED), last), maps=()).views
        if self.target_size:
            targets = targets.resized(self.target_size, self.target_size)
        return ReconstructionBatch(inputs.resized(self.image_size, self.image_size), targets)


class SceneDataModule(L.LightningDataModule):
    """Scenes for training, validation and test.

    Args:
        train: Training data: folders of scene folders or of shards, or URLs of shards; lists are joined.
        val: Validation data, likewise.
        test: Test data, which `predict` also reconstructs, likewise.
        image_size: Side of the input images in pixels, set by the network's architecture.
        view_sampling: How training examples are drawn.
        batch_size: Scenes per step and process.
        workers: Processes that load data.
        seed: Random seed of the order of the examples, their views and augmentation.
        val_targets: Views compared per validation scene.
        val_size: Side in pixels at which they are compared.
        val_scenes: Validation takes the first so many scenes.
        cache: Folder in which shards from behind a URL are kept; null is the user's cache.
        cache_gib: Size limit of that folder in GiB.
        window: Shards whose scenes are shuffled together.
    """

    def __init__(
        self,
        train: list[str] | None = None,
        val: list[str] | None = None,
        test: list[str] | None = None,
        image_size: int = 512,
        view_sampling: ViewSampling = ViewSampling(),
        batch_size: int = 8,
        workers: int = 4,
        seed: int = 0,
        val_targets: int = 4,
        val_size: int = 128,
        val_scenes: int = 32,
        cache: str | None = None,
        cache_gib: float = 64.0,
        window: int = 8,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train or [], val or [], test or []
        self.image_size, self.view_sampling, self.batch_size, self.workers, self.seed = (
            image_size,
            view_sampling,
            batch_size,
            workers,
            seed,
        )
        self.val_targets, self.val_size, self.val_scenes = val_targets, val_size, val_scenes
        self.shard_cache, self.window = ShardCache.in_folder(cache, cache_gib), window

    def train_dataloader(self) -> DataLoader[ReconstructionBatch]:
        """Endless batches of training examples from the step at which training continues."""
        found = scenes_for("train", self.train, self.shard_cache)
        found.check_room(self.shard_cache, self.window)
        batches = ResumableBatchSampler.at(self.trainer, self.batch_size)
        batches_per_step = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        coarse = self.view_sampling.coarse_steps * batches_per_step * self.batch_size * batches.world
        dataset = TrainDataset(found, self.image_size, self.view_sampling, self.seed, self.window, coarse)
        return DataLoader(dataset, batch_sampler=batches, **self._loading())

    def val_dataloader(self) -> DataLoader[ReconstructionBatch]:
        """The first `val_scenes` validation scenes, one a batch."""
        found = scenes_for("val", self.val, self.shard_cache)
        examples = EvalDataset(found, self.image_size, self.val_targets, self.val_size, self.val_scenes)
        return DataLoader(examples, **self._loading())

    def test_dataloader(self) -> DataLoader[ReconstructionBatch]:
        """All test scenes, one a batch."""
        return DataLoader(
            EvalDataset(scenes_for("test", self.test, self.shard_cache), self.image_size), **self._loading()
        )

    def predict_dataloader(self) -> DataLoader[ReconstructionBatch]:
        """The test scenes."""
        return self.test_dataloader()

    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.workers,
            "collate_fn": ReconstructionBatch.stack,
            "persistent_workers": self.workers > 0,
        }


def scenes_for(purpose: str, roots: Sequence[str | Path], shard_cache: ShardCache | None = None) -> SceneSources:
    """Find every scene of some folders or URLs, in the order of their paths, or in which they were packed.

    Args:
        purpose: What they are for, for the message.
        roots: Folders of scene folders or of shards, or URLs of shards.
        shard_cache: Where shards from behind a URL are kept.

    Raises:
        FileNotFoundError: There is none.
    """
    found = SceneSources.find(roots, shard_cache)
    if not len(found):
        raise FileNotFoundError(
            f"no scene for {purpose} in {', '.join(map(str, roots)) or 'an empty list'}; "
            "`make render-data` writes scene folders, `instant3d pack` shards"
        )
    return found
