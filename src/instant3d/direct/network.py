"""Text-to-triplane network of the direct system: prompt tokens and noise to a triplane NeRF (arXiv 2311.08403).

The text conditions the decoder in three ways: it gives the first map (token-to-plane), with noise it gives the style
vector of every norm, and the maps attend to it (section 3.2).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from instant3d.direct.architecture import Architecture, read_architecture
from instant3d.direct.decoder_blocks import AttentionLayer, Layer, ResidualBlock, Stage
from instant3d.direct.text_pooling import TextPooling
from instant3d.direct.training_record import KEY, TrainingRecord, read_training_record
from instant3d.modules.diffusion.prompt_tokens import PromptTokens
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField
from instant3d.utils import safetensors_folder


class Constant(nn.Module):
    """A learned vector in place of one computed from the text.

    Args:
        numbers: Its length.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(1, numbers))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Repeat the vector for tokens (B, ...): (B, numbers)."""
        return self.value.expand(len(tokens), -1)


class Style(nn.Module):
    """Style vector of the norms, from the text, from noise or from both; a learned constant if from neither.

    Args:
        a: Sizes and variants.
    """

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.text = make_text_pooling(a, a.style_text_width) if a.style_text else None
        self.noise_width = a.noise_width if a.style_noise else 0
        into = (a.style_text_width if a.style_text else 0) + self.noise_width
        self.constant = None if into else Constant(a.style_width)
        self.mix = two_layers(into, a.style_width) if into else None

    def forward(self, tokens: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """Tokens (B, N, text width), mask (B, N), noise (B, noise width) -> (B, style width)."""
        if self.mix is None:
            return cast(Constant, self.constant)(tokens, mask)
        parts = [] if self.text is None else [self.text(tokens, mask)]
        if self.noise_width:
            parts.append(tokens.new_zeros(len(tokens), self.noise_width) if noise is None else noise.to(tokens))
        return self.mix(torch.cat(parts, dim=1))


class TextToTriplane(nn.Module):
    """Text-to-triplane network: tokens give a first map and a style, from which maps of doubling size become planes.

    Args:
        architecture: Sizes and variants.

    Attributes:
        precise: Whether the weights were stored in float32, so that inference should be in float32 too.
        training_record: Record of the last training run, if it is known.
    """

    def __init__(self, architecture: Architecture = Architecture()) -> None:  # noqa: B008
        super().__init__()
        self.architecture = a = architecture
        numbers = a.base_channels * a.base_side**2
        self.base = make_text_pooling(a, numbers) if a.token_to_plane else Constant(numbers)
        self.style = Style(a)
        self.inward = nn.Conv2d(a.base_channels, a.widths[0], 3, padding=1)
        self.middle = nn.ModuleList(make_layer(a, 0, a.widths[0], attends) for attends in (True, False))
        self.stages = nn.ModuleList(make_stage(a, stage) for stage in range(len(a.widths)))
        self.norm = nn.GroupNorm(a.last_groups, a.widths[-1])
        self.outward = nn.Conv2d(a.widths[-1], 3 * a.channels, 3, padding=1)
        self.decoder = Decoder(DecoderConfig.from_architecture(a))
        self.checkpointing = False
        self.precise = False
        self.training_record: TrainingRecord | None = None

    def forward(self, text: PromptTokens, noise: Tensor | None = None) -> TriplaneField:
        """Fields of B objects from the tokens of B prompts, and noise as in `triplane`."""
        return TriplaneField(self.triplane(text, noise), self.decoder)

    def triplane(self, text: PromptTokens, noise: Tensor | None = None) -> Triplane:
        """Planes of B objects.

        Args:
            text: Tokens of B prompts.
            noise: (B, noise width), standard normal; by default zeros, its mean. A network without noise in its style
                ignores it.

        Returns:
            Planes (B, 3, C, P, P).

        Raises:
            ValueError: Tokens or noise have another shape.
        """
        tokens, mask = self._checked(text, noise)
        style = self.style(tokens, mask, noise)
        base = self.base(tokens, mask).unflatten(1, (-1, *[self.architecture.base_side] * 2))
        maps = self.inward(base)
        for layer in self.middle:
            maps = layer(maps, style, tokens, mask)
        for stage in self.stages:
            if self.checkpointing and torch.is_grad_enabled():
                maps = checkpoint(stage, maps, style, tokens, mask, use_reentrant=False)
            else:
                maps = stage(maps, style, tokens, mask)
        planes = self.outward(F.silu(self.norm(maps)))
        return Triplane(planes.unflatten(1, (3, -1)))

    def _checked(self, text: PromptTokens, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens and, if padding is masked, their mask, after a check of the shapes."""
        a = self.architecture
        if text.tokens.dim() != 3 or text.tokens.shape[1:] != (a.text_length, a.text_width):
            raise ValueError(
                f"the network reads tokens of shape (B, {a.text_length}, {a.text_width}), "
                f"got {tuple(text.tokens.shape)}; use the text encoder that it was trained with"
            )
        if noise is not None and a.style_noise and noise.shape != (len(text.tokens), a.noise_width):
            raise ValueError(
                f"noise for {len(text.tokens)} prompts is of shape ({len(text.tokens)}, {a.noise_width}), "
                f"got {tuple(noise.shape)}"
            )
        return text.tokens, text.mask if a.mask_padding else None

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `config.json` and `model.safetensors`."""
        record = {} if self.training_record is None else {KEY: self.training_record.as_dict()}
        safetensors_folder.write(Path(folder), "direct", self.architecture, self, dtype, **record)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> TextToTriplane:
        """Load a folder written by `save_pretrained`, or download it by its Hub id.

        Returns:
            The network in float32 and evaluation mode.

        Raises:
            FileNotFoundError: There is no such folder or Hub id.
            ValueError: config.json or the weights are damaged or of another model.
        """
        folder = safetensors_folder.resolve(source)
        with torch.device("meta"):  # the weights are loaded below, so that initial values are not needed
            network = cls(read_architecture(folder / safetensors_folder.CONFIG))
        network.precise = safetensors_folder.load_into(network, folder)
        network.training_record = read_training_record(folder / safetensors_folder.CONFIG)
        return network.eval()


def two_layers(into: int, width: int) -> nn.Sequential:
    """Two linear layers from `into` to `width` channels with SiLU between them."""
    return nn.Sequential(nn.Linear(into, width), nn.SiLU(), nn.Linear(width, width))


def make_text_pooling(a: Architecture, numbers: int) -> TextPooling:
    """Build the pooling of an architecture's tokens into a vector of length `numbers`."""
    return TextPooling(a.text_width, a.text_length, a.token_width, a.token_heads, numbers)


def make_stage(a: Architecture, stage: int) -> Stage:
    """Build the layers of a stage, the first of which has the width of the stage before as its input."""
    width, before = a.widths[stage], a.widths[max(0, stage - 1)]
    layers = [make_layer(a, stage, width if k else before, a.attention[stage]) for k in range(a.layers)]
    return Stage(layers, width)


def make_layer(a: Architecture, stage: int, into: int, attends: bool) -> Layer:
    """Build a layer of a stage.

    Args:
        a: The architecture, which has the stage's width.
        stage: Index of the stage.
        into: Channels of the layer's input.
        attends: Whether attention follows the residual block.
    """
    width, groups = a.widths[stage], a.groups[stage]
    residual = ResidualBlock(into, width, 0 if a.norm == "instance" else groups, a.style_width)
    if not attends:
        return Layer(residual, None)
    return Layer(residual, AttentionLayer(width, groups, a.head_width, a.text_width if a.cross_attention else None))
