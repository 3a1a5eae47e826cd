"""LoRA weights that come closest to what a whole training changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from instant3d.modules.diffusion.lora import FILE
from instant3d.modules.diffusion.lora_names import lora_layers


def extract_lora(before: Any, after: Any, rank: int) -> tuple[dict[str, Tensor], float]:
    """Approximate the change of a UNet's linear layers and convolutions by matrices of low rank.

    The first singular vectors of a layer's change are the closest matrix of their rank (Eckart and Young 1936). Biases
    and norms, which a LoRA file cannot hold, stay as they were.

    Args:
        before: The UNet that training began with.
        after: The trained one.
        rank: Most singular values of a layer.

    Returns:
        Tensors by their names in peft's convention, in float16, and the share of the squared change that they hold; 1
        if nothing changed.

    Raises:
        ValueError: `rank` is below 1.
    """
    if rank < 1:
        raise ValueError(f"the rank of LoRA must be at least 1, got {rank}")
    trained = dict(after.named_parameters())
    tensors: dict[str, Tensor] = {}
    kept = 0.0
    for path, layer in lora_layers(before):
        weight = layer.weight.detach().float()
        change = trained[f"{path}.weight"].detach().float() - weight
        up, values, down = torch.linalg.svd(change.flatten(1), full_matrices=False)
        if not values[0]:
            continue
        root = values[:rank].sqrt()
        shape = (-1, *weight.shape[1:])  # the kernel of a convolution is in the first matrix, as in peft
        tensors[f"unet.{path}.lora_A.weight"] = (root[:, None] * down[:rank]).reshape(shape).half()
        tensors[f"unet.{path}.lora_B.weight"] = (
            (up[:, :rank] * root).reshape(len(weight), -1, *[1] * (weight.dim() - 2)).half()
        )
        kept += float(values[:rank].square().sum())
    changes = ((trained[name] - value).detach().float().square().sum() for name, value in before.named_parameters())
    total = float(sum(changes, torch.zeros(())))
    return tensors, kept / total if total else 1.0


def save_extracted(tensors: dict[str, Tensor], folder: str | Path) -> None:
    """Write extracted LoRA weights as `pytorch_lora_weights.safetensors`, which diffusers and `--lora` load."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / FILE, {"format": "pt"})
