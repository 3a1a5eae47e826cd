"""Callbacks that write what `instant3d predict` makes, batch by batch."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from instant3d import scenes
from instant3d.direct.data import NamedPrompts
from instant3d.direct.module import DirectModule
from instant3d.nerf.triplane import Triplane
from instant3d.nerf.triplane_file import write_triplane
from instant3d.stage1.grid import to_views
from instant3d.stage1.prompt_batches import PromptBatch
from instant3d.stage2.module import Stage2Module
from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped


class PredictionWriter(BasePredictionWriter):
    """Writes each finite item of a prediction under its name in `output`, and counts the others as faults.

    Args:
        output: The folder.
    """

    item: ClassVar[str]  # what one item of a prediction is
    made_of: ClassVar[str]
    makes: ClassVar[str]

    def __init__(self, output: str = "out/predictions") -> None:
        super().__init__("batch")
        self.output, self.faults = Path(output), 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a folder that cannot be written before anything is predicted."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            atomic.prepare_output(self.output)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the finite items of a batch, and print an error for each other one; called by Lightning.

        Args:
            trainer: The trainer.
            module: The module that predicted.
            prediction: The items, tensors or triplanes.
            batch_indices: Numbers of the items in the dataset; None where Lightning does not track them.
            batch: The batch.
            batch_idx: Number of the batch, which stands for the item's if there are no `batch_indices`.
            dataloader_idx: Number of the dataloader, unused.
        """
        names = self.names(trainer, batch, batch_indices or [batch_idx])
        for place, (name, item) in enumerate(zip(names, prediction, strict=True)):
            if not self.is_finite(item):  # as a network in half precision may give; the others are good
                self.faults += 1
                text = f"{name}: the {self.item} holds numbers that are not finite; nothing was written"
                print_escaped(text, sys.stderr)
                continue
            self.write(name, item, module, batch, place)

    def is_finite(self, item: Any) -> bool:
        """Whether all numbers of an item are finite."""
        return bool(torch.isfinite(item).all())

    @abstractmethod
    def names(self, trainer: L.Trainer, batch: Any, indices: Sequence[int]) -> Sequence[str]:
        """The names of a batch's items.

        Args:
            trainer: The trainer, with the dataset.
            batch: The batch.
            indices: Numbers of its items in the dataset.
        """

    @abstractmethod
    def write(self, name: str, item: Any, module: L.LightningModule, batch: Any, place: int) -> None:
        """Write one item.

        Args:
            name: Its name.
            item: Its prediction.
            module: The module that predicted.
            batch: The batch.
            place: Its index in the batch.
        """


class TriplaneWriter(PredictionWriter):
    """Writes triplanes of `predict` to `output/NAME.safetensors`, which `Asset.load` opens.

    Args:
        output: Folder of the triplanes, which are named by scene or prompt.
    """

    item, made_of, makes = "triplane", "scenes or prompts", "triplane"

    def names(self, trainer: L.Trainer, batch: Any, indices: Sequence[int]) -> Sequence[str]:
        if isinstance(batch, NamedPrompts):
            return batch.names
        found = cast(Any, trainer.predict_dataloaders).dataset.scenes
        return [found.name(index) for index in indices]

    def is_finite(self, item: Triplane) -> bool:
        return super().is_finite(item.planes)

    def write(self, name: str, item: Triplane, module: L.LightningModule, batch: Any, place: int) -> None:
        """Write one item's triplane with the decoder of the module's network."""
        self.output.mkdir(parents=True, exist_ok=True)
        decoder = cast(Stage2Module | DirectModule, module).network.decoder
        write_triplane(item, decoder, self.output / f"{name}.safetensors")


class SceneWriter(PredictionWriter):
    """Writes the four views of each prompt of `predict` to the scene folder `output/NUMBER-PROMPT`.

    Args:
        output: Folder of the scene folders.
    """

    item, made_of, makes = "grid", "prompts", "views"

    def names(self, trainer: L.Trainer, batch: PromptBatch, indices: Sequence[int]) -> Sequence[str]:
        return batch.names

    def write(self, name: str, item: Tensor, module: L.LightningModule, batch: PromptBatch, place: int) -> None:
        """Write the four views of one grid (3, H, W) in [0, 1]."""
        about = {"source": "stage 1", "seed": batch.seeds[place]}
        scenes.write(self.output / name, to_views(item), caption=batch.prompts[place], object_id=name, extra=about)
