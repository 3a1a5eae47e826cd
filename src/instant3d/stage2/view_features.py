"""Convolutional features of input views, sampled at projected points."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.nerf.visual_hull import sample_images
from instant3d.views import Views


class ViewFeatures(nn.Module):
    """Small convolutional pyramid over each view: features at the image's resolution, from a window of 14 pixels.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.fine = nn.Conv2d(4, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, wide, 4, stride=2, padding=1)
        self.coarse = nn.Conv2d(wide, wide, 3, padding=1)
        self.merge = nn.Conv2d(channels + wide, channels, 3, padding=1)

    def forward(self, views: Views) -> Tensor:
        """Features (B, V, channels, H, W) of views (B, V) whose sides are even."""
        image = torch.cat([views.rgb * views.alpha, views.alpha], dim=-3).flatten(0, 1)
        fine = F.gelu(self.fine(2 * image - 1))
        coarse = F.gelu(self.coarse(F.gelu(self.down(fine))))
        coarse = F.interpolate(coarse.float(), scale_factor=2, mode="bilinear", align_corners=False)
        return self.merge(torch.cat([fine.float(), coarse], dim=1)).unflatten(0, views.rgb.shape[:2])

    def sample(self, views: Views, points: Tensor) -> Tensor:
        """Features (B, V, N, channels) at the projections of points (B, N, 3); 0 outside the frame."""
        return sample_images(self(views), views.cameras, points)
