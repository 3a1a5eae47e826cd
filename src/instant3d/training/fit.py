"""Lightning's command line over our modules: `instant3d fit | validate | test | predict [stage1 | stage2 | direct]`."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from docstring_parser import DocstringStyle
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from torch import nn

from instant3d.direct.data import PromptDataModule
from instant3d.direct.export import export_direct
from instant3d.direct.module import DirectModule
from instant3d.stage1.data import GridDataModule
from instant3d.stage1.export import export_stage1
from instant3d.stage1.module import Stage1Module
from instant3d.stage2.architecture import read_architecture
from instant3d.stage2.data import SceneDataModule
from instant3d.stage2.export import export_stage2
from instant3d.stage2.module import Stage2Module
from instant3d.stage2.network import resolve
from instant3d.training import arguments
from instant3d.training.prediction_writers import PredictionWriter, SceneWriter, TriplaneWriter
from instant3d.utils import atomic, file_listing
from instant3d.utils.allocator import keep_freed_memory
from instant3d.utils.devices import fast_dtype
from instant3d.utils.errors import first_line
from instant3d.utils.tensor_files import load_weights_only

ALWAYS = {name: ["--weights_only=true"] for name in ("fit", "validate", "test")}
# predictions are written batch by batch, not gathered, and nothing is logged
ALWAYS["predict"] = ["--weights_only=true", "--return_predictions=false", "--trainer.logger=false"]


class TrainingCLI(LightningCLI):
    """Command line that all systems share."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is run; building the parsers of all four would take seconds."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in self.parser_kwargs}

    def before_instantiate_classes(self) -> None:
        """Resolve `--ckpt_path`, and replace a precision that this processor only emulates.

        `--ckpt_path last` is the newest checkpoint below `trainer.default_root_dir`, a folder its newest.

        Raises:
            FileNotFoundError: There is no checkpoint.
            ValueError: The file is no training checkpoint.
        """
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            atomic.prepare_output(config.trainer.default_root_dir or ".")
        if config.ckpt_path == "last":
            config.ckpt_path = str(newest_checkpoint(Path(config.trainer.default_root_dir or ".")))
        elif config.ckpt_path and Path(config.ckpt_path).is_dir():
            config.ckpt_path = str(newest_checkpoint(Path(config.ckpt_path)))
        if config.ckpt_path and Path(config.ckpt_path).is_file():
            content = load_weights_only(
                Path(config.ckpt_path), map_location="meta"
            )  # Lightning's own error would be a traceback
            if not isinstance(content, dict) or "state_dict" not in content:
                raise ValueError(f"{config.ckpt_path} is no training checkpoint; `instant3d fit` writes them")
        avoid_emulated_bfloat16(config)

    def after_predict(self) -> None:
        """Fail after all predictions are written if some could not be.

        Raises:
            ValueError: The number of missing predictions, and where the others are.
        """
        callbacks = cast(Any, self.trainer).callbacks
        writer = next(callback for callback in callbacks if isinstance(callback, PredictionWriter))
        faults = getattr(self.datamodule, "faults", []) if self.trainer.is_global_zero else []
        if writer.faults or faults:
            raise ValueError(
                f"{writer.faults + len(faults)} {writer.made_of} have no {writer.makes}, for the reasons above; "
                f"{writer.output} has the others"
            )


class Stage1CLI(TrainingCLI):
    """Passes the folder of the predictions to the data, which leaves out finished prompts."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the scene writer and link its folder to the data."""
        parser.add_lightning_class_args(SceneWriter, "scenes")
        parser.link_arguments("scenes.output", "data.output")


def link_image_size(parser: LightningArgumentParser) -> None:
    """Give stage 2's data the image size of the network's architecture."""
    parser.link_arguments("model.architecture.image_size", "data.image_size")


def set_image_size(config: Namespace) -> None:
    """With `model.start`, give stage 2's data the image size of the architecture of those weights.

    Raises:
        ValueError: They do not name their image size.
    """
    if config.model.start is None:
        return
    architecture = read_architecture(resolve(config.model.start) / "config.json")
    if not architecture.image_size:
        raise ValueError(
            f"{config.model.start} does not name the image size that it was trained with; "
            "convert it again with --image-size"
        )
    config.data.image_size = architecture.image_size


class Stage2CLI(TrainingCLI):
    """Passes the network's image size to the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the triplane writer and link the image size of the network to the data."""
        link_image_size(parser)
        parser.add_lightning_class_args(TriplaneWriter, "triplanes")

    def before_instantiate_classes(self) -> None:
        """Take the image size from the weights of `model.start`."""
        super().before_instantiate_classes()
        set_image_size(self.config[self.subcommand])


class DirectCLI(TrainingCLI):
    """Passes the guidance and the folder of the predictions to the data, which leaves out finished prompts."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the triplane writer and link its folder to the data."""
        parser.add_lightning_class_args(TriplaneWriter, "triplanes")
        parser.link_arguments("triplanes.output", "data.output")
        parser.link_arguments("model", "data.guidance", compute_fn=attrgetter("guidance"), apply_on="instantiate")


SYSTEMS: dict[str, tuple[type[TrainingCLI], type[L.LightningModule], type[L.LightningDataModule]]] = {
    "stage1": (Stage1CLI, Stage1Module, GridDataModule),
    "stage2": (Stage2CLI, Stage2Module, SceneDataModule),
    "direct": (DirectCLI, DirectModule, PromptDataModule),
}


def main(args: list[str]) -> None:
    """Run one of Lightning's subcommands.

    `--ckpt_path last` continues from the last checkpoint in `trainer.default_root_dir`. Checkpoints are read with
    `weights_only`, which refuses pickled code.

    Args:
        args: Arguments after `instant3d`: the subcommand, the system, options.

    Raises:
        ValueError: An argument or a config is invalid.
        FileNotFoundError: A config or checkpoint does not exist.
    """
    subcommand, words = args[0], args[1:]
    if words[:1] in (["-h"], ["--help"]):
        print(arguments.help_text(subcommand))
        return
    system = arguments.system_of(subcommand, words)
    words = arguments.expand_options(words[1:], system)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32 for products outside of autocast
    else:
        keep_freed_memory()
    with arguments.without_library_notes():
        _command_line(system, [subcommand, *ALWAYS[subcommand], *words])


def _command_line(system: str, words: list[str]) -> None:
    """Lightning's command line over the modules of a system."""
    command, module, data = SYSTEMS[system]
    subcommand = words[0]
    usage = {subcommand: {"usage": arguments.usage(subcommand, system)}}
    documented = any(word == "-h" or "help" in word or "comments" in word for word in words)  # slow to parse otherwise
    set_parsing_settings(docstring_parse_style=DocstringStyle.GOOGLE, docstring_parse_attribute_docstrings=documented)
    try:
        command(
            module,
            data,
            args=words,
            parser_kwargs={"exit_on_error": False, **usage},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=None if subcommand == "predict" else SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False},
        )
    except ArgumentError as error:
        raise ValueError(arguments.error_sentence(str(error), subcommand, system)) from error
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's exit code would be 1
            raise KeyboardInterrupt from stop
        raise


def avoid_emulated_bfloat16(config: Namespace) -> None:
    """Compute in float32 on a CPU that emulates bfloat16, where a convolution in it takes 100 times as long."""
    on_cpu = config.trainer.accelerator == "cpu" or (
        config.trainer.accelerator == "auto" and not torch.cuda.is_available()
    )
    if config.trainer.precision != "bf16-mixed" or not on_cpu or fast_dtype() is torch.bfloat16:
        return
    config.trainer.precision = "32-true"
    if config.get("model.half_base"):
        config.model.half_base = False
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print("this processor only emulates bfloat16: training in float32 (trainer.precision 32-true)", file=sys.stderr)


def newest_checkpoint(root: Path) -> Path:
    """The `last.ckpt` (or `last-v1.ckpt`, ...) that was written latest below `root`.

    Raises:
        FileNotFoundError: There is none.
    """
    found = sorted(file_listing.visible_files(root, "**/last*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"there is no last.ckpt below {root}; `instant3d fit` writes them")
    return found[-1]


def export(
    checkpoint: str | Path,
    folder: str | Path,
    base: str | None = None,
    *,
    lora_only: bool = False,
    rank: int | None = None,
) -> nn.Module:
    """Convert a training checkpoint (its averaged weights, if any) to a folder of weights.

    Stage 2's is for `Reconstructor.from_pretrained`, with the licence of the weights that it was fine-tuned from. Stage
    1's is in diffusers' layout, the trained UNet beside the other parts of its base. The direct system's is for
    `TextToTriplane.from_pretrained`, beside the text encoder that it reads prompts with.

    Args:
        checkpoint: A checkpoint, or the folder of a run, whose newest one is taken.
        folder: Where to write.
        base: Base model or text encoder, if it no longer lies where the checkpoint says.
        lora_only: Write only the LoRA weights of a stage 1.
        rank: Their rank, if the whole UNet was trained.

    Returns:
        The network.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The file is no checkpoint of ours, or does not fit the base.
    """
    if Path(checkpoint).is_dir():
        checkpoint = newest_checkpoint(Path(checkpoint))
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {checkpoint}; `instant3d fit` writes them below trainer.default_root_dir"
        )
    content = load_weights_only(Path(checkpoint))
    if not isinstance(content, dict):
        raise ValueError(f"{checkpoint} holds a {type(content).__name__}, not a training checkpoint")
    try:
        if "stage1" in content:
            return export_stage1(content, folder, base, lora_only=lora_only, rank=rank)
        if lora_only:
            raise ValueError(f"{checkpoint} is no stage 1, the only network that has LoRA weights; leave out --lora")
        if "direct" in content:
            return export_direct(content, folder, base)
        if "architecture" in content:
            return export_stage2(content, folder, checkpoint)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{checkpoint} does not hold what this version exports ({type(error).__name__}: {first_line(error)}); "
            "export it by the version of instant3d that wrote it, or copy it again"
        ) from None
    raise ValueError(f"{checkpoint} is no training checkpoint of ours: it names neither a base nor an architecture")


if __name__ == "__main__":  # Lightning starts this again for every further process of DDP
    main(sys.argv[1:])
