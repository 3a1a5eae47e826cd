"""Writing a checkpoint of stage 2 as a folder of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instant3d.stage2.architecture import Architecture
from instant3d.stage2.network import Reconstructor


def export_stage2(content: dict[str, Any], folder: str | Path, source: object = "the checkpoint") -> Reconstructor:
    """Write a checkpoint's network, with the licence of the weights that it was fine-tuned from.

    Args:
        content: Content of a Lightning checkpoint of `Stage2Module`.
        folder: Where to write.
        source: Where the content comes from, for the message.

    Returns:
        The network.

    Raises:
        ValueError: The architecture is not one of ours.
    """
    network = Reconstructor(Architecture.from_dict(content["architecture"], source))
    network.licence = content.get("licence")
    prefix = "network."
    network.load_state_dict(
        {key[len(prefix) :]: value for key, value in content["state_dict"].items() if key.startswith(prefix)}
    )
    network.save_pretrained(folder)
    return network
