"""Trainable LoRA weights in a UNet: adding, merging and saving them. LoRA files are fused by `lora`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def with_lora(unet: Any, rank: int, alpha: float) -> Any:
    """Freeze a UNet and add trainable LoRA weights (alpha / rank) B A to the projections of all its attention layers.

    Args:
        unet: Changed in place and returned.
        rank: Rank of the update, at least 1.
        alpha: Its scale; only alpha / rank matters (Hu et al. 2021, section 4.1).

    Raises:
        ValueError: `rank` is below 1.
    """
    from peft import LoraConfig

    if rank < 1:
        raise ValueError(f"the rank of LoRA must be at least 1, got {rank}; give a positive lora_rank")
    # peft declares `lora_alpha` as an int but only divides it by the rank
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS))  # type: ignore[arg-type]
    return unet


def merge_lora(unet: Any) -> Any:
    """Fold the LoRA weights of `with_lora` into the UNet's own, and make all of it trainable again."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet.requires_grad_(True)


def save_lora(unet: Any, folder: str | Path) -> None:
    """Write the LoRA weights of `with_lora` alone, as `pytorch_lora_weights.safetensors` in diffusers' naming."""
    from diffusers import StableDiffusionXLPipeline
    from peft import get_peft_model_state_dict

    layers = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(unet).items()}
    settings = unet.peft_config["default"].to_dict()
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers, unet_lora_adapter_metadata=settings)
