"""Pixel-aligned features: maps of posed views, sampled at the projections of a field's points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.nerf.visual_hull import sample_images
from instant3d.utils.tensor_dataclass import TensorDataclass


@dataclass(frozen=True)
class ViewMaps(TensorDataclass):
    """Feature maps of posed views, and where each view counts (PixelNeRF, arXiv 2012.02190; LaRa, 2407.04699).

    Attributes:
        maps: (..., V, C, H, W).
        weight: Share of each view in the cells of a grid over the cube [-1, 1]^3, (..., V, z, y, x).
        cameras: (..., V).

    Raises:
        ValueError: The shapes do not fit.
    """

    maps: Tensor
    weight: Tensor
    cameras: Cameras

    def __post_init__(self) -> None:
        views = self.cameras.shape
        if self.maps.shape[:-3] != views or self.weight.shape[:-3] != views:
            raise ValueError(
                f"view maps need maps (..., V, C, H, W), weight (..., V, z, y, x) and cameras (..., V), got "
                f"{tuple(self.maps.shape)}, {tuple(self.weight.shape)} and {tuple(views)}"
            )

    @property
    def channels(self) -> int:
        """Channels of the maps."""
        return self.maps.shape[-3]

    def sample(self, points: Tensor) -> Tensor:
        """Mean and variance of the maps over the views at points.

        Args:
            points: World points (B, N, 3).

        Returns:
            (B, N, 2 * C), the means first; 0 outside the cube.
        """
        features = sample_images(self.maps, self.cameras, points)
        return mean_and_variance(features, sample_weights(self.weight, points))


def sample_weights(weight: Tensor, points: Tensor) -> Tensor:
    """Sample the views' weights at points, with sum 1 over the views inside the cube.

    Args:
        weight: (B, V, z, y, x) over the cube [-1, 1]^3.
        points: (B, N, 3).

    Returns:
        (B, V, N).
    """
    with torch.autocast(points.device.type, enabled=False):
        found = F.grid_sample(weight.float(), points.float()[:, None, None], align_corners=False)[:, :, 0, 0]
        return found / found.sum(1, keepdim=True).clamp(min=1e-6)


def mean_and_variance(features: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean and variance over the views (IBRNet, arXiv 2102.13090, eq. 1).

    Args:
        features: (B, V, N, C).
        weight: (B, V, N), with sum 1 over the views.

    Returns:
        (B, N, 2 * C), the means first.
    """
    share = weight[..., None]
    mean = (share * features).sum(1)
    return torch.cat([mean, (share * (features - mean[:, None]).square()).sum(1)], dim=-1)
