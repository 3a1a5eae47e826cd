"""Blocks of the triplane decoder: styled residual convolutions, attention to text, upsampling.

They are the blocks of Stable Diffusion's decoder (arXiv 2112.10752), with the style in place of the timestep.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.transformer import Block


class StyledNorm(nn.Module):
    """Normalisation with scale and shift from a style vector (AdaIN, arXiv 1703.06868).

    Args:
        width: Channels.
        groups: Groups of channels that are normalised merged; 0 normalises each by itself.
        style_width: Channels of the style.
    """

    def __init__(self, width: int, groups: int, style_width: int) -> None:
        super().__init__()
        self.groups = groups or width
        self.style = nn.Linear(style_width, 2 * width)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        """Maps (B, width, H, W), style (B, style width) -> (B, width, H, W)."""
        scale, shift = self.style(style).to(maps.dtype).chunk(2, dim=1)
        # scale and shift differ between objects: with all objects as channels of one, a fused group norm applies
        merged = maps.reshape(1, -1, *maps.shape[2:])
        styled = F.group_norm(merged, len(maps) * self.groups, 1 + scale.flatten(), shift.flatten())
        return styled.view_as(maps)


class ResidualBlock(nn.Module):
    """Two convolutions of styled and activated maps, with a residual connection.

    Args:
        into: Channels of the input.
        width: Channels of the output.
        groups: Groups of the norms, as in `StyledNorm`.
        style_width: Channels of the style.
    """

    def __init__(self, into: int, width: int, groups: int, style_width: int) -> None:
        super().__init__()
        self.first_norm = StyledNorm(into, groups, style_width)
        self.first = nn.Conv2d(into, width, 3, padding=1)
        self.second_norm = StyledNorm(width, groups, style_width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.around = nn.Identity() if into == width else nn.Conv2d(into, width, 1)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        """Maps (B, into, H, W), style (B, style width) -> (B, width, H, W)."""
        inside = self.first(F.silu(self.first_norm(maps, style)))
        inside = self.second(F.silu(self.second_norm(inside, style)))
        return self.around(maps) + inside


class AttentionLayer(nn.Module):
    """Spatial self-attention with optional text cross-attention and a residual connection.

    Args:
        width: Channels of the maps.
        groups: Groups of the norm.
        head_width: Channels of an attention head.
        text_width: Channels of the text's tokens; None leaves out cross-attention.
    """

    def __init__(self, width: int, groups: int, head_width: int, text_width: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.inward = nn.Linear(width, width)
        self.block = Block(width, width // head_width, text_width, self_first=True, gated=True, out_bias=True)
        self.outward = nn.Linear(width, width)

    def forward(self, maps: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Maps (B, width, H, W), text (B, N, text width), mask (B, N) True at words -> (B, width, H, W)."""
        tokens = self.inward(self.norm(maps).flatten(2).transpose(1, 2))
        tokens = self.outward(self.block(tokens, text, context_mask=mask))
        return maps + tokens.transpose(1, 2).unflatten(2, maps.shape[2:])


class Layer(nn.Module):
    """A styled residual block, and an attention layer if there is one.

    Args:
        residual: The residual block.
        attending: The attention layer.
    """

    def __init__(self, residual: ResidualBlock, attending: AttentionLayer | None) -> None:
        super().__init__()
        self.residual, self.attending = residual, attending

    def forward(self, maps: Tensor, style: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Maps (B, C, H, W), style (B, style width), text (B, N, text width), mask (B, N) -> (B, width, H, W)."""
        maps = self.residual(maps, style)
        return maps if self.attending is None else self.attending(maps, text, mask)


class Upsampling(nn.Module):
    """Nearest-neighbour upsampling to twice the side, and a convolution of `width` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, 2 H, 2 W)."""
        return self.convolution(F.interpolate(maps, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """Layers at one resolution, then upsampling to twice the side.

    Args:
        layers: The layers.
        width: Channels of the output.
    """

    def __init__(self, layers: list[Layer], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.upsampling = Upsampling(width)

    def forward(self, maps: Tensor, style: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Maps (B, C, H, W), style (B, style width), text (B, N, text width), mask (B, N) -> (B, width, 2 H, 2 W)."""
        for layer in self.layers:
            maps = layer(maps, style, text, mask)
        return self.upsampling(maps)
