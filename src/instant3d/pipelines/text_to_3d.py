"""Python interface: from a prompt, or from posed views, to an asset in one call.

Assets stay in memory until they are saved:

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
from instant3d.nerf.triplane import Triplane, TriplaneField
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
    """Stage 2: reconstructs an asset from posed views. It is deterministic: the same views give the same asset.

    Args:
        network: The reconstruction network, which is moved to `device`.
        device: Where it runs.
    """

    def __init__(self, network: Reconstructor, device: str | torch.device = "cpu") -> None:
        self.network = network.to(device).eval()

    @property
    def device(self) -> torch.device:
        """Where the network is now."""
        return self.network.tokens.device

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ViewsTo3D:
        """Load a checkpoint.

        Args:
            source: A checkpoint folder, or a Hugging Face Hub id, which is downloaded.
            device: Where the network runs.

        Raises:
            ValueError: The weights or their configuration are invalid.
            FileNotFoundError: There is no such checkpoint.
        """
        return cls(Reconstructor.from_pretrained(source).requires_grad_(False), device)

    def __call__(
        self, views: Views | Scene, *, resolution: int | None = None, max_memory: int = MemoryLimits.scratch
    ) -> Asset:
        """Reconstruct one object. A warning is issued if the cameras are unlike those of the training.

        Args:
            views: Square views (V,) of any size, or a scene that has them.
            resolution: Nodes along each axis of the mesh's grid; by default two for each texel, at most 256.
            max_memory: Bytes that rendering and meshing may take.

        Raises:
            ValueError: The views are not square or not of one object, or the network takes another number of views.
        """
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

    def field(self, views: Views) -> TriplaneField:
        """Reconstruct the field alone, on the CPU; arguments and errors as for a call."""
        asset = self(views)
        return TriplaneField(asset.triplane.to("cpu"), asset.decoder.to("cpu"))

    @property
    def _half(self) -> bool:
        """Whether to compute in bfloat16, as in training: not if it is emulated, nor for weights kept in float32."""
        return not self.network.precise and (self.device.type == "cuda" or fast_dtype() is torch.bfloat16)


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
        """Load both stages.

        Args:
            stage1: Folder in diffusers' layout or Hugging Face Hub id; None: the bundled weights.
            stage2: Checkpoint folder or Hub id; None: the bundled weights.
            device: See the class.
            max_memory: See the class.
            at_once: See the class.

        Raises:
            ValueError: The weights are invalid, or of other models.
            FileNotFoundError: The weights are not installed, or a file is missing.
        """
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
        resolution: int | None = None,
        on_step: OnStep | None = None,
    ) -> Asset:
        """Generate the asset of a prompt; the same seed gives the same asset.

        Args:
            prompt: The prompt.
            seed: Seed of the initial noise.
            sampling: Settings of the denoising.
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
        sampling: Sampling = Sampling(),
        negative: str | None = None,
        on_step: OnStep | None = None,
    ) -> list[Views]:
        """Generate four structured views for each prompt.

        Args:
            prompts: The prompts (B).
            seeds: A seed for each prompt (B); by default 0, 1, ...
            sampling: Settings of the denoising.
            negative: Negative prompt of classifier-free guidance.
            on_step: Called after each step of denoising.

        Returns:
            Views (4,) for each prompt, with alpha computed from their white background.
        """
        text, away = self.encode(prompts, negative)
        seeds = range(len(prompts)) if seeds is None else seeds
        latents = self.denoise(text, away, seeds, sampling=sampling, on_step=on_step)
        return [to_views(grid) for grid in self.decode(latents)]

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
        sampling: Sampling = Sampling(),
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Sample clean latents.

        Args:
            text: Embedding of the prompts (B).
            away: Embedding of the negative prompt, for classifier-free guidance.
            seeds: A seed for each prompt (B).
            sampling: Settings of the denoising.
            on_step: Called after each step of denoising.

        Returns:
            Latents (B, C, h, w) of grids of four views.
        """
        self.offloader.load_to_device("unet", "vae")  # the initial image is encoded by the VAE
        return self.sampler.denoise(text, away, sampling=sampling, seeds=seeds, on_step=on_step)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to grids of four views (B, 3, H, W) in [0, 1]."""
        self.offloader.load_to_device("vae")
        return self.sampler.decode(latents)

    def build(self, views: Views, *, resolution: int | None = None) -> Asset:
        """Reconstruct the asset of four views (4,); `resolution` is as in `__call__`."""
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
    """The direct system: from a prompt to an asset by one forward pass of one network.

    A seed determines the noise that is an input of the network, by a generator of its own, so it gives the same asset
    in every batch; None stands for zero noise, the mean. For a network without noise all seeds give the same asset. The
    three steps (`encode`, `sample`, `build`) can be called one by one.

    Args:
        network: The network, which is moved to `device`.
        encoder: The text encoder that the network was trained with.
        device: Where both run.
        max_memory: Bytes that rendering and meshing may take.

    Raises:
        ValueError: The text encoder's tokens do not fit the network.
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
                f"{encoder.length} of {encoder.width}; use the one that it was trained with"
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
        """Load the network and its text encoder.

        Args:
            source: Folder or Hugging Face Hub id; None: the bundled weights.
            device: Where both run.
            max_memory: Bytes that rendering and meshing may take.

        Raises:
            ValueError: The weights are invalid, or of another model.
            FileNotFoundError: The weights are not installed, or a file is missing.
        """
        folder = direct_folder(find_direct(source))
        network = TextToTriplane.from_pretrained(folder).requires_grad_(False)
        return cls(network, PromptEncoder.from_pretrained(folder), device=device, max_memory=max_memory)

    def __call__(self, prompt: str, *, seed: int | None = 0, resolution: int | None = None) -> Asset:
        """Generate the asset of a prompt; the same seed gives the same asset. See `build` for `resolution`."""
        return self.generate_many([prompt], [seed], resolution=resolution)[0]

    def generate_many(
        self, prompts: Sequence[str], seeds: Sequence[int | None] | None = None, *, resolution: int | None = None
    ) -> list[Asset]:
        """Generate an asset for each prompt, all in one batch.

        Args:
            prompts: The prompts (B).
            seeds: A seed for each prompt (B); by default 0, 1, ...
            resolution: See `build`.
        """
        triplanes = self.sample(self.encode(prompts), range(len(prompts)) if seeds is None else seeds)
        return [self.build(triplanes[k], resolution=resolution) for k in range(len(prompts))]

    def encode(self, prompts: Sequence[str]) -> PromptTokens:
        """Embed the prompts (B)."""
        return self.encoder(prompts)

    def sample(self, text: PromptTokens, seeds: Sequence[int | None]) -> Triplane:
        """Generate the triplanes (B, 3, C, P, P) of prompts.

        Args:
            text: Embedding of the prompts (B).
            seeds: A seed for each prompt (B), or None for zero noise.
        """
        half = self.device.type == "cuda" and not self.network.precise
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            triplane = self.network.triplane(text, torch.stack([self._noise(seed) for seed in seeds]).to(self.device))
        return triplane.map(Tensor.float)

    def build(self, triplane: Triplane, *, resolution: int | None = None) -> Asset:
        """Build the asset of a triplane (3, C, P, P).

        Args:
            triplane: The planes of one object.
            resolution: Nodes along each axis of the mesh's grid; by default two for each texel, at most 256.

        Raises:
            ValueError: The planes are not finite.
        """
        if not torch.isfinite(triplane.planes).all():
            raise ValueError("the network's output is not finite; copy or export its weights again")
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
    """Return the precision of stage 1's weights on a device: float16 on a GPU, as usual for SDXL; float32 on a CPU."""
    return torch.float16 if device.type == "cuda" else torch.float32
