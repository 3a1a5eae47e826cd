"""The parts of a network that grows maps: convolutions under a style, attention to a text. Knows nothing of planes.

They are those of Stable Diffusion's way up (arXiv 2112.10752), where the style takes the place of the time.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.transformer import Block


class StyledNorm(nn.Module):
    """Normalised maps, scaled and shifted by a style (AdaIN, arXiv 1703.06868).

    groups  of channels that are normalised together; 0 is each by itself
    """

    def __init__(self, width: int, groups: int, style_width: int) -> None:
        super().__init__()
        self.groups = groups or width
        self.style = nn.Linear(style_width, 2 * width)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        """Maps (B, width, H, W), style (B, style width) -> (B, width, H, W)."""
        scale, shift = self.style(style).to(maps.dtype).chunk(2, dim=1)
        # each object has its own scale and shift: as channels of one object they are a plain, fused group norm
        together = maps.reshape(1, -1, *maps.shape[2:])
        styled = F.group_norm(together, len(maps) * self.groups, 1 + scale.flatten(), shift.flatten())
        return styled.view_as(maps)


class ResidualBlock(nn.Module):
    """Two convolutions, each of styled and activated maps, beside a way around them."""

    def __init__(self, into: int, width: int, groups: int, style_width: int) -> None:
        super().__init__()
        self.first_norm = StyledNorm(into, groups, style_width)
        self.first = nn.Conv2d(into, width, 3, padding=1)
        self.second_norm = StyledNorm(width, groups, style_width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.around = nn.Identity() if into == width else nn.Conv2d(into, width, 1)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        inside = self.first(F.silu(self.first_norm(maps, style)))
        inside = self.second(F.silu(self.second_norm(inside, style)))
        return self.around(maps) + inside


class AttentionLayer(nn.Module):
    """Places of maps attend to each other and, where it has a width, to a text; beside a way around."""

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
    """A styled convolution and, if it attends, what follows it."""

    def __init__(self, residual: ResidualBlock, attending: AttentionLayer | None) -> None:
        super().__init__()
        self.residual, self.attending = residual, attending

    def forward(self, maps: Tensor, style: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        maps = self.residual(maps, style)
        return maps if self.attending is None else self.attending(maps, text, mask)


class Upsampling(nn.Module):
    """Every texel four times, and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, 2 H, 2 W)."""
        return self.convolution(F.interpolate(maps, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """Layers at one size, and the way to the next: twice the side."""

    def __init__(self, layers: list[Layer], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.upsampling = Upsampling(width)

    def forward(self, maps: Tensor, style: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Maps (B, C, H, W), style (B, style width), text (B, N, text width), mask (B, N) -> (B, width, 2 H, 2 W)."""
        for layer in self.layers:
            maps = layer(maps, style, text, mask)
        return self.upsampling(maps)
