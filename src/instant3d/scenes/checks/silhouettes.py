"""How far silhouettes seen from several cameras contradict each other. Knows nothing of files or of what to do then.

A ray along the rim of one silhouette touches the object somewhere, and that point lies inside every other silhouette
(the visual hull, Laurentini 1994). So the ray's best point, by its signed distance to the outline in the picture where
it lies farthest outside, tells by how many pixels the cameras are wrong at least: 0 wherever they are right. Pictures
of a ball contradict each other under few cameras, hence a small miss proves nothing and only a large one does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras

SIDE = 128  # pixels of the longer side that silhouettes are compared at; larger pictures are made smaller
FAR = 24.0  # pixels: no miss counts as more
RIMS = 40  # rays of each view
COARSE, FINE = 56, 13  # points along each ray, then again around the best of them
SEEN, SOLID = 0.1, 0.9  # alpha: from the one a pixel may show the object, from the other it surely does


@dataclass(frozen=True)
class Silhouettes:
    """Outlines of V pictures of one object."""

    inside: Tensor  # (V, 1, H, W) pixels to the outline, positive inside, at least -FAR
    rims: Tensor  # (V, R, 2) image points, as fractions, that lie just inside


def downsize(image: Tensor) -> Tensor:
    """Images (V, C, H, W), area-averaged so that the longer side is SIDE at most."""
    height, width = image.shape[-2:]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def silhouettes(alpha: Tensor) -> Silhouettes:
    """From alphas (V, 1, H, W), each of which shows something solid."""
    inside = np.stack([_signed(picture[0].numpy() >= SEEN) for picture in alpha])
    rims = np.stack([_rim(picture[0].numpy()) for picture in alpha])
    return Silhouettes(torch.from_numpy(inside)[:, None], torch.from_numpy(rims))


@dataclass(frozen=True)
class RimAgreement:
    """Where each rim ray best agrees with all views, and by how much it fails there."""

    points: Tensor  # (V, R, 3)
    miss: Tensor  # (V, R) pixels, 0 to FAR


def rim_agreement(shapes: Silhouettes, cameras: Cameras, box: float | None = None) -> RimAgreement:
    """The best point of each rim ray of cameras (V), and by how many pixels it at least misses what they show.

    box   half a side of the cube around the world's centre in which alone the object may be, if anywhere
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
    finer = best + step * torch.linspace(-1, 1, FINE)  # the middle one is the best so far
    score, chosen = inside(finer).max(-1)
    best = finer.gather(-1, chosen[..., None])
    return RimAgreement(origins + best * directions, -score.clamp(max=0))


def _rays(shapes: Silhouettes, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (V, R, 3)."""
    rays = [cameras[k].rays_through(*shapes.rims[k].unbind(-1)) for k in range(len(shapes.rims))]
    return torch.stack([ray.origins for ray in rays]), torch.stack([ray.directions for ray in rays])


def _span(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """The point (3,) that all cameras look at most nearly, and how far around it (V, 1) each sees an object.

    Scale-free, for a world in other units is no contradiction.
    """
    forward = cameras.cam_to_world[:, :3, 2]
    across = torch.eye(3) - forward[:, :, None] * forward[:, None, :]
    weight = across.sum(0) + 1e-4 * torch.eye(3)
    middle = torch.linalg.solve(weight, (across @ cameras.positions[..., None]).sum(0)[:, 0])
    distance = (cameras.positions - middle).norm(dim=-1).clamp(min=1e-3)
    tangent = (0.5 / cameras.intrinsics[:, :2]).amax(-1)
    return middle, (1.3 * distance * tangent / (1 + tangent**2).sqrt())[:, None]


def _worst(shapes: Silhouettes, cameras: Cameras, points: Tensor, box: float | None) -> Tensor:
    """The least signed distance to an outline, over all views, of points (N, 3): (N,)."""
    rotation = cameras.cam_to_world[:, :3, :3]
    pinhole = torch.zeros_like(rotation)  # `Cameras.project` and the step to -1..1, as a single product
    pinhole[:, 0, 0], pinhole[:, 1, 1] = 2 * cameras.intrinsics[:, 0], 2 * cameras.intrinsics[:, 1]
    pinhole[:, :2, 2] = 2 * cameras.intrinsics[:, 2:] - 1
    pinhole[:, 2, 2] = 1
    turn = pinhole @ rotation.mT
    flat = turn @ points.T - turn @ cameras.positions[..., None]  # (V, 3, N)
    depth = flat[:, 2]
    where = (flat[:, :2] / depth.clamp(min=1e-6)[:, None]).clamp(-4, 4)
    # beyond the frame the border's pixels go on: an object cut by the frame may reach there, another cannot
    grid = where.mT[:, None]
    found = F.grid_sample(shapes.inside, grid, align_corners=False, padding_mode="border")[:, 0, 0]
    least = torch.where(depth > 0, found, -FAR).amin(0)
    return least if box is None else torch.where(points.abs().amax(-1) <= box, least, -FAR)


def _signed(mask: np.ndarray) -> np.ndarray:
    """Pixels from each pixel's centre to the outline, positive inside, (H, W) float32."""
    from scipy import ndimage

    inner, outer = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    if mask.all():
        inner = np.full(mask.shape, FAR)
    return np.where(mask, inner - 0.5, 0.5 - outer).clip(-FAR, FAR).astype(np.float32)


def _rim(alpha: np.ndarray) -> np.ndarray:
    """Image points (R, 2) spread over the inner edge of what is solid; the frame's own edge is no outline."""
    from scipy import ndimage

    solid = alpha >= min(SOLID, float(alpha.max()))
    edge = solid & ~ndimage.binary_erosion(solid, border_value=1)
    rows, columns = np.nonzero(edge if edge.any() else solid)
    chosen = np.linspace(0, len(rows) - 1, RIMS).round().astype(int)
    height, width = alpha.shape
    return np.stack([(columns[chosen] + 0.5) / width, (rows[chosen] + 0.5) / height], -1).astype(np.float32)
