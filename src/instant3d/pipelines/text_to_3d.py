"""From a sentence, or from posed views, to an asset in one call: where the systems meet in memory.

Knows nothing of files but weights.

TextTo3D.from_pretrained()("a red fire hydrant").save("out")
DirectTextTo3D.from_pretrained()("a red fire hydrant").save("out")
ViewsTo3D.from_pretrained("checkpoints/stage2-demo")(scenes.read("examples/couch")).save("out")
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from instant3d.direct.network import TextToTriplane
from instant3d.modules.diffusion.components import NETWORKS, Components
from instant3d.modules.diffusion.prompt_tokens import PromptEncoder, PromptTokens
from instant3d.modules.diffusion.text import TextEmbedding, fits
from instant3d.nerf.asset import Asset
from instant3d.nerf.triplane import Triplane
from instant3d.pipelines.model_offload import ModelOffloader, fair_share
from instant3d.pipelines.weights import direct_folder, find_direct, find_stages
from instant3d.scenes import Scene
from instant3d.stage1.grid import to_views
from instant3d.stage1.sampler import GridSampler
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage2.network import Reconstructor
from instant3d.stage2.view_checks import camera_warning, resize_inputs
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.devices import fast_dtype
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.utils.progress import OnStep
from instant3d.views import Views

__all__ = ["Asset", "DirectTextTo3D", "Sampling", "TextTo3D", "ViewsTo3D"]


class ViewsTo3D:
    """Four posed views, or as many as there are, to one asset; draws nothing, so the same views give the same asset."""

    def __init__(self, network: Reconstructor, device: str | torch.device = "cpu") -> None:
        self.network = network.to(device).eval()

    @property
    def device(self) -> torch.device:
        """Where the network is now."""
        return self.network.tokens.device

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ViewsTo3D:
        """From a checkpoint folder, or a Hugging Face Hub id, which is downloaded."""
        return cls(Reconstructor.from_pretrained(source).requires_grad_(False), device)

    def __call__(self, views: Views | Scene, *, resolution: int = 256, max_memory: int = MemoryLimits.scratch) -> Asset:
        """Square views (V,) of one object, of any size; see `Asset` for `resolution` and `max_memory`."""
        views = views.views if isinstance(views, Scene) else views
        if views.rgb.dim() != 4:
            raise ValueError(f"views of one object have the shape (V, 3, H, W), got {tuple(views.rgb.shape)}")
        a = self.network.architecture
        if views.height != views.width:
            raise ValueError(
                f"views are to be square, got {views.width} x {views.height}; "
                f"read them with size={a.image_size or views.height}"
            )
        strange = camera_warning(views.cameras, a)
        if strange:
            warnings.warn(strange, stacklevel=2)
        inputs = resize_inputs(views, a).to(self.device)[None]
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            triplane = self.network.triplane(inputs)
        decoder = copy.deepcopy(self.network.decoder)  # its own, for the network may move to another device
        return Asset(
            triplane[0].map(Tensor.float),
            decoder,
            resolution=resolution,
            max_memory=max_memory,
            exact=self.network.precise,
            views=views.to("cpu"),
        )

    @property
    def _half(self) -> bool:
        """bfloat16, as in training, where it is fast; not for weights that were stored in float32, to be exact.

        Processors that only emulate it are faster in float32.
        """
        return not self.network.precise and (self.device.type == "cuda" or fast_dtype() is torch.bfloat16)


class TextTo3D:
    """A sentence to one asset: stage 1 draws four views as one picture, stage 2 turns them into a triplane.

    Loaded once, used many times. The four steps (`encode`, `denoise`, `decode`, `build`) can be taken one by one.

    max_memory  bytes: what weights may take on the device together, the others waiting on the CPU, and what rendering
                and meshing may take. By default weights take at most six tenths of a GPU's free memory
    at_once     grids that are denoised together
    """

    def __init__(
        self,
        components: Components,
        reconstruct: ViewsTo3D,
        *,
        device: str | torch.device = "cpu",
        max_memory: int | None = None,
        at_once: int = 4,
    ) -> None:
        self.device = torch.device(device)
        self.sampler = GridSampler(components, at_once=at_once)
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
        device: str | torch.device = "cpu",
        max_memory: int | None = None,
        at_once: int = 4,
    ) -> TextTo3D:
        """From folders or Hugging Face Hub ids; by default the bundled weights."""
        stage1, stage2 = find_stages(stage1, stage2)
        components = Components.load(stage1, dtype=stage1_dtype(torch.device(device)))
        for name in NETWORKS:
            getattr(components, name).requires_grad_(False)
        reconstruct = ViewsTo3D.from_pretrained(stage2)
        return cls(components, reconstruct, device=device, max_memory=max_memory, at_once=at_once)

    def __call__(
        self,
        prompt: str,
        *,
        seed: int = 0,
        sampling: Sampling = Sampling(),
        negative: str | None = None,
        resolution: int = 256,
        on_step: OnStep | None = None,
    ) -> Asset:
        """The object of a prompt; the same seed gives the same one. See `Asset` for `resolution`."""
        (views,) = self.views([prompt], [seed], sampling=sampling, negative=negative, on_step=on_step)
        return self.build(views, resolution=resolution)

    def views(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int] | None = None,
        *,
        sampling: Sampling = Sampling(),
        negative: str | None = None,
        on_step: OnStep | None = None,
    ) -> list[Views]:
        """Four structured views for each prompt, cut from their white background; seeds count from 0 by default."""
        text, away = self.encode(prompts, negative)
        seeds = range(len(prompts)) if seeds is None else seeds
        latents = self.denoise(text, away, seeds, sampling=sampling, on_step=on_step)
        return [to_views(grid) for grid in self.decode(latents)]

    def encode(self, prompts: Sequence[str], negative: str | None = None) -> tuple[TextEmbedding, TextEmbedding]:
        """What the prompts (B) say, and what to stay away from."""
        self.offloader.load_to_device("text_encoder", "text_encoder_2")
        return self.sampler.encode(prompts, negative)

    def denoise(
        self,
        text: TextEmbedding,
        away: TextEmbedding,
        seeds: Sequence[int],
        *,
        sampling: Sampling = Sampling(),
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Clean latents (B, C, h, w)."""
        self.offloader.load_to_device("unet", "vae")  # sampling starts from a picture, which the VAE encodes
        return self.sampler.denoise(text, away, sampling=sampling, seeds=seeds, on_step=on_step)

    def decode(self, latents: Tensor) -> Tensor:
        """Grids (B, 3, H, W) in [0, 1]."""
        self.offloader.load_to_device("vae")
        return self.sampler.decode(latents)

    def build(self, views: Views, *, resolution: int = 256) -> Asset:
        """The asset of four views (4,)."""
        self.offloader.load_to_device("stage2")
        return self.reconstruct(views, resolution=resolution, max_memory=self.limits.scratch)

    def fits(self, prompt: str) -> bool:
        """Whether the prompt fits the tokenizers' windows, so that nothing of it is cut off."""
        return fits(self.sampler.components, prompt)

    @property
    def words(self) -> CaptionWords | None:
        """The words of the captions that stage 1 was trained on, if its folder lists them."""
        return self.sampler.components.words


class DirectTextTo3D:
    """A sentence to one asset in one pass of one network. Loaded once, used many times.

    A seed stands for the noise in the network's style, which a generator of its own draws, so it means the same in
    every batch; None is the middle of what is drawn from. A network without noise answers every seed alike. The three
    steps (`encode`, `imagine`, `build`) can be taken one by one.

    max_memory  bytes that rendering and meshing may take
    """

    def __init__(
        self,
        network: TextToTriplane,
        encoder: PromptEncoder,
        *,
        device: str | torch.device = "cpu",
        max_memory: int | None = None,
    ) -> None:
        a = network.architecture
        if (encoder.length, encoder.width) != (a.text_length, a.text_width):
            raise ValueError(
                f"the network reads {a.text_length} tokens of {a.text_width} numbers, but the text encoder gives "
                f"{encoder.length} of {encoder.width}; use the one that it was taught with"
            )
        self.device = torch.device(device)
        self.network, self.encoder = network.to(device).eval(), encoder.to(device)
        self.limits = MemoryLimits.of(max_memory)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        device: str | torch.device = "cpu",
        max_memory: int | None = None,
    ) -> DirectTextTo3D:
        """From a folder, or a Hugging Face Hub id; by default the bundled weights."""
        folder = direct_folder(find_direct(source))
        network = TextToTriplane.from_pretrained(folder).requires_grad_(False)
        return cls(network, PromptEncoder.from_pretrained(folder), device=device, max_memory=max_memory)

    def __call__(self, prompt: str, *, seed: int | None = 0, resolution: int | None = None) -> Asset:
        """The object of a prompt; the same seed gives the same one. See `build` for `resolution`."""
        return self.generate_many([prompt], [seed], resolution=resolution)[0]

    def generate_many(
        self, prompts: Sequence[str], seeds: Sequence[int | None] | None = None, *, resolution: int | None = None
    ) -> list[Asset]:
        """An asset for each prompt, all in one pass; seeds count from 0 by default."""
        triplanes = self.sample(self.encode(prompts), range(len(prompts)) if seeds is None else seeds)
        return [self.build(triplanes[k], resolution=resolution) for k in range(len(prompts))]

    def encode(self, prompts: Sequence[str]) -> PromptTokens:
        """What the prompts (B) say."""
        return self.encoder(prompts)

    def sample(self, text: PromptTokens, seeds: Sequence[int | None]) -> Triplane:
        """Planes (B, 3, C, P, P)."""
        half = self.device.type == "cuda" and not self.network.precise
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            triplane = self.network.triplane(text, torch.stack([self._noise(seed) for seed in seeds]).to(self.device))
        return triplane.map(Tensor.float)

    def build(self, triplane: Triplane, *, resolution: int | None = None) -> Asset:
        """The asset of planes (3, C, P, P).

        resolution  nodes along each axis of the mesh's grid; by default two for each texel of the planes, at most 256
        """
        if resolution is None:
            resolution = self.network.architecture.mesh_resolution
        if not torch.isfinite(triplane.planes).all():
            raise ValueError("the network answers with numbers that are not finite; copy or export its weights again")
        decoder = copy.deepcopy(self.network.decoder)  # its own, for the network may move to another device
        exact = self.network.precise
        return Asset(triplane, decoder, resolution=resolution, max_memory=self.limits.scratch, exact=exact)

    def fits(self, prompt: str) -> bool:
        """Whether the prompt fits the text encoder's window, so that nothing of it is cut off."""
        return self.encoder.fits(prompt)

    @property
    def words(self) -> CaptionWords | None:
        """The words of the prompts that the network was trained on, if its folder lists them."""
        return self.encoder.words

    def _noise(self, seed: int | None) -> Tensor:
        width = self.network.architecture.noise_width
        return torch.zeros(width) if seed is None else torch.randn(width, generator=torch.Generator().manual_seed(seed))


def stage1_dtype(device: torch.device) -> torch.dtype:
    """In which stage 1 is kept: SDXL's usual half precision on a GPU; a CPU computes in float32, or casts by itself."""
    return torch.float16 if device.type == "cuda" else torch.float32
