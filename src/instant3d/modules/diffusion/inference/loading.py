"""Loading of a whole SDXL for inference without diffusers and transformers, if these classes can stand for theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from instant3d.modules.diffusion import checkpoint_source as files
from instant3d.modules.diffusion.checkpoint_source import ALL, NETWORKS
from instant3d.modules.diffusion.compatibility import check
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.inference import unet, vae
from instant3d.modules.diffusion.inference.clip_text import ACTIVATIONS, ClipText, Tokenizer
from instant3d.modules.diffusion.sizes import check_sizes
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.utils import tensor_files
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.errors import LIBRARY_ERRORS

TEXT_MODEL = "text_model."  # before the names of a text encoder's weights in files


class _Unsupported(Exception):
    """These classes cannot stand for the libraries'."""


def load_components(source: str | Path, dtype: torch.dtype = torch.float32) -> Components:
    """Load all components of a model for inference.

    Those of a folder in float32 that these classes support load in milliseconds. All others, and whatever is damaged,
    are left to `Components.load`.

    Args:
        source: Folder in diffusers' layout, Hub id or file.
        dtype: Precision of the networks.

    Raises:
        FileNotFoundError: See `Components.load`.
        ValueError: See `Components.load`.
    """
    if dtype == torch.float32 and Path(source).is_dir():
        try:
            return _load(files.folders(source, ALL, dtype))
        except (_Unsupported, *LIBRARY_ERRORS):
            pass  # what is wrong is found again by the libraries, and reported precisely
    return Components.load(source, dtype=dtype)


def _load(folders: Mapping[str, Path]) -> Components:
    made: dict[str, Any] = {name: _tokenizer(folders[name]) for name in ("tokenizer", "tokenizer_2")}
    builders = {name: _builder(folders[name], name) for name in NETWORKS}  # all, before any weights are read
    made |= {name: _network(folders[name], *builder) for name, builder in builders.items()}
    made["scheduler"] = SimpleNamespace(config=files.read_json(folders["scheduler"] / "scheduler_config.json"))
    components = Components(
        **made, words=CaptionWords.read(folders["tokenizer"]), layout=ViewLayout.read(folders["unet"].parent)
    )
    check(vars(components), str(folders["unet"].parent))
    return components


def _network(folder: Path, build: Callable[[], nn.Module], prefix: str) -> nn.Module:
    """Build a network and read its weights, whose names in files begin with `prefix`."""
    stem = "model" if prefix else "diffusion_pytorch_model"
    tensors = tensor_files.load_tensors(folder / f"{stem}.safetensors")
    tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    with torch.device("meta"):
        network = build()
    expected = {key: value.shape for key, value in network.state_dict().items()}
    if expected != {key: value.shape for key, value in tensors.items()}:
        raise _Unsupported
    own = {key: tensor_files.to_float32(key, value) for key, value in tensors.items()}
    network.load_state_dict(own, assign=True)
    return network.eval().requires_grad_(False)


def _builder(folder: Path, name: str) -> tuple[Callable[[], nn.Module], str]:
    """Return how a network is built, and what is before the names of its weights."""
    config = files.read_json(folder / "config.json")
    check_sizes(config, folder / "config.json")
    if name.startswith("text_encoder"):
        if config.get("hidden_act") not in ACTIVATIONS:
            raise _Unsupported
        return lambda: ClipText(config, name == "text_encoder_2"), TEXT_MODEL
    module = unet if name == "unet" else vae
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    blocks = set(known.get("down_block_types", ())) <= set(module.DOWN) and set(known.get("up_block_types", ())) <= set(
        module.UP
    )
    fixed = {key: known.pop(key) for key in module.FIXED if key in known}
    if set(known) != module.SIZES or fixed != module.FIXED or not blocks:
        raise _Unsupported
    return lambda: unet.UNet(config) if name == "unet" else vae.VAE(config), ""


def _tokenizer(folder: Path) -> Tokenizer:
    settings = files.read_json(folder / "tokenizer_config.json")
    if settings.get("tokenizer_class") != "CLIPTokenizer" or not (folder / "tokenizer.json").is_file():
        raise _Unsupported
    try:
        return Tokenizer(folder / "tokenizer.json", settings["model_max_length"], settings["pad_token"])
    except Exception as error:  # tokenizers raises bare Exception, whatever is wrong with a file
        raise _Unsupported from error
