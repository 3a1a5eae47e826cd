"""Silhouette consistency: by how many pixels the silhouettes of several cameras contradict each other.

A ray along the rim of one silhouette touches the object somewhere, and that point lies inside every other silhouette
(the visual hull, Laurentini 1994). So the best point of the ray, by its signed distance to the outline in the image
where it lies farthest outside, gives a lower bound on the camera error in pixels: 0 wherever the cameras are correct.
Images of a ball contradict each other under few cameras, hence only a large contradiction proves an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras

SIDE = 128  # pixels of the longer side at which silhouettes are compared; larger images are reduced
FAR = 24.0  # pixels: upper limit of a distance
RIMS = 40  # rays of each view
COARSE, FINE = 56, 13  # sample points along each ray, then around the best of them
SEEN, SOLID = 0.1, 0.9  # alpha from which a pixel may, and certainly does, show the object


@dataclass(frozen=True)
class Silhouettes:
    """Outlines of V images of one object.

    Attributes:
        inside: (V, 1, H, W) distance to the outline in pixels, positive inside, at least -FAR.
        rims: (V, R, 2) image points, as fractions, just inside the outline.
    """

    inside: Tensor
    rims: Tensor


def downsize(image: Tensor) -> Tensor:
    """Reduce images (V, C, H, W) by area averaging so that the longer side is at most SIDE."""
    height, width = image.shape[-2:]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def silhouettes(alpha: Tensor) -> Silhouettes:
    """Compute outlines from alpha masks (V, 1, H, W), each of which contains a solid object."""
    inside = np.stack([_signed(mask[0].numpy() >= SEEN) for mask in alpha])
    rims = np.stack([_rim(mask[0].numpy()) for mask in alpha])
    return Silhouettes(torch.from_numpy(inside)[:, None], torch.from_numpy(rims))


@dataclass(frozen=True)
class RimAgreement:
    """The point of each rim ray that agrees best with all views.

    Attributes:
        points: (V, R, 3) in world units.
        miss: (V, R) by how many pixels the point misses the worst silhouette, 0 to FAR.
    """

    points: Tensor
    miss: Tensor


def rim_agreement(shapes: Silhouettes, cameras: Cameras, box: float | None = None) -> RimAgreement:
    """Find the best point of each rim ray, and by how many pixels it misses the silhouettes.

    Args:
        shapes: Outlines of V images.
        cameras: Their cameras (V,).
        box: Half the side of the cube around the origin that may contain the object; unlimited if None.
    """
    origins, directions = _rays(shapes, cameras)
    middle, reach = _span(cameras)
    nearest = ((middle - origins) * directions).sum(-1)  # (V, R)
    low, high = nearest - reach, nearest + reach
    low = torch.maximum(low, 0.02 * reach)
    distance = low[..., None] + (high - low).clamp(min=1e-6)[..., None] * torch.linspace(0, 1, COARSE)

    def inside(distance: Tensor) -> Tensor:
        points = origins[..., None, :] + distance[..., None] * directions[..., None, :]
        return _worst(shapes, cameras, points.reshape(-1, 3), box).reshape(distance.shape)

    best = distance.gather(-1, inside(distance).argmax(-1, keepdim=True))
    step = (distance[..., 1] - distance[..., 0])[..., None]
    finer = best + step * torch.linspace(-1, 1, FINE)  # its centre is the best so far
    score, chosen = inside(finer).max(-1)
    best = finer.gather(-1, chosen[..., None])
    return RimAgreement(origins + best * directions, -score.clamp(max=0))


def _rays(shapes: Silhouettes, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (V, R, 3)."""
    rays = [cameras[k].rays_through(*shapes.rims[k].unbind(-1)) for k in range(len(shapes.rims))]
    return torch.stack([ray.origins for ray in rays]), torch.stack([ray.directions for ray in rays])


def _span(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Return the point (3,) nearest to all optical axes, and the radius around it (V, 1) in each camera's view."""
    forward = cameras.cam_to_world[:, :3, 2]
    across = torch.eye(3) - forward[:, :, None] * forward[:, None, :]
    weight = across.sum(0) + 1e-4 * torch.eye(3)
    middle = torch.linalg.solve(weight, (across @ cameras.positions[..., None]).sum(0)[:, 0])
    distance = (cameras.positions - middle).norm(dim=-1).clamp(min=1e-3)
    tangent = (0.5 / cameras.intrinsics[:, :2]).amax(-1)
    return middle, (1.3 * distance * tangent / (1 + tangent**2).sqrt())[:, None]


def _worst(shapes: Silhouettes, cameras: Cameras, points: Tensor, box: float | None) -> Tensor:
    """Return the smallest signed distance of points (N, 3) to an outline over all views, (N,)."""
    rotation = cameras.cam_to_world[:, :3, :3]
    pinhole = torch.zeros_like(rotation)  # `Cameras.project` and the step to -1..1, as a single product
    pinhole[:, 0, 0], pinhole[:, 1, 1] = 2 * cameras.intrinsics[:, 0], 2 * cameras.intrinsics[:, 1]
    pinhole[:, :2, 2] = 2 * cameras.intrinsics[:, 2:] - 1
    pinhole[:, 2, 2] = 1
    turn = pinhole @ rotation.mT
    flat = turn @ points.T - turn @ cameras.positions[..., None]  # (V, 3, N)
    depth = flat[:, 2]
    where = (flat[:, :2] / depth.clamp(min=1e-6)[:, None]).clamp(-4, 4)
    # border pixels are repeated outside: an object cut off by the border may extend there, another cannot
    grid = where.mT[:, None]
    found = F.grid_sample(shapes.inside, grid, align_corners=False, padding_mode="border")[:, 0, 0]
    least = torch.where(depth > 0, found, -FAR).amin(0)
    return least if box is None else torch.where(points.abs().amax(-1) <= box, least, -FAR)


def _signed(mask: np.ndarray) -> np.ndarray:
    """Return the distance from each pixel's centre to the outline in pixels, positive inside, (H, W) float32."""
    from scipy import ndimage

    inner, outer = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    if mask.all():
        inner = np.full(mask.shape, FAR)
    return np.where(mask, inner - 0.5, 0.5 - outer).clip(-FAR, FAR).astype(np.float32)


def _rim(alpha: np.ndarray) -> np.ndarray:
    """Return image points (R, 2) spread over the inner edge of the object; the image border is not an outline."""
    from scipy import ndimage

    solid = alpha >= min(SOLID, float(alpha.max()))
    edge = solid & ~ndimage.binary_erosion(solid, border_value=1)
    rows, columns = np.nonzero(edge if edge.any() else solid)
    chosen = np.linspace(0, len(rows) - 1, RIMS).round().astype(int)
    height, width = alpha.shape
    return np.stack([(columns[chosen] + 0.5) / width, (rows[chosen] + 0.5) / height], -1).astype(np.float32)
