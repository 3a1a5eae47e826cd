"""A common interface to the two-stage and the direct system for `instant3d generate`.

A generator's weights and settings are available before networks are loaded. A batch of prompts is sampled together,
which gives a latent for each; then each latent is turned into an asset.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from instant3d import scenes
from instant3d.cameras import FRONT_AZIMUTH_DEG, STRUCTURED_ELEVATION_DEG, orbit
from instant3d.direct.architecture import read_architecture as read_direct
from instant3d.modules.diffusion.lora import Lora
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.nerf.asset import Asset, mesh_resolution
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
from instant3d.stage1.recommended_sampling import recommended_sampling
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage2.architecture import read_architecture as read_stage2
from instant3d.stage2.network import resolve as resolve_stage2
from instant3d.utils import visualization
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.devices import find_device
from instant3d.utils.progress import OnStep, Stopwatch
from instant3d.utils.prompts import slug
from instant3d.utils.safetensors_folder import CONFIG
from instant3d.views import Views

AROUND_DEG = range(0, 360, 45)  # from the front, the cameras on the sheet of a system without input views
SIDES = {0: "front", 90: "side", 180: "back", 270: "side"}


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


class TwoStageGenerator:
    """The two-stage system: stage 1 generates a grid of views, the latent; stage 2 reconstructs the asset from them.

    Args:
        stage1: Folder or Hub id of stage 1; None: the bundled weights.
        stage2: Folder or Hub id of stage 2; None: the bundled weights.
        loras: LoRA files that are fused into stage 1.
        sampling: Settings of the denoising; None: those that stage 1's folder recommends.
        negative: Negative prompt of classifier-free guidance.
        device: "cpu", "cuda" or "auto".
        max_memory: Bytes, as of `TextTo3D`.
        at_once: Prompts that are sampled in one batch.
        torch_compile: Whether stage 1's UNet is compiled, see `GridSampler`.

    Raises:
        ValueError: The weights are of other models, or there is no such device.
        FileNotFoundError: The bundled weights are not installed.
    """

    system, task = "two-stage", "generating the views"

    def __init__(
        self,
        stage1: str | Path | None = None,
        stage2: str | Path | None = None,
        *,
        loras: Sequence[Lora] = (),
        sampling: Sampling | None = None,
        negative: str | None = None,
        device: str = "auto",
        max_memory: int | None = None,
        at_once: int = 4,
        torch_compile: bool = False,
    ) -> None:
        self.device, self.max_memory, self.at_once = find_device(device), max_memory, at_once
        self.torch_compile = torch_compile
        self.stage1, self.stage2 = find_stages(stage1, stage2)
        self.loras, self.negative = loras, negative
        self.sampling = sampling or recommended_sampling(self.stage1)
        self.settings = {"negative": negative, "sampling": asdict(self.sampling)}
        layout = ViewLayout.read(Path(self.stage1))
        if layout != ViewLayout():
            self.settings["view_layout"] = asdict(layout)

    @cached_property
    def nodes(self) -> int:
        """Default nodes along each axis of the mesh's grid, from the planes of stage 2."""
        return mesh_resolution(read_stage2(resolve_stage2(self.stage2) / CONFIG).plane_side)

    def with_sampling(self, sampling: Sampling, negative: str | None = None) -> TwoStageGenerator:
        """Return a generator with other settings that shares the loaded networks."""
        other = copy.copy(self)
        other.sampling, other.negative = sampling, negative
        other.settings = self.settings | {"negative": negative, "sampling": asdict(sampling)}
        return other

    @cached_property
    def weights(self) -> dict[str, Any]:
        """Names and hashes of the weights of stage 1, stage 2 and each LoRA. See `AssetGenerator`."""
        loras = {
            f"lora{number}": {**_hashes(lora.source, {file.name: file}), "weight": lora.weight}
            for number, lora in enumerate(self.loras, 1)
            for file in [lora.file()]
        }
        return {
            "stage1": _hashes(self.stage1, stage1_files(self.stage1, stage1_dtype(self.device))),
            "stage2": _hashes(self.stage2, stage2_files(self.stage2)),
            **loras,
        }

    @cached_property
    def model(self) -> TextTo3D:
        """Both stages; loaded at the first use."""
        return TextTo3D.from_pretrained(
            self.stage1,
            self.stage2,
            loras=self.loras,
            device=self.device,
            max_memory=self.max_memory,
            at_once=self.at_once,
            torch_compile=self.torch_compile,
        )

    def load(self) -> None:
        """Load both stages now. See `AssetGenerator`."""
        _ = self.model

    def fits(self, prompt: str) -> bool:
        """Whether the prompt fits stage 1's tokenizers, so that nothing of it is cut off."""
        return self.model.fits(prompt)

    @property
    def words(self) -> CaptionWords | None:
        """The words of the captions that stage 1 was trained on, if its folder lists them."""
        return self.model.words

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], watch: Stopwatch, on_step: OnStep) -> Tensor:
        """Generate a grid of four views for each prompt.

        Args:
            prompts: The prompts (B).
            seeds: A seed for each prompt (B).
            watch: Records the seconds of `text`, `denoise` and `decode`.
            on_step: Called after each step of denoising.

        Returns:
            Grids (B, 3, H, W) in [0, 1], on the CPU.
        """
        with watch("text"):
            text, away = self.model.encode(prompts, self.negative)
        with watch("denoise"):
            latents = self.model.denoise(text, away, seeds, sampling=self.sampling, on_step=on_step)
        with watch("decode"):
            return self.model.decode(latents).cpu()

    def finish(
        self, latent: Tensor, prompt: str, seed: int, resolution: int, folder: Path, watch: Stopwatch
    ) -> GeneratedAsset:
        """Reconstruct the asset of a grid; write grid.png and the scene folder views/.

        Args:
            latent: The grid of four views (3, H, W) in [0, 1].
            prompt: Its prompt, the scene's caption.
            seed: Its seed, for the sheet.
            resolution: Nodes along each axis of the mesh's grid.
            folder: Where grid.png and views/ are written.
            watch: Records the seconds of `reconstruct` and `video`.

        Returns:
            The asset with its four views, which begin the sheet.
        """
        with watch("reconstruct"):
            asset = self.model.build(self.model.split(latent), resolution=resolution)
            views = cast(Views, asset.views)
        with watch("video"):
            visualization.write_image(latent, folder / "grid.png")
            scenes.write(folder / "views", views, caption=prompt, object_id=slug(prompt))
        shown = SheetInputs(prompt, f"generated views (seed {seed})", views)
        size = image_size(self.model.reconstruct.network.image_size or views.width)
        return GeneratedAsset(asset, shown, size, ["grid.png", "views"])


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
        return mesh_resolution(read_direct(self.folder / CONFIG).plane_side)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """Name and hashes of the network's weights. See `AssetGenerator`."""
        return {"direct": _hashes(self.source, direct_files(self.folder))}

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


def _hashes(name: str | Path, files: dict[str, Path]) -> dict[str, Any]:
    return {"name": str(name), "sha256": {short: results.sha256(file) for short, file in files.items()}}
