"""Convolutional U-Net around the triplane transformer, from the visual hull's profiles to tokens, and to planes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.stage2.architecture import EXTENT_CHANNELS
from instant3d.stage2.visual_hull_input import AxisProfiles, CarvedGrid
from instant3d.views import Views


class PlaneUNet(nn.Module):
    """Convolutional U-Net around the transformer: from the hull's profiles down to tokens, from tokens up to planes.

    The three planes share all weights. Two halvings lie between the grid's side and the tokens'; finer detail takes the
    skip connections around the transformer. At initialisation the planes hold the hull's extents and nothing else.

    Args:
        width: Channels at full resolution.
        side: Cells along each axis of the grid, and side of the planes.
        token_width: Channels of the transformer's tokens.
        channels: Channels of the planes.
        factor: Texels of the planes along each side of a cell, by a pixel shuffle (ESPCN, arXiv 1609.05158).
        lifted: See `AxisProfiles`.
        surface: See `AxisProfiles`.
    """

    def __init__(
        self,
        width: int,
        side: int,
        token_width: int,
        channels: int,
        factor: int = 1,
        lifted: int = 0,
        surface: int = 0,
    ) -> None:
        super().__init__()
        middle, deep = width + width // 2, 2 * width
        self.read = AxisProfiles(width, side, lifted, surface)
        self.enter = ResidualBlock(width + EXTENT_CHANNELS, width)
        self.down = nn.ModuleList([ResidualBlock(width, middle, 2), ResidualBlock(middle, deep, 2)])
        self.to_tokens = nn.Linear(deep, token_width)
        self.from_tokens = nn.Linear(token_width, deep)
        self.up = nn.ModuleList([ResidualBlock(2 * deep + middle, middle), ResidualBlock(middle + width, width)])
        self.to_planes = nn.Conv2d(width, channels * factor**2, 3, padding=1)
        self.channels, self.factor = channels, factor
        nn.init.zeros_(self.to_planes.weight)
        if factor > 1 and self.to_planes.bias is not None:
            nn.init.zeros_(self.to_planes.bias)  # biases of their own would be a pattern within each cell

    def encode(self, views: Views, grid: CarvedGrid) -> tuple[Tensor, list[Tensor]]:
        """Tokens of views and the skip connections of `decode`.

        Args:
            views: (B, V).
            grid: Their visual hull, on a grid of `side` cells a side.

        Returns:
            Tokens (B, 3 * n * n, token width), and maps (B * 3, channels, h, w) from fine to coarse.
        """
        features, ends = (part.float().flatten(0, 1) for part in self.read(views, grid))
        maps = [ends, self.enter(torch.cat([features, ends], dim=1))]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        tokens = self.to_tokens(maps[-1].flatten(2).transpose(1, 2))
        return tokens.unflatten(0, (-1, 3)).flatten(1, 2), maps

    def decode(self, tokens: Tensor, maps: list[Tensor]) -> Tensor:
        """Tokens and the maps of `encode` -> planes (B * 3, channels, factor * side, factor * side)."""
        ends, fine, middle, deep = maps
        upsampled = self.from_tokens(tokens).unflatten(1, (3, *deep.shape[-2:])).flatten(0, 1).movedim(-1, 1)
        upsampled = torch.cat([upsampled, deep], dim=1)
        for layer, skip in zip(self.up, (middle, fine), strict=True):
            upsampled = F.interpolate(upsampled.float(), scale_factor=2, mode="nearest")
            upsampled = layer(torch.cat([upsampled, skip.float()], dim=1))
        if self.factor > 1:
            ends = F.interpolate(ends, scale_factor=self.factor, mode="bilinear", align_corners=False)
        planes = F.pixel_shuffle(self.to_planes(upsampled), self.factor)
        return planes + F.pad(ends, (0, 0, 0, 0, 0, self.channels - EXTENT_CHANNELS))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group norm, and a 1 x 1 convolution as skip connection.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output, a multiple of 8.
        stride: Of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return F.gelu(self.skip(x) + self.second(F.gelu(self.norm(self.first(x)))))
