"""`instant3d fit | validate | test | predict`: Lightning's own command line over our modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from safetensors.torch import save_file

from instant3d.stage2.data import SceneData
from instant3d.stage2.module import Stage2


class TriplaneWriter(BasePredictionWriter):
    """`predict` leaves the planes of scene NAME in `output/NAME.safetensors`."""

    def __init__(self, output: str = "out/predictions") -> None:
        super().__init__("batch")
        self.output = Path(output)

    def write_on_batch_end(self, trainer: L.Trainer, module: L.LightningModule, prediction: Any, batch_indices: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        folders = trainer.predict_dataloaders.dataset.folders
        self.output.mkdir(parents=True, exist_ok=True)
        for index, planes in zip(batch_indices or [batch_idx], prediction, strict=True):
            save_file({"planes": planes.cpu().contiguous()}, self.output / f"{folders[index].name}.safetensors")


class TrainingCLI(LightningCLI):
    """Ties what must agree, and refuses pickles: checkpoints are read with `weights_only`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("model.architecture.image_size", "data.image_size")


def main(args: list[str] | None = None) -> None:
    """Run one of Lightning's subcommands; `args` are the words after `instant3d`."""
    safe = {"weights_only": True}
    TrainingCLI(
        Stage2,
        SceneData,
        args=args,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"use_distributed_sampler": False},
        parser_kwargs={name: {"default_env": False} for name in ("fit", "validate", "test", "predict")},
    )
    del safe


if __name__ == "__main__":
    main()
