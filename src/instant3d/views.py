"""Posed images: colour, alpha, optional depth and normals, and their cameras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.utils.tensor_dataclass import TensorDataclass

MAPS = ("depth", "normals")  # optional maps of views


@dataclass(frozen=True)
class Views(TensorDataclass):
    """Posed images: float32 in [0, 1], channels first, straight (not premultiplied) alpha.

    Attributes:
        rgb: (..., 3, H, W).
        alpha: (..., 1, H, W).
        cameras: (...).
        depth: (..., 1, H, W), camera-z distance of the first surface, 0 where there is none; may be absent.
        normals: (..., 3, H, W), unit vectors in world axes, 0 where there is no surface; may be absent.

    Raises:
        ValueError: The shapes do not fit.
    """

    rgb: Tensor
    alpha: Tensor
    cameras: Cameras
    depth: Tensor | None = None
    normals: Tensor | None = None

    def __post_init__(self) -> None:
        rgb, alpha = self.rgb.shape, self.alpha.shape
        if rgb[-3:-2] != (3,) or alpha[-3:-2] != (1,) or rgb[-2:] != alpha[-2:] or rgb[:-3] != alpha[:-3]:
            raise ValueError(
                f"views need rgb (..., 3, H, W) and alpha (..., 1, H, W), got {tuple(rgb)} and {tuple(alpha)}"
            )
        if self.cameras.shape != rgb[:-3]:
            raise ValueError(f"views of shape {tuple(rgb[:-3])} came with cameras of shape {tuple(self.cameras.shape)}")

    @property
    def height(self) -> int:
        """Height of the images in pixels."""
        return self.rgb.shape[-2]

    @property
    def width(self) -> int:
        """Width of the images in pixels."""
        return self.rgb.shape[-1]

    def composite(self, background: float | Tensor = 1.0) -> Tensor:
        """Composite the images over a background.

        Args:
            background: A grey level, or colours (..., 3).

        Returns:
            (..., 3, H, W).
        """
        if isinstance(background, Tensor):
            background = background[..., None, None]
        return self.rgb * self.alpha + background * (1 - self.alpha)

    def resized(self, height: int, width: int) -> Views:
        """Resize by area averaging (down) or bilinearly (up); colours are weighted by alpha so that edges stay clean.

        Depth and normals take the nearest pixel: an average across an edge lies on no surface.
        """
        if (height, width) == (self.height, self.width):
            return self
        smaller = height < self.height or width < self.width

        def resize(image: Tensor, **how: Any) -> Tensor:
            flat = F.interpolate(image.reshape(-1, *image.shape[-3:]), (height, width), **how)
            return flat.reshape(*image.shape[:-2], height, width)

        def smooth(image: Tensor) -> Tensor:
            return resize(image, mode="bilinear", align_corners=False, antialias=smaller)

        def nearest(image: Tensor | None) -> Tensor | None:
            return None if image is None else resize(image, mode="nearest-exact")

        alpha = smooth(self.alpha).clamp(0, 1)
        rgb = (smooth(self.rgb * self.alpha) / alpha.clamp(min=1e-6)).clamp(0, 1)
        rgb = torch.where(alpha > 0, rgb, smooth(self.rgb).clamp(0, 1))
        return Views(rgb, alpha, self.cameras, nearest(self.depth), nearest(self.normals))


def depth_to_image(views: Views) -> Tensor:
    """Convert depth to grey images (V, 3, H, W), near dark to far light on one scale, white where there is no surface.

    Raises:
        ValueError: The views have no depth.
    """
    if views.depth is None:
        raise ValueError("these views have no depth; render or read them with depth")
    solid = (views.depth > 0) & (views.alpha > 0.5)
    seen = views.depth[solid]
    near, far = (seen.min(), seen.max()) if len(seen) else (views.depth.new_tensor(0.0), views.depth.new_tensor(1.0))
    grey = 0.15 + 0.7 * ((views.depth - near) / (far - near).clamp(min=1e-6)).clamp(0, 1)
    return torch.where(solid, grey, torch.ones_like(grey)).expand_as(views.rgb)


def normals_to_image(views: Views) -> Tensor:
    """Convert normals to colours (V, 3, H, W): red, green, blue for +x, +y, +z; white where there is no surface.

    Raises:
        ValueError: The views have no normals.
    """
    if views.normals is None:
        raise ValueError("these views have no normals; render or read them with normals")
    return ((views.normals + 1) / 2).clamp(0, 1) * views.alpha + (1 - views.alpha)
