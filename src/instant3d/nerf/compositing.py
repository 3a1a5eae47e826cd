"""Compositing of samples along rays: rendering weights, the pixels of rays, and their arrangement as images.

Opacity is exact for a density that is constant within each interval, whatever the number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views


@dataclass(frozen=True)
class Pixels(TensorDataclass):
    """Rendered values of rays.

    Attributes:
        rgb: (..., 3), premultiplied by alpha.
        alpha: (...).
        distance: (...), mean distance along the ray of what it hits, 0 if nothing.
        normal: (..., 3), premultiplied by alpha.
    """

    rgb: Tensor
    alpha: Tensor
    distance: Tensor
    normal: Tensor | None = None


def rendering_weights(density: Tensor, edges: Tensor) -> Tensor:
    """Return each interval's share of the light at the camera (Max 1995, eq. 9).

    Args:
        density: (..., S), per world unit, >= 0.
        edges: (..., S + 1), distances from the camera.

    Returns:
        (..., S).
    """
    thickness = density * edges.diff(dim=-1)
    light = torch.exp(thickness - thickness.cumsum(-1))  # transmittance of the samples in front
    return light * -torch.expm1(-thickness)


def composite(density: Tensor, rgb: Tensor, edges: Tensor, normal: Tensor | None = None) -> Pixels:
    """Blend samples front to back.

    Args:
        density: (..., S), per world unit, >= 0.
        rgb: (..., S, 3), in [0, 1].
        edges: (..., S + 1), distances from the camera at which samples begin and end.
        normal: (..., S, 3), if normals are wanted.

    Returns:
        Pixels (...).
    """
    weight = rendering_weights(density, edges)
    alpha = weight.sum(-1)
    middle = (edges[..., 1:] + edges[..., :-1]) / 2
    distance = (weight * middle).sum(-1) / alpha.clamp(min=1e-6)
    mixed = None if normal is None else (weight[..., None] * normal).sum(-2)
    return Pixels((weight[..., None] * rgb).sum(-2), alpha, distance, mixed)


def join(pieces: list[Pixels]) -> Pixels:
    """Concatenate chunks of rays (..., R_i) to (..., R)."""
    lead = pieces[0].alpha.dim() - 1
    normal = [piece.normal for piece in pieces if piece.normal is not None]
    return Pixels(
        torch.cat([piece.rgb for piece in pieces], dim=lead),
        torch.cat([piece.alpha for piece in pieces], dim=lead),
        torch.cat([piece.distance for piece in pieces], dim=lead),
        torch.cat(normal, dim=lead) if normal else None,
    )


def to_views(pixels: Pixels, cameras: Cameras, directions: Tensor, height: int, width: int) -> Views:
    """Arrange the pixels of rays as images; distance along the ray becomes camera-z depth.

    Args:
        pixels: (..., V * H * W).
        cameras: (..., V).
        directions: Directions of the rays, (..., V, H, W, 3).
        height: H, of the images in pixels.
        width: W, of the images in pixels.

    Returns:
        Views (..., V), with normals if the pixels have them.
    """
    size = (cameras.shape[-1], height, width)
    rgb = pixels.rgb.unflatten(-2, size).movedim(-1, -3)
    alpha = pixels.alpha.unflatten(-1, size)[..., None, :, :]
    forward = cameras.cam_to_world[..., None, None, :3, 2]
    depth = pixels.distance.unflatten(-1, size) * (directions * forward).sum(-1)
    normal = None
    if pixels.normal is not None:
        normal = torch.nn.functional.normalize(pixels.normal, dim=-1).unflatten(-2, size).movedim(-1, -3)
    return Views(rgb / alpha.clamp(min=1e-5), alpha, cameras, depth[..., None, :, :], normal)
