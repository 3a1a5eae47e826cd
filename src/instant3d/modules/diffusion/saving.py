"""Saving of single components of an SDXL in diffusers' layout; `loading` reads them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from instant3d.modules.diffusion.checkpoint_source import NETWORKS


def write(part: Any, name: str, folder: Path, dtype: torch.dtype) -> None:
    """Write a component into an existing folder, in diffusers' layout.

    Args:
        part: A network, tokenizer, scheduler or other component; it is unchanged.
        name: Its name, such as "unet".
        folder: The component's own folder.
        dtype: Precision in which a network is stored.

    Raises:
        ValueError: The network has LoRA weights that are not merged.
    """
    if name in (*NETWORKS, "vision_encoder"):
        _write_network(part, name, folder, dtype)
        return
    part.save_pretrained(folder)
    if name.startswith("tokenizer"):
        part.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt, all that transformers 4 reads


def _write_network(network: Any, name: str, folder: Path, dtype: torch.dtype) -> None:
    """Write settings and weights; tensors are cast one at a time, so that the network itself is unchanged."""
    from safetensors.torch import save_file

    if any("lora_" in key for key in network.state_dict()):
        raise ValueError(f"the {name} has LoRA weights, which plain diffusers would not read; merge them first")
    if name.endswith(("encoder", "encoder_2")):
        config = copy.deepcopy(network.config)
        # not `dtype`: transformers would load the encoder in it by default, but diffusers loads the UNet in float32
        config.architectures, config.dtype = [type(network).__name__], torch.float32
        config.save_pretrained(folder)
    else:
        network.save_config(folder)
        _remove_origin(folder / "config.json")
    # the Hub's own names: this network lost its prefix in transformers 5.6, which still reads them, as older ones do
    prefix = "text_model." if name == "text_encoder" and not hasattr(network, "text_model") else ""
    tensors = {
        prefix + key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()
    }
    path = folder / (
        "model.safetensors" if name.endswith(("encoder", "encoder_2")) else "diffusion_pytorch_model.safetensors"
    )
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod((folder / "config.json").stat().st_mode)  # `save_file` lets only its owner read


def _remove_origin(config: Path) -> None:
    """Remove the folder that a network was loaded from, which diffusers notes: it names a user's paths."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
