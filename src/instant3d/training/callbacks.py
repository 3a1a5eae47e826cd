"""Lightning callbacks: validation images for the logger, stage-1 sample grids, checkpoints, warning of a collapse."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from instant3d.direct.data import NamedPrompts
from instant3d.stage1.module import Stage1Module
from instant3d.stage2.data import ReconstructionBatch
from instant3d.utils.visualization import write_image
from instant3d.views import Views

COLLAPSE = (
    "renders are {what}: they cover {rendered:.1%} of the image where the objects cover {true:.1%}, for {count} "
    "validations in a row. Usual causes: cameras given as world-to-camera or in OpenGL axes (check a scene's "
    "transforms.json), objects outside the cube [-1, 1]^3, targets without alpha, or a learning rate that is too high; "
    "the last is the one to try first if `train/mask` fell before it rose."
)


class ImageLogger(L.Callback):
    """Logs images of the first validation batch.

    Stage 2's targets are shown above their renderings, the direct system's objects from four sides, one row each.

    Args:
        objects: Most objects to show.
    """

    def __init__(self, objects: int = 4) -> None:
        self.objects = objects

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the first batch."""
        board: Any = getattr(trainer.logger, "experiment", None)
        if batch_idx or trainer.global_rank or not hasattr(board, "add_image"):
            return
        if isinstance(batch, ReconstructionBatch):
            pair = side_by_side(batch.targets, outputs["rendered"], self.objects)
            board.add_image("val/targets_and_renders", pair, trainer.global_step)
        elif isinstance(batch, NamedPrompts):
            board.add_image("val/prompts", views_in_a_row(outputs["rendered"], self.objects), trainer.global_step)


def side_by_side(targets: Views, rendered: Views, objects: int) -> Tensor:
    """Targets (B, M) above renderings (B, M), object by object, as one image (3, H, W).

    Args:
        targets: Ground truth.
        rendered: Renderings of the same shape.
        objects: Most objects to show.
    """
    rows = []
    for target, rendering in zip(targets.composite(1.0)[:objects], rendered.composite(1.0)[:objects], strict=True):
        rows += [torch.cat(list(target), dim=-1), torch.cat(list(rendering), dim=-1)]
    return torch.cat(rows, dim=-2).clamp(0, 1).float().cpu()


def views_in_a_row(rendered: Views, objects: int) -> Tensor:
    """Views of objects (B, V), one row for each object, as one image (3, H, W).

    Args:
        rendered: Renderings.
        objects: Most objects to show.
    """
    rows = [torch.cat(list(images), dim=-1) for images in rendered.composite(1.0)[:objects]]
    return torch.cat(rows, dim=-2).clamp(0, 1).float().cpu()


class SampleGrids(L.Callback):
    """Samples a few prompts at each validation of stage 1, as one row for the logger and for `samples` beside its log.

    Only this callback needs VAE and text encoders where training is on caches; they are loaded at the first validation.

    Args:
        prompts: Texts to sample, at least one.
        seed: Random seed of the first prompt's grid; the others count on from it.
    """

    def __init__(self, prompts: list[str], seed: int = 0) -> None:
        if not prompts:
            raise ValueError("sample grids need prompts, got none; give at least one, or leave the callback out")
        self.prompts, self.seed = prompts, seed

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample after the first batch; with a sharded UNet all processes do, and the first one writes."""
        if batch_idx or trainer.sanity_checking:
            return
        stage1, folder = cast(Stage1Module, module), trainer.log_dir  # found by all processes together
        if trainer.global_rank and not stage1.sharded:
            return
        seeds = range(self.seed, self.seed + len(self.prompts))
        row = torch.cat(list(stage1.sampler()(self.prompts, sampling=stage1.sampling, seeds=seeds)), dim=-1).cpu()
        stage1.frozen.encoders.to("cpu")  # training on caches needs the device's memory
        if trainer.global_rank:
            return
        path = Path(folder or trainer.default_root_dir) / "samples" / f"{trainer.global_step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(row, path)
        board: Any = getattr(trainer.logger, "experiment", None)
        if hasattr(board, "add_image"):
            board.add_image("val/samples", row, trainer.global_step)


class LastCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` that also saves `last.ckpt` when training ends between two of its steps, for whatever reason.

    It saves at the end of the epoch that `max_steps` or `max_time` cuts short: when training itself ends,
    `EMAWeightAveraging` has already replaced the weights that training resumes from by their averages.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save `last.ckpt` unless it has been saved at this step."""
        super().on_train_epoch_end(trainer, module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class CollapseMonitor(L.Callback):
    """Warns with the usual causes when renderings stay all empty or all full.

    Args:
        patience: Validations in a row after which it warns.
    """

    def __init__(self, patience: int = 2) -> None:
        self.patience, self.collapsed = patience, 0

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Compare the mean alpha of renderings and targets."""
        metrics = trainer.callback_metrics
        if trainer.sanity_checking or not {"val/alpha", "val/true_alpha"} <= set(metrics):
            return  # objects of the direct system have no ground truth
        rendered, true = float(metrics["val/alpha"]), float(metrics["val/true_alpha"])
        what = "empty" if rendered < 0.02 * true else "full of fog" if rendered > max(0.97, 3 * true) else ""
        self.collapsed = self.collapsed + 1 if what else 0
        if self.collapsed == self.patience:
            message = COLLAPSE.format(what=what, rendered=rendered, true=true, count=self.collapsed)
            L.pytorch.utilities.rank_zero_warn(message, category=UserWarning)
