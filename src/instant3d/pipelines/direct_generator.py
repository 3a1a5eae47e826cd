"""The direct system as an `AssetGenerator`: one network generates a triplane, without input views."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.cameras import FRONT_AZIMUTH_DEG, STRUCTURED_ELEVATION_DEG, orbit
from instant3d.direct.architecture import read_architecture
from instant3d.nerf.asset import mesh_resolution
from instant3d.nerf.triplane import Triplane
from instant3d.pipelines.direct_text_to_3d import DirectTextTo3D
from instant3d.pipelines.generators import GeneratedAsset, weight_hashes
from instant3d.pipelines.results import SheetInputs, image_size
from instant3d.pipelines.weights import direct_files, direct_folder, find_direct
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.devices import find_device
from instant3d.utils.progress import OnStep, Stopwatch
from instant3d.utils.safetensors_folder import CONFIG

AROUND_DEG = range(0, 360, 45)  # from the front, the cameras on the sheet of a system without input views
SIDES = {0: "front", 90: "side", 180: "back", 270: "side"}


class DirectGenerator:
    """The direct system: one network generates the asset's triplane, the latent, without input views.

    Args:
        weights: Folder or Hub id; None: the bundled weights.
        device: "cpu", "cuda" or "auto".
        max_memory: Bytes that rendering and meshing may take.
        at_once: Prompts that are sampled in one batch.

    Raises:
        ValueError: The weights are of another model, or there is no such device.
        FileNotFoundError: The weights are not installed, or the text encoder is missing.
    """

    system, task = "direct", "generating the triplanes"

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        device: str = "auto",
        max_memory: int | None = None,
        at_once: int = 4,
    ) -> None:
        self.device, self.max_memory, self.at_once = find_device(device), max_memory, at_once
        self.source = find_direct(weights)
        self.folder = direct_folder(self.source)
        self.settings: dict[str, Any] = {}

    @cached_property
    def nodes(self) -> int:
        """Default nodes along each axis of the mesh's grid, from the planes of the network."""
        return mesh_resolution(read_architecture(self.folder / CONFIG).plane_side)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """Name and hashes of the network's weights. See `AssetGenerator`."""
        return {"direct": weight_hashes(self.source, direct_files(self.folder))}

    @cached_property
    def model(self) -> DirectTextTo3D:
        """The network and its text encoder; loaded at the first use."""
        return DirectTextTo3D.from_pretrained(self.folder, device=self.device, max_memory=self.max_memory)

    def load(self) -> None:
        """Load the network now. See `AssetGenerator`."""
        _ = self.model

    def fits(self, prompt: str) -> bool:
        """Whether the prompt fits the text encoder's window, so that nothing of it is cut off."""
        return self.model.fits(prompt)

    @property
    def words(self) -> CaptionWords | None:
        """The words of the prompts that the network was trained on, if its folder lists them."""
        return self.model.words

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], watch: Stopwatch, on_step: OnStep) -> Tensor:
        """Generate a triplane for each prompt.

        Args:
            prompts: The prompts (B).
            seeds: A seed for each prompt (B).
            watch: Records the seconds of `text` and `network`.
            on_step: Not called.

        Returns:
            Planes (B, 3, C, P, P).
        """
        with watch("text"):
            text = self.model.encode(prompts)
        with watch("network"):
            planes = self.model.sample(text, seeds).planes
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # or the wait would count for the next part
        return planes

    def finish(
        self, latent: Tensor, prompt: str, seed: int, resolution: int, folder: Path, watch: Stopwatch
    ) -> GeneratedAsset:
        """Build the asset of a triplane; there are no intermediate results.

        Args:
            latent: Planes (3, C, P, P).
            prompt: Its prompt, the sheet's heading.
            seed: Its seed, for the sheet.
            resolution: Nodes along each axis of the mesh's grid.
            folder: Nothing is written there.
            watch: Records the seconds of `network`.

        Returns:
            The asset; its sheet begins with renders from eight directions.

        Raises:
            ValueError: The planes are not finite.
        """
        with watch("network"):
            asset = self.model.build(Triplane(latent), resolution=resolution)
        cameras = orbit([FRONT_AZIMUTH_DEG + degrees for degrees in AROUND_DEG], STRUCTURED_ELEVATION_DEG)
        names = [SIDES.get(degrees, "") for degrees in AROUND_DEG]
        shown = SheetInputs(prompt, f"once around, from the front (seed {seed})", cameras, names)
        return GeneratedAsset(asset, shown, image_size(self.model.network.architecture.plane_side))
