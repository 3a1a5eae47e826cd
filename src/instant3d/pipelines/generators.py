"""What makes the assets of prompts: the two-stage system or the direct one, as `instant3d generate` sees both alike.

A maker knows its weights and settings before anything is loaded. It begins several prompts together, which gives a
draft for each, and ends them one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from instant3d import scenes
from instant3d.cameras import STRUCTURED_ELEVATION_DEG, orbit
from instant3d.direct.architecture import read_architecture
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG
from instant3d.nerf.asset import Asset
from instant3d.nerf.triplane import Triplane
from instant3d.pipelines import results
from instant3d.pipelines.results import SheetInputs, image_size
from instant3d.pipelines.text_to_3d import DirectTextTo3D, TextTo3D, stage1_dtype
from instant3d.pipelines.weights import (
    direct_files,
    direct_folder,
    find_direct,
    find_stages,
    stage1_files,
    stage2_files,
)
from instant3d.stage1.grid import to_views
from instant3d.stage1.sampling_options import Sampling
from instant3d.utils import visualization
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.devices import find_device
from instant3d.utils.progress import OnStep, Stopwatch
from instant3d.utils.prompts import slug
from instant3d.utils.safetensors_folder import CONFIG

AROUND_DEG = range(0, 360, 45)  # from the front, where a sheet shows what was made of no pictures
SIDES = {0: "front", 90: "side", 180: "back", 270: "side"}


@dataclass(frozen=True)
class GeneratedAsset:
    """An asset, how its sheet begins, the width of its pictures, and the files of what it was made of."""

    asset: Asset
    shown: SheetInputs
    size: int
    files: Sequence[str] = ()


class AssetGenerator(Protocol):
    """What `generate` asks of a system.

    task      what is told to the user while prompts are begun
    at_once   prompts that are begun together
    settings  what decides how an asset looks, beside its prompt and seed, the mesh's resolution and the weights
    weights   where they were found and the SHA-256 of each of their files
    nodes     of the mesh's grid, a side, unless others are asked for
    """

    system: str
    task: str
    device: torch.device
    at_once: int
    settings: dict[str, Any]
    nodes: int

    @property
    def weights(self) -> dict[str, Any]: ...

    def load(self) -> None:
        """Be ready to begin; else this is done when it is first needed."""

    def fits(self, prompt: str) -> bool:
        """Whether nothing of the prompt is cut off."""

    @property
    def words(self) -> CaptionWords | None:
        """The words of its training captions, if its folder lists them."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], watch: Stopwatch, on_step: OnStep) -> Tensor:
        """Drafts (B, ...)."""

    def finish(
        self, latent: Tensor, prompt: str, seed: int, resolution: int, folder: Path, watch: Stopwatch
    ) -> GeneratedAsset:
        """The asset of a draft; what it was made of is written into `folder`, all but the asset itself."""


class TwoStageGenerator:
    """Stage 1 draws a grid of views, which is the draft, and stage 2 builds the asset of them."""

    system, task = "two-stage", "drawing the views"
    nodes = 256

    def __init__(
        self,
        stage1: str | Path | None = None,
        stage2: str | Path | None = None,
        *,
        sampling: Sampling = Sampling(),
        negative: str | None = None,
        device: str = "auto",
        max_memory: int | None = None,
        at_once: int = 4,
    ) -> None:
        self.device, self.max_memory, self.at_once = find_device(device), max_memory, at_once
        self.stage1, self.stage2 = find_stages(stage1, stage2)
        self.sampling, self.negative = sampling, negative
        self.settings = {"negative": negative, "sampling": asdict(sampling)}

    @cached_property
    def weights(self) -> dict[str, Any]:
        return {
            "stage1": _hashes(self.stage1, stage1_files(self.stage1, stage1_dtype(self.device))),
            "stage2": _hashes(self.stage2, stage2_files(self.stage2)),
        }

    @cached_property
    def model(self) -> TextTo3D:
        return TextTo3D.from_pretrained(
            self.stage1, self.stage2, device=self.device, max_memory=self.max_memory, at_once=self.at_once
        )

    def load(self) -> None:
        _ = self.model

    def fits(self, prompt: str) -> bool:
        return self.model.fits(prompt)

    @property
    def words(self) -> CaptionWords | None:
        return self.model.words

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], watch: Stopwatch, on_step: OnStep) -> Tensor:
        """Grids (B, 3, H, W)."""
        with watch("text"):
            text, away = self.model.encode(prompts, self.negative)
        with watch("denoise"):
            latents = self.model.denoise(text, away, seeds, sampling=self.sampling, on_step=on_step)
        with watch("decode"):
            return self.model.decode(latents).cpu()

    def finish(
        self, latent: Tensor, prompt: str, seed: int, resolution: int, folder: Path, watch: Stopwatch
    ) -> GeneratedAsset:
        """The asset; writes grid.png and the scene folder views/."""
        with watch("reconstruct"):
            views = to_views(latent)
            asset = self.model.build(views, resolution=resolution)
        with watch("video"):
            visualization.write_image(latent, folder / "grid.png")
            scenes.write(folder / "views", views, caption=prompt, object_id=slug(prompt))
        shown = SheetInputs(prompt, f"generated views (seed {seed})", views)
        size = image_size(self.model.reconstruct.network.image_size or views.width)
        return GeneratedAsset(asset, shown, size, ["grid.png", "views"])


class DirectGenerator:
    """One network makes the asset's planes, which are the draft; there are no views that it is made of."""

    system, task = "direct", "growing the triplanes"

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
        self.nodes = read_architecture(self.folder / CONFIG).mesh_resolution
        self.settings: dict[str, Any] = {}

    @cached_property
    def weights(self) -> dict[str, Any]:
        return {"direct": _hashes(self.source, direct_files(self.folder))}

    @cached_property
    def model(self) -> DirectTextTo3D:
        return DirectTextTo3D.from_pretrained(self.folder, device=self.device, max_memory=self.max_memory)

    def load(self) -> None:
        _ = self.model

    def fits(self, prompt: str) -> bool:
        return self.model.fits(prompt)

    @property
    def words(self) -> CaptionWords | None:
        return self.model.words

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], watch: Stopwatch, on_step: OnStep) -> Tensor:
        """Planes (B, 3, C, P, P)."""
        with watch("text"):
            text = self.model.encode(prompts)
        with watch("network"):
            planes = self.model.sample(text, seeds).planes
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # or what comes next would be blamed for the wait
        return planes

    def finish(
        self, latent: Tensor, prompt: str, seed: int, resolution: int, folder: Path, watch: Stopwatch
    ) -> GeneratedAsset:
        """The asset; nothing but it is to be written."""
        with watch("network"):
            asset = self.model.build(Triplane(latent), resolution=resolution)
        cameras = orbit([FRONT_AZIMUTH_DEG + degrees for degrees in AROUND_DEG], STRUCTURED_ELEVATION_DEG)
        names = [SIDES.get(degrees, "") for degrees in AROUND_DEG]
        shown = SheetInputs(prompt, f"once around, from the front (seed {seed})", cameras, names)
        return GeneratedAsset(asset, shown, image_size(self.model.network.architecture.plane_side))


def _hashes(name: str | Path, files: dict[str, Path]) -> dict[str, Any]:
    return {"name": str(name), "sha256": {short: results.sha256(file) for short, file in files.items()}}
