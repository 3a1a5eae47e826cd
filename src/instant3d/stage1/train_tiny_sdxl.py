"""Train a small SDXL from scratch, where no pretrained one is available: `python -m instant3d.stage1.train_tiny_sdxl`.

Trains what stage 1 keeps frozen: a tokenizer on the captions, two text encoders and a VAE; the UNet is left random,
for `instant3d fit stage1`. Each part is written when it is done, and a part that exists is not trained again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instant3d import scenes
from instant3d.modules.diffusion import sdxl
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.tiny_models import train_tokenizer
from instant3d.stage1.grid import SIDE
from instant3d.stage1.grid_dataset import read_views
from instant3d.stage1.pretrain import CaptionedViews, TrainingSettings, latent_scale, train_text, train_vae
from instant3d.utils import atomic, shipped
from instant3d.utils.arg_types import nonnegative_int
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.devices import find_device
from instant3d.utils.errors import print_escaped
from instant3d.utils.progress import Progress
from instant3d.utils.yaml_files import load_yaml

CONFIG = Path("demo_base")
TIME_WIDTH = 32  # channels of the embedding of each of SDXL's six size and crop conditions


@dataclass(frozen=True)
class BaseConfig:
    """Sizes and training settings of a small SDXL; networks' sizes by the names of transformers and diffusers.

    Attributes:
        view_size: Pixels a side of one view; a grid has twice as many.
        vocabulary: Tokens of the vocabulary.
        prompt_length: Tokens of a prompt with both marks.
        text_encoder: Sizes of both text encoders.
        image_encoder: Sizes of the image encoders that the text encoders are trained against.
        vae: Sizes of the VAE.
        unet: Sizes of the UNet.
        train_text: How the text encoders are trained.
        train_vae: How the VAE is trained.
    """

    view_size: int
    vocabulary: int
    prompt_length: int
    text_encoder: dict[str, Any]
    image_encoder: dict[str, Any]
    vae: dict[str, Any]
    unet: dict[str, Any]
    train_text: TrainingSettings
    train_vae: TrainingSettings

    @classmethod
    def read(cls, path: Path) -> BaseConfig:
        """Read a YAML file, or a shipped one by its name.

        Raises:
            ValueError: A key is missing or unknown, or a value is out of range.
        """
        path = shipped.find(path, ["stage1"])
        content = load_yaml(path)
        expected = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or set(content) != expected:
            got = sorted(content) if isinstance(content, dict) else content
            raise ValueError(f"{path} should have the keys {', '.join(sorted(expected))}, got {got}")
        try:
            trainings = {name: TrainingSettings(**content[name]) for name in ("train_text", "train_vae")}
        except TypeError as error:
            raise ValueError(f"{path}: {error}") from None
        return cls(**{**content, **trainings})

    def sizes(self) -> dict[str, dict[str, Any]]:
        """Complete configurations of all networks and the scheduler."""
        levels, channels = len(self.vae["block_out_channels"]), self.vae["latent_channels"]
        vae = {
            "sample_size": SIDE * self.view_size,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "layers_per_block": 1,
            "mid_block_add_attention": False,
            "force_upcast": False,
        }
        unet = {
            "sample_size": SIDE * self.view_size // 2 ** (levels - 1),
            "in_channels": channels,
            "out_channels": channels,
            "layers_per_block": 1,
            "use_linear_projection": True,
            "cross_attention_dim": 2 * self.text_encoder["hidden_size"],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_WIDTH,
            "projection_class_embeddings_input_dim": 6 * TIME_WIDTH + self.text_encoder["projection_dim"],
        }
        return {
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder,
            "vae": {**vae, **self.vae},
            "unet": {**unet, **self.unet},
            "scheduler": {**sdxl.SCHEDULER, "prediction_type": "v_prediction"},
        }


def train(data: CaptionedViews, out: Path, config: BaseConfig, device: str | torch.device = "cpu") -> Components:
    """Build the small SDXL, from the parts that are in `out` already and those that are trained now.

    Args:
        data: Views and captions.
        out: Folder of the model, in diffusers' layout.
        config: Sizes and training settings.
        device: Where to train.

    Returns:
        The components, on the CPU.
    """
    data = data.to(device)
    if not (out / "tokenizer" / "vocab.json").is_file():
        train_tokenizer(data.captions, out / "tokenizer", config.vocabulary, config.prompt_length)
        CaptionWords.of(Counter(data.captions)).write(out / "tokenizer")
    torch.manual_seed(0)
    parts = Components.build(config.sizes(), out / "tokenizer").to(device)
    _trained(out / "vae.safetensors", [parts.vae], lambda state: train_vae(parts.vae, data, config.train_vae, state))
    parts.vae.register_to_config(scaling_factor=latent_scale(parts.vae, data))
    encoders = [parts.text_encoder, parts.text_encoder_2]
    images = {**config.image_encoder, "image_size": config.view_size}
    _trained(
        out / "text.safetensors",
        encoders,
        lambda state: train_text(encoders, parts.tokenizer, images, data, config.train_text, state),
    )
    parts.to("cpu").save(out, torch.float32)
    return parts


def _trained(file: Path, networks: Sequence[nn.Module], train: Callable[[Path], None]) -> None:
    """Train networks, or read what an earlier call trained, so that an interruption costs seconds."""
    from safetensors.torch import load_file, save_file

    modules = nn.ModuleList(networks)
    if file.is_file():
        modules.load_state_dict(load_file(file))
    else:
        train(file.with_suffix(".training"))
        with atomic.partial_file(file, one_writer=True) as partial:
            save_file({key: value.contiguous() for key, value in modules.state_dict().items()}, partial)
    modules.eval().requires_grad_(False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 when the folder is complete, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        config = BaseConfig.read(options.config)
        for name in ("train_vae", "train_text"):
            seconds = getattr(options, name.replace("train_", "") + "_seconds")
            if seconds is not None:
                length = replace(getattr(config, name), seconds=seconds, steps=None)
                config = replace(config, **{name: length})
        folders = [folder for source in options.scenes for folder in scenes.below(source)]
        if not folders:
            raise ValueError(f"there are no scene folders in {', '.join(map(str, options.scenes))}")
        data = CaptionedViews(*read_views(folders, config.view_size, options.workers, Progress.to_user()))
        train(data, options.output, config, find_device(options.device))
    except (ValueError, OSError) as error:
        print_escaped(f"error: {error}", sys.stderr)
        return 2
    print_escaped(f"{options.output}: a small SDXL with a random UNet, from {len(folders)} scenes")
    return 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="python -m instant3d.stage1.train_tiny_sdxl", description=__doc__.splitlines()[0]
    )
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of scene folders with captions")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the small SDXL")
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIG,
        help=f"network sizes and training settings: a YAML file or a shipped name (default {CONFIG})",
    )
    parser.add_argument("--vae-seconds", type=float, help="training time of the VAE in seconds (default: the config's)")
    parser.add_argument(
        "--text-seconds", type=float, help="training time of the text encoders in seconds (default: the config's)"
    )
    parser.add_argument(
        "--workers",
        type=nonnegative_int,
        default=os.cpu_count() or 1,
        help="processes that read scenes (default: one per core)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
