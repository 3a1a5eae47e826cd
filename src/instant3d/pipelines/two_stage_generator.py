"""The two-stage system as an `AssetGenerator`: a grid of four views, and the asset reconstructed from them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from instant3d import scenes
from instant3d.modules.diffusion.lora import Lora
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.nerf.asset import mesh_resolution
from instant3d.pipelines.generators import GeneratedAsset, weight_hashes
from instant3d.pipelines.results import SheetInputs, image_size
from instant3d.pipelines.text_to_3d import TextTo3D, stage1_dtype
from instant3d.pipelines.weights import find_stages, stage1_files, stage2_files
from instant3d.stage1.recommended_sampling import recommended_sampling
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage2.architecture import read_architecture
from instant3d.stage2.network import resolve
from instant3d.utils import visualization
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.devices import find_device
from instant3d.utils.progress import OnStep, Stopwatch
from instant3d.utils.prompts import slug
from instant3d.utils.safetensors_folder import CONFIG
from instant3d.views import Views


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
        self.sampling = sampling or recommended_sampling(self.stage1, loras)
        self.settings = {"negative": negative, "sampling": asdict(self.sampling)}
        layout = ViewLayout.read(Path(self.stage1))
        if layout != ViewLayout():
            self.settings["view_layout"] = asdict(layout)

    @cached_property
    def nodes(self) -> int:
        """Default nodes along each axis of the mesh's grid, from the planes of stage 2."""
        return mesh_resolution(read_architecture(resolve(self.stage2) / CONFIG).plane_side)

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
            f"lora{number}": {**weight_hashes(lora.source, {file.name: file}), "weight": lora.weight}
            for number, lora in enumerate(self.loras, 1)
            for file in [lora.file()]
        }
        return {
            "stage1": weight_hashes(self.stage1, stage1_files(self.stage1, stage1_dtype(self.device))),
            "stage2": weight_hashes(self.stage2, stage2_files(self.stage2)),
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
