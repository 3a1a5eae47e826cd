"""The common interface of the two-stage and the direct system for `instant3d generate`.

A generator's weights and settings are available before networks are loaded. A batch of prompts is sampled together,
which gives a latent for each; then each latent is turned into an asset. The systems are in
`instant3d.pipelines.two_stage_generator` and `instant3d.pipelines.direct_generator`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from instant3d.nerf.asset import Asset
from instant3d.pipelines import results
from instant3d.pipelines.results import SheetInputs
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.progress import OnStep, Stopwatch


@dataclass(frozen=True)
class GeneratedAsset:
    """A generated asset and how to present it.

    Attributes:
        asset: The asset.
        shown: How its contact sheet begins.
        size: Width and height of rendered images in pixels.
        files: Names of the files and folders of intermediate results that were written.
    """

    asset: Asset
    shown: SheetInputs
    size: int
    files: Sequence[str] = ()


class AssetGenerator(Protocol):
    """The interface of a system that generates assets from prompts.

    Attributes:
        system: Name of the system.
        task: What the user reads while a batch is sampled.
        device: Where the networks run.
        at_once: Prompts that are sampled in one batch.
        settings: What determines an asset beside its prompt and seed, the mesh's resolution and the weights.
    """

    system: str
    task: str
    device: torch.device
    at_once: int
    settings: dict[str, Any]

    @property
    def nodes(self) -> int:
        """Default nodes along each axis of the mesh's grid."""

    @property
    def weights(self) -> dict[str, Any]:
        """Sources and hashes of the weights, by name of the network.

        Each entry has `name`, the source of the weights, and `sha256`, the hash of each of its files; a LoRA's also has
        `weight`, its factor.
        """

    def load(self) -> None:
        """Load the networks now; without this they are loaded at their first use."""

    def fits(self, prompt: str) -> bool:
        """Whether the prompt fits the text encoders, so that nothing of it is cut off."""

    @property
    def words(self) -> CaptionWords | None:
        """The words of the training captions, if the folder of weights lists them."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], watch: Stopwatch, on_step: OnStep) -> Tensor:
        """Sample one latent for each prompt.

        Args:
            prompts: The prompts (B).
            seeds: A seed for each prompt (B).
            watch: Records the seconds of each part.
            on_step: Called after each step of sampling.

        Returns:
            Latents (B, ...), of a shape of the system's own.
        """

    def finish(
        self, latent: Tensor, prompt: str, seed: int, resolution: int, folder: Path, watch: Stopwatch
    ) -> GeneratedAsset:
        """Turn one latent into an asset, and write the intermediate results, but not the asset itself.

        Args:
            latent: One element of what `sample` returned.
            prompt: Its prompt.
            seed: Its seed.
            resolution: Nodes along each axis of the mesh's grid.
            folder: Where intermediate results are written.
            watch: Records the seconds of each part.

        Raises:
            ValueError: The network's output is not finite.
        """


def weight_hashes(name: str | Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """The entry of `AssetGenerator.weights` for one network.

    Args:
        name: Source of the weights: a folder or Hub id.
        files: Files of the weights, by short name.
    """
    return {"name": str(name), "sha256": {short: results.sha256(file) for short, file in files.items()}}
