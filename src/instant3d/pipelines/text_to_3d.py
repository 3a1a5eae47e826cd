"""Python interface: from a prompt, or from posed views, to an asset in one call.

Assets stay in memory until they are saved:

TextTo3D.from_pretrained()("a red fire hydrant").save("out")
DirectTextTo3D.from_pretrained()("a red fire hydrant").save("out")
ViewsTo3D.from_pretrained("checkpoints/stage2-demo")(scenes.read("examples/couch")).save("out")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from instant3d.modules.diffusion.checkpoint_source import NETWORKS
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.inference.loading import load_components
from instant3d.modules.diffusion.lora import Lora, fuse
from instant3d.modules.diffusion.text import TextEmbedding, fits
from instant3d.nerf.asset import Asset
from instant3d.nerf.quarter_turns import turned
from instant3d.pipelines.direct_text_to_3d import DirectTextTo3D
from instant3d.pipelines.model_offload import ModelOffloader, fair_share
from instant3d.pipelines.views_to_3d import ViewsTo3D
from instant3d.pipelines.weights import find_stages
from instant3d.stage1.grid import to_views
from instant3d.stage1.recommended_sampling import recommended_sampling
from instant3d.stage1.sampler import GridSampler
from instant3d.stage1.sampling_options import Sampling
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.utils.progress import OnStep
from instant3d.views import Views

__all__ = ["Asset", "DirectTextTo3D", "Sampling", "TextTo3D", "ViewsTo3D"]


class TextTo3D:
    """The two-stage system: stage 1 generates four views as one image, stage 2 reconstructs a triplane from them.

    The four steps (`encode`, `denoise`, `decode`, `build`) can be called one by one.

    Args:
        components: Stage 1's networks, tokenizers and schedule.
        reconstruct: Stage 2.
        device: Where networks run.
        max_memory: Bytes that all weights on the device may take together, the others staying on the CPU, and that
            rendering and meshing may take. By default weights take at most six tenths of a GPU's free memory.
        at_once: Grids that are denoised in one batch.
        sampling: Settings of the denoising where a call gives none.
        torch_compile: Whether stage 1's UNet is compiled, see `GridSampler`.
    """

    def __init__(
        self,
        components: Components,
        reconstruct: ViewsTo3D,
        *,
        device: str | torch.device = "cpu",
        max_memory: int | None = None,
        at_once: int = 4,
        sampling: Sampling = Sampling(),
        torch_compile: bool = False,
    ) -> None:
        self.device, self.sampling = torch.device(device), sampling
        self.sampler = GridSampler(components, at_once=at_once, torch_compile=torch_compile)
        self.reconstruct = reconstruct
        self.limits = MemoryLimits.of(max_memory)
        parts = {name: getattr(components, name) for name in NETWORKS} | {"stage2": reconstruct.network}
        self.offloader = ModelOffloader(parts, self.device, self.limits.weights or fair_share(self.device))

    @classmethod
    def from_pretrained(
        cls,
        stage1: str | Path | None = None,
        stage2: str | Path | None = None,
        *,
        loras: Sequence[Lora] = (),
        device: str | torch.device = "cpu",
        max_memory: int | None = None,
        at_once: int = 4,
        torch_compile: bool = False,
    ) -> TextTo3D:
        """Load both stages, and the settings of denoising that the weights recommend.

        Args:
            stage1: Folder in diffusers' layout or Hugging Face Hub id; None: the bundled weights.
            stage2: Checkpoint folder or Hub id; None: the bundled weights.
            loras: LoRA files that are fused into stage 1.
            device: See the class.
            max_memory: See the class.
            at_once: See the class.
            torch_compile: See the class.

        Raises:
            ValueError: The weights are invalid, or of other models.
            FileNotFoundError: The weights are not installed, or a file is missing.
        """
        stage1, stage2 = find_stages(stage1, stage2)
        dtype = stage1_dtype(torch.device(device))
        components = load_components(stage1, dtype)
        for name in NETWORKS:
            getattr(components, name).requires_grad_(False)
        for lora in loras:
            fuse(components, lora)
        reconstruct = ViewsTo3D.from_pretrained(stage2)
        sampling = recommended_sampling(stage1, loras)
        machine = {"device": device, "max_memory": max_memory, "at_once": at_once, "torch_compile": torch_compile}
        return cls(components, reconstruct, sampling=sampling, **machine)  # type: ignore[arg-type]

    def __call__(
        self,
        prompt: str,
        *,
        seed: int = 0,
        sampling: Sampling | None = None,
        negative: str | None = None,
        resolution: int | None = None,
        on_step: OnStep | None = None,
    ) -> Asset:
        """Generate the asset of a prompt; the same seed gives the same asset.

        Args:
            prompt: The prompt.
            seed: Seed of the initial noise.
            sampling: Settings of the denoising; by default those of `sampling`.
            negative: Negative prompt of classifier-free guidance; None: SDXL's zero embedding.
            resolution: Nodes along each axis of the mesh's grid; by default two for each texel, at most 256.
            on_step: Called after each step of denoising.
        """
        (views,) = self.views([prompt], [seed], sampling=sampling, negative=negative, on_step=on_step)
        return self.build(views, resolution=resolution)

    def views(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int] | None = None,
        *,
        sampling: Sampling | None = None,
        negative: str | None = None,
        on_step: OnStep | None = None,
    ) -> list[Views]:
        """Generate four structured views for each prompt.

        Args:
            prompts: The prompts (B).
            seeds: A seed for each prompt (B); by default 0, 1, ...
            sampling: Settings of the denoising; by default those of `sampling`.
            negative: Negative prompt of classifier-free guidance.
            on_step: Called after each step of denoising.

        Returns:
            Views (4,) for each prompt, with alpha computed from their white background, by the cameras that stage 1's
            folder states.
        """
        text, away = self.encode(prompts, negative)
        seeds = range(len(prompts)) if seeds is None else seeds
        latents = self.denoise(text, away, seeds, sampling=sampling, on_step=on_step)
        return [self.split(grid) for grid in self.decode(latents)]

    def encode(self, prompts: Sequence[str], negative: str | None = None) -> tuple[TextEmbedding, TextEmbedding]:
        """Embed the prompts (B) and, for classifier-free guidance, the negative prompt."""
        self.offloader.load_to_device("text_encoder", "text_encoder_2")
        return self.sampler.encode(prompts, negative)

    def denoise(
        self,
        text: TextEmbedding,
        away: TextEmbedding,
        seeds: Sequence[int],
        *,
        sampling: Sampling | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Sample clean latents.

        Args:
            text: Embedding of the prompts (B).
            away: Embedding of the negative prompt, for classifier-free guidance.
            seeds: A seed for each prompt (B).
            sampling: Settings of the denoising; by default those of `sampling`.
            on_step: Called after each step of denoising.

        Returns:
            Latents (B, C, h, w) of grids of four views.
        """
        self.offloader.load_to_device("unet", "vae")  # the initial image is encoded by the VAE
        return self.sampler.denoise(text, away, sampling=sampling or self.sampling, seeds=seeds, on_step=on_step)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to grids of four views (B, 3, H, W) in [0, 1]."""
        self.offloader.load_to_device("vae")
        return self.sampler.decode(latents)

    def split(self, grid: Tensor) -> Views:
        """Views (4,) of a grid (3, H, W) in [0, 1]."""
        return to_views(grid, self.sampler.components.layout.cameras)

    def build(self, views: Views, *, resolution: int | None = None) -> Asset:
        """Reconstruct the asset of four views.

        Args:
            views: Views (4,) as `views` and `split` return them.
            resolution: As in `__call__`.

        Returns:
            The asset, turned so that its front is at azimuth 270 whatever stage 1's own world is, with its views.
        """
        self.offloader.load_to_device("stage2")
        asset = self.reconstruct(views, resolution=resolution, max_memory=self.limits.scratch)
        return turned(asset, self.sampler.components.layout.quarter_turns)

    def fits(self, prompt: str) -> bool:
        """Whether the prompt fits the tokenizers' windows, so that nothing of it is cut off."""
        return fits(self.sampler.components, prompt)

    @property
    def words(self) -> CaptionWords | None:
        """The words of the captions that stage 1 was trained on, if its folder lists them."""
        return self.sampler.components.words


def stage1_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of stage 1's weights on a device: float16 on a GPU, as usual for SDXL; float32 on a CPU."""
    return torch.float16 if device.type == "cuda" else torch.float32
