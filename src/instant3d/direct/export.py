"""Writing a checkpoint of the direct system as a folder of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instant3d.direct.architecture import Architecture
from instant3d.direct.network import TextToTriplane
from instant3d.direct.training_record import TrainingRecord
from instant3d.modules.diffusion.prompt_tokens import PromptEncoder
from instant3d.utils.caption_words import CaptionWords


def export_direct(content: dict[str, Any], folder: str | Path, text: str | None = None) -> TextToTriplane:
    """Write a checkpoint's network with the tokenizer and text encoder that it was trained with.

    Args:
        content: Content of a Lightning checkpoint of `DirectModule`.
        folder: Where to write.
        text: Tokenizer and text encoder, if they no longer lie where the checkpoint says.

    Returns:
        The network.

    Raises:
        ValueError: The text encoder cannot be read.
    """
    settings = content["direct"]
    network = TextToTriplane(Architecture.from_dict(settings["architecture"], "the checkpoint"))
    prefix = "network."
    network.load_state_dict(
        {key[len(prefix) :]: value for key, value in content["state_dict"].items() if key.startswith(prefix)}
    )
    try:
        encoder = PromptEncoder.from_pretrained(text or settings["text"], layers=settings.get("text_layers"))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"the text encoder of the prompts cannot be read: {error}; if it lies elsewhere, give --base"
        ) from None
    if "taught" in settings:
        network.training_record = TrainingRecord(**settings["taught"])
    if encoder.words is not None:  # the text encoder was trained from scratch, on other prompts than these
        encoder.words = None if settings.get("words") is None else CaptionWords(settings["words"])
    network.save_pretrained(folder)
    encoder.save(folder)
    return network
