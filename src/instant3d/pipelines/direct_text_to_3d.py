"""The direct system: from a prompt to an asset by one forward pass of one network.

DirectTextTo3D.from_pretrained()("a red fire hydrant").save("out")
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from instant3d.direct.network import TextToTriplane
from instant3d.modules.diffusion.prompt_tokens import PromptEncoder, PromptTokens
from instant3d.nerf.asset import Asset
from instant3d.nerf.triplane import Triplane
from instant3d.pipelines.weights import direct_folder, find_direct
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.memory_limits import MemoryLimits


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
