"""Colours of surface points from the images that show them.

A view counts at a point by how squarely it looks at it, and not at all where the point is hidden or close to an
outline, where a pixel mixes what is before with what is behind.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.mesh import Mesh
from instant3d.nerf.mesh_rendering import nearest_surface
from instant3d.views import Views

GRAZING = 0.2  # cosine of the angle between ray and normal from which a view counts
SHARPNESS = 2.0  # power of that cosine, scaled to [0, 1]: how much the most frontal view outweighs the others
DEPTH_TOLERANCE = 0.03  # world units by which a point may lie behind the surface that a view shows
JUMP = 0.1  # world units of depth between neighbouring pixels that make an outline
OUTLINE = 1  # pixels on either side of an outline that do not count
OPAQUE = 0.95  # alpha from which a pixel is all object
DEPTH_SIDES = (256, 512)  # fewest and most pixels a side of the depth maps that points are compared with


def view_colors(mesh: Mesh, points: Tensor, normals: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """Colours of points by the views that show them.

    Args:
        mesh: The surface, which hides points from views.
        points: World points (N, 3) on it.
        normals: Unit normals (N, 3) there.
        views: Posed images (V,) of it.

    Returns:
        Colours (N, 3), weighted means over views, and the sums of weights (N,), 1 for one view straight on.
    """
    colors, total = torch.zeros_like(points), points.new_zeros(len(points))
    for k in range(len(views.rgb)):
        view = views[k]
        side = min(max(view.width, DEPTH_SIDES[0]), DEPTH_SIDES[1])
        color, weight = _seen_by(view, depth_map(mesh, view.cameras, side), points, normals)
        colors += weight[:, None] * color
        total += weight
    return colors / total.clamp(min=1e-9)[:, None], total


def depth_map(mesh: Mesh, camera: Cameras, size: int) -> Tensor:
    """Render the depth of a mesh.

    Args:
        mesh: In world axes.
        camera: One camera, ().
        size: Width and height in pixels.

    Returns:
        Camera-z distance (size, size) of the nearest surface in world units, infinite where there is none.
    """
    found = nearest_surface(mesh, camera, size)
    depths = np.full(size * size, np.inf, np.float32)
    depths[found.pixel] = found.depth
    return torch.from_numpy(depths.reshape(size, size))


def _seen_by(view: Views, depths: Tensor, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (N, 3) and weights (N,) of points in one view with its depth map."""
    toward = F.normalize(view.cameras.positions - points, dim=-1)
    facing = (((toward * normals).sum(-1) - GRAZING) / (1 - GRAZING)).clamp(min=0)
    weight, color = torch.zeros_like(facing), torch.zeros_like(points)
    front = facing.nonzero()[:, 0]
    places, depth = view.cameras.project(points[front])
    shown = torch.nan_to_num(_at(depths[None], places, mode="nearest")[:, 0], posinf=-1.0)
    visible = (depth <= shown + DEPTH_TOLERANCE) & (places > 0).all(1) & (places < 1).all(1)
    front, places = front[visible], places[visible]
    weight[front] = facing[front] ** SHARPNESS * _at(_certain(view, depths), places)[:, 0]
    color[front] = _at(view.rgb, places)
    return color, weight


def _certain(view: Views, depths: Tensor) -> Tensor:
    """(1, H, W) in [0, 1]: 1 inside the object's parts, falling to 0 at their outlines."""
    alpha = F.interpolate(view.alpha[None], depths.shape, mode="bilinear", align_corners=False)[0]
    near = torch.where(depths.isfinite(), depths, 1e3)[None, None]
    far = -F.max_pool2d(-near, 3, 1, 1)
    outline = (F.max_pool2d(near, 3, 1, 1) - far > JUMP).float()[0]
    doubtful = torch.maximum(outline, (alpha < OPAQUE).float())
    reach = 2 * OUTLINE * max(1, round(depths.shape[-1] / view.width)) + 1
    grown = F.max_pool2d(doubtful[None], reach, 1, reach // 2)
    return F.avg_pool2d(1 - grown, reach, 1, reach // 2, count_include_pad=False)[0]


def _at(image: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """An image (C, H, W) at places (N, 2) given as fractions: (N, C)."""
    grid = (places * 2 - 1)[None, None]
    return F.grid_sample(image[None], grid, mode=mode, padding_mode="border", align_corners=False)[0, :, 0].T
