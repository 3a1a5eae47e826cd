"""Choice of a surface's density by the silhouettes of the views that an object was made of.

A level set covers the pixels on whose rays the density rises above the level, so the silhouettes of all levels follow
from the highest density on each ray, without a mesh.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.nerf.baked_field import device_of, grid_density
from instant3d.nerf.field import Field
from instant3d.utils.visualization import evenly_spaced
from instant3d.views import Views

NODES = 80  # a side of the grid on which density is read
SIDE = 80  # pixels of the silhouettes
STEP = 1 / 32  # world units between samples on a ray
REACH = 3**0.5  # of the cube's corners from its centre
SLACK = 0.01  # by which the overlap of a tighter surface's silhouettes may be lower than the best
COVERED = (0.002, 0.95)  # share of an image that is covered by a silhouette, not by noise or by all of a photo
MOST_VIEWS = 8


@torch.no_grad()
def silhouette_threshold(field: Field, views: Views, levels: Sequence[float]) -> float | None:
    """Choose the surface density whose silhouettes agree with those of views.

    Args:
        field: One object's density.
        views: Posed images (V,) of it.
        levels: Densities to choose from.

    Returns:
        Of the levels whose mean overlap (IoU) with the views' silhouettes is within `SLACK` of the best, the highest:
        views bound an object from outside, so that a level that is too low is noticed less. None if no view has a
        silhouette.
    """
    views = views[evenly_spaced(len(views.rgb), MOST_VIEWS)].to(device_of(field))
    masks = views.resized(SIDE, SIDE).alpha[:, 0] > 0.5
    share = masks.float().mean((-2, -1))
    kept = ((share > COVERED[0]) & (share < COVERED[1])).nonzero()[:, 0]
    if not len(kept) or not levels:
        return None
    peaks, masks = highest_densities(field, views.cameras[kept]), masks[kept]
    overlaps = {level: _overlap(peaks > level, masks) for level in levels}
    return max(level for level, overlap in overlaps.items() if overlap >= max(overlaps.values()) - SLACK)


def highest_densities(field: Field, cameras: Cameras) -> Tensor:
    """Return the highest density on the ray of each pixel of square images from cameras (V,): (V, SIDE, SIDE)."""
    axis = torch.linspace(-1, 1, NODES, device=device_of(field))
    volume = grid_density(field, axis).float().permute(2, 1, 0)[None, None]  # z, y, x: `grid_sample` takes x first
    rays = cameras.rays(SIDE, SIDE)
    middle = -(rays.origins * rays.directions).sum(-1, keepdim=True)
    peaks = torch.zeros(rays.directions.shape[:-1], device=axis.device)
    for offset in torch.arange(-REACH, REACH, STEP).tolist():
        points = rays.origins + rays.directions * (middle + offset).clamp(min=0)
        density = F.grid_sample(volume, points.flatten(0, 1)[None, None], align_corners=True)
        peaks = torch.maximum(peaks, density.view_as(peaks))
    return peaks


def _overlap(found: Tensor, wanted: Tensor) -> float:
    """Mean intersection over union of masks (V, H, W)."""
    both, either = (found & wanted).sum((-2, -1)), (found | wanted).sum((-2, -1))
    return (both / either).mean().item()
