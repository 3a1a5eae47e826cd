"""Visual hull from silhouettes, as a `Field` coloured from the images.

It is a baseline for the networks, and an inexpensive input to them. A point belongs to the hull if every image shows
the object there. The object is assumed to lie inside every image's frame, so a point that falls outside a frame, or
behind a camera, is empty.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.views import Views

_FACING_POWER = 2.0  # exponent of the cosine between normal and viewing direction
_UNSEEN = 1e-3  # weight of an occluded view: it counts only where all are occluded


def carve(views: Views, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hull's occupancy and colour at given points.

    Args:
        views: (B, V).
        points: (N, 3).

    Returns:
        Occupancy (B, N) in [0, 1], the least alpha among the views; and colour (B, N, 3), the mean of all views
        weighted by alpha, without a test of visibility, and 0 where no view shows the object.
    """
    seen = sample_views(views, points.expand(len(views.rgb), *points.shape))
    alpha = seen[..., 3]
    rgb = seen[..., :3].sum(1) / alpha.sum(1).clamp(min=1e-6)[..., None]
    return alpha.amin(1), rgb


def sample_views(views: Views, points: Tensor) -> Tensor:
    """Sample views (B, V) at the projections of points (B, N, 3).

    Returns:
        Premultiplied colour and alpha (B, V, N, 4); 0 outside the frame.
    """
    return sample_images(_premultiplied(views), views.cameras, points)


def _premultiplied(views: Views) -> Tensor:
    return torch.cat([views.rgb * views.alpha, views.alpha], dim=-3)


def sample_images(images: Tensor, cameras: Cameras, points: Tensor) -> Tensor:
    """Sample images (B, V, C, H, W) of cameras (B, V) at the projections of points (B, N, 3).

    Returns:
        (B, V, N, C); 0 outside the frame and behind the camera.
    """
    return _sample_projected(images, *_project(cameras, points))


def _sample_projected(images: Tensor, where: Tensor, depth: Tensor) -> Tensor:
    """Sample images (B, V, C, H, W) where points were projected to by `_project`: (B, V, N, C)."""
    sampled = F.grid_sample(images.float().flatten(0, 1), where.flatten(0, 1)[:, None], align_corners=False)
    sampled = sampled[:, :, 0].unflatten(0, depth.shape[:2]).transpose(-1, -2)
    return sampled * (depth > 0)[..., None]


def _project(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return `grid_sample` coordinates (B, V, N, 2) and camera-z depth (B, V, N), by a single product."""
    with torch.autocast(points.device.type, enabled=False):
        matrix, intrinsics = cameras.cam_to_world.float(), cameras.intrinsics.float()
        to_camera = matrix[..., :3, :3].transpose(-1, -2)
        pinhole = torch.zeros_like(to_camera)
        pinhole[..., 0, 0], pinhole[..., 1, 1] = 2 * intrinsics[..., 0], 2 * intrinsics[..., 1]
        pinhole[..., :2, 2] = 2 * intrinsics[..., 2:] - 1
        pinhole[..., 2, 2] = 1
        turn = pinhole @ to_camera  # (B, V, 3, 3)
        shift = -(turn @ matrix[..., :3, 3:])
        flat = turn @ points.float().mT[:, None] + shift  # (B, V, 3, N), because arithmetic on long rows is faster
        depth = flat[..., 2, :]
        return (flat[..., :2, :] / depth.clamp(min=1e-6)[..., None, :]).mT, depth


class VisualHull:
    """Visual hull of views (V): a `Field` for points (N, 3) whose surface takes its colours from the images.

    A surface point is coloured by the views in which it is visible (judged by the hull's own depth from each
    camera), each weighted by how directly it faces the surface. Where no view is unoccluded, the facing ones are used.

    Args:
        views: Views of one object, (V,).
        density: Density inside, per world unit: 40 makes a wall of 0.1 opaque to 98 % and softens an edge by about the
            pixel of a 128 px image; a harder hull scores worse against antialiased images.
        sharpness: How steeply density rises as the least alpha passes 1/2.
        side: Cells per side of the grid from which surface normals and depths are read.

    Raises:
        ValueError: The views are not those of one object.
    """

    def __init__(self, views: Views, density: float = 40.0, sharpness: float = 4.0, side: int = 96) -> None:
        if views.rgb.dim() != 4 or len(views.rgb) == 0:
            raise ValueError(f"a hull needs the views of one object, rgb (V, 3, H, W), got {tuple(views.rgb.shape)}")
        self.views, self.full, self.sharpness = views, density, sharpness
        self.images = _premultiplied(views)
        self.grid = _occupancy_grid(views, side)
        self.gradient = _gradient(_blur(self.grid))
        self.depth = _first_hit(self.grid, views)
        self.tolerance = 2 * (2 / side)  # a point this far behind the first surface still counts as seen

    def density(self, points: Tensor) -> Tensor:
        """Return the density (N,) at points (N, 3)."""
        return self._solid(sample_images(self.views.alpha[None], self.views.cameras[None], points[None])[0])

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (N,) and colour (N, 3) at points (N, 3)."""
        where, depth = _project(self.views.cameras[None], points[None])
        seen = _sample_projected(self.images[None], where, depth)[0]  # (V, N, 4)
        alpha = seen[..., 3:]
        weight = self._visibility(where, depth) * self._facing(points) * alpha[..., 0]
        total = weight.sum(0).clamp(min=1e-12)[:, None]
        rgb = (weight[..., None] * (seen[..., :3] / alpha.clamp(min=1e-6))).sum(0) / total
        return self._solid(alpha), rgb

    def _solid(self, alpha: Tensor) -> Tensor:
        """Return the density (N,) by alpha (V, N, 1)."""
        return self.full * ((alpha[..., 0].amin(0) - 0.5) * self.sharpness + 0.5).clamp(0, 1)

    def _facing(self, points: Tensor) -> Tensor:
        """Return the weight (V, N) by the angle between the surface's normal and the direction to each camera."""
        normal = F.normalize(-_sample_grid(self.gradient, points), dim=0)
        toward = F.normalize(self.views.cameras.positions[..., None] - points.T, dim=1)  # (V, 3, N)
        return (toward * normal).sum(1).clamp(min=0.05) ** _FACING_POWER

    def _visibility(self, where: Tensor, depth: Tensor) -> Tensor:
        """Return weights (V, N): 1 where a point is not occluded in a view, almost 0 far behind the first surface."""
        first = F.grid_sample(self.depth, where[0][:, None], mode="nearest", align_corners=False)[:, 0, 0]
        return (2 - (depth[0] - first) / self.tolerance).clamp(_UNSEEN, 1)


def _occupancy_grid(views: Views, side: int) -> Tensor:
    """Return the least alpha at the centres of the cube's cells, (side, side, side) indexed z, y, x."""
    ticks = ((torch.arange(side, device=views.rgb.device) + 0.5) / side) * 2 - 1
    z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    return sample_images(views.alpha[None], views.cameras[None], points[None])[0].amin(0).reshape(side, side, side)


def _blur(grid: Tensor, passes: int = 2) -> Tensor:
    """Apply a box filter of 3 cells `passes` times, so that the gradient has a well-defined direction."""
    grid = grid[None, None]
    for _ in range(passes):
        grid = F.avg_pool3d(grid, 3, stride=1, padding=1)
    return grid[0, 0]


def _gradient(grid: Tensor) -> Tensor:
    """Central differences, (3, side, side, side), in the order x, y, z."""
    z, y, x = torch.gradient(grid)
    return torch.stack([x, y, z])


def _sample_grid(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear samples (C, N) of a grid (C, z, y, x) over the cube at points (N, 3)."""
    return F.grid_sample(grid[None], points[None, None, None].float(), align_corners=False)[0, :, 0, 0]


def _first_hit(grid: Tensor, views: Views) -> Tensor:
    """Return the camera-z depth (V, 1, H, W) at which each pixel's ray first meets the hull, or infinity."""
    rays = views.cameras.rays(views.height, views.width)
    depth = torch.full_like(views.alpha, torch.inf)
    for view, (shown, out) in enumerate(zip(views.alpha[:, 0] > 0.02, depth[:, 0], strict=True)):
        origins, directions = rays.origins[view][shown], rays.directions[view][shown]
        forward = directions @ views.cameras.cam_to_world[view, :3, 2]
        out[shown] = forward * _march(grid, origins, directions)
    return depth


def _march(grid: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
    """Return the distance (R,) at which rays (R, 3) first meet a grid value of 1/2; infinite if they do not."""
    side = grid.shape[0]
    reach = 3**0.5  # half the cube's diagonal: how far from the point nearest to the centre a ray can be inside
    nearest = -(origins * directions).sum(-1, keepdim=True)
    steps = torch.linspace(-reach, reach, 2 * side, device=grid.device)
    distance = (nearest + steps).clamp(min=0)
    points = origins[:, None] + distance[..., None] * directions[:, None]
    inside = F.grid_sample(grid[None, None], points[None, None], align_corners=False)[0, 0, 0] > 0.5
    first = inside.int().argmax(-1, keepdim=True)
    hit = distance.gather(-1, first)[:, 0]
    return torch.where(inside.any(-1), hit, torch.inf)
