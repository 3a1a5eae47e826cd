"""Writing a checkpoint of stage 1 as a model in diffusers' layout."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.lora_extraction import extract_lora, save_extracted
from instant3d.modules.diffusion.lora_training import merge_lora, save_lora, with_lora
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.stage1.recommended_sampling import recommended_sampling, write_sampling
from instant3d.stage1.sampling_options import Sampling
from instant3d.utils import atomic
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.errors import print_escaped


def lora_parameters(unet: Any) -> dict[str, nn.Parameter]:
    """LoRA weights of a UNet by name, in float32; dots become slashes, since a parameter's name may not hold dots."""
    trained = {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    return {name.replace(".", "/"): parameter for name, parameter in trained.items()}


def export_stage1(
    content: dict[str, Any],
    folder: str | Path,
    base: str | None = None,
    *,
    lora_only: bool = False,
    rank: int | None = None,
) -> Any:
    """Write a checkpoint's UNet beside the other components of its base, in diffusers' layout.

    The sampling settings are those of the training, or else those that the base recommends.
    If the base lists the words of its captions, those that the UNet was trained on are added to the list; if they are
    not known, the list is left out, and prompts are then not checked for unknown words.

    Args:
        content: Content of a Lightning checkpoint of `Stage1Module`.
        folder: Where to write.
        base: Model that was fine-tuned, if it no longer lies where the checkpoint says.
        lora_only: Write only the LoRA weights, as `pytorch_lora_weights.safetensors` in diffusers' naming, and the
            sampling settings of the training if it states some.
        rank: With `lora_only`, if the whole UNet was trained: the rank of the LoRA weights that come closest to that.

    Returns:
        The UNet.

    Raises:
        ValueError: The base cannot be read, the checkpoint's weights do not fit it, or it is not LoRA alone that
            distinguishes them.
    """
    settings = content["stage1"]
    try:
        parts = Components.load(base or settings["base"])
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"the base model that was fine-tuned cannot be read: {error}; if it lies elsewhere, give --base"
        ) from None
    weights, sampling = content["state_dict"], Sampling(**settings.get("sampling", {}))
    extracted = lora_only and rank is not None and not settings["lora_rank"]
    before = copy.deepcopy(parts.unet) if extracted else None
    if settings["lora_rank"]:
        unet = with_lora(parts.unet, settings["lora_rank"], settings["lora_alpha"])
        trained = nn.ModuleDict({"lora": nn.ParameterDict(lora_parameters(unet))})
    else:
        trained = nn.ModuleDict({"unet": parts.unet})
    try:
        trained.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint's weights do not fit {base or settings['base']}, which is not what was fine-tuned: {error}"
        ) from None
    if lora_only:
        _check_lora_alone(settings, parts, rank)
        if sampling != Sampling():
            write_sampling(sampling, Path(folder))
        if before is None:
            save_lora(parts.unet, folder)
        else:
            tensors, share = extract_lora(before, parts.unet, cast(int, rank))
            save_extracted(tensors, folder)
            print_escaped(
                f"rank {rank} holds {100 * share:.0f}% of the squared change of the UNet's weights", sys.stderr
            )
        return parts.unet
    if settings["lora_rank"]:
        merge_lora(parts.unet)
    parts.scheduler.register_to_config(prediction_type=settings["prediction_type"])
    if settings.get("zero_terminal_snr"):
        parts.scheduler.register_to_config(rescale_betas_zero_snr=True)
    trained_on = settings.get("words")
    if parts.words is not None:
        parts.words = None if trained_on is None else parts.words.joined(CaptionWords(trained_on))
    parts.layout = ViewLayout()  # that of the training grids
    if sampling == Sampling():
        sampling = recommended_sampling(base or settings["base"])
    with atomic.merged(folder) as partial:
        parts.write(partial, torch.float16)
        if sampling != Sampling():
            write_sampling(sampling, partial)
    return parts.unet


def _check_lora_alone(settings: dict[str, Any], base: Components, rank: int | None) -> None:
    """Check that the base with the LoRA weights is the model that was trained."""
    if not settings["lora_rank"] and rank is None:
        raise ValueError(
            "the whole UNet was trained, without LoRA weights; give the rank of those that come closest to it by "
            "--rank, or export a whole model, without --lora"
        )
    if settings["lora_rank"] and rank is not None:
        raise ValueError(f"LoRA weights of rank {settings['lora_rank']} were trained; leave out --rank")
    if settings["prediction_type"] != base.scheduler.config.prediction_type or base.layout != ViewLayout():
        raise ValueError(
            "the LoRA weights were trained for another prediction type or other cameras than the base has, which a "
            "LoRA file cannot hold; export a whole model, without --lora"
        )
