"""Visual hull of the input views as an additional input, for networks too small to learn multi-view geometry.

Not in the paper, whose network learns multi-view geometry from 750,000 objects. A grid of points is projected into the
views; what all silhouettes agree on (the visual hull) and the colour of the views that face its surface are written to
the three planes as profiles along the third axis. A network trained for minutes starts from there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.nerf.plane_sampling import PLANE_AXES
from instant3d.nerf.view_maps import mean_and_variance, sample_weights
from instant3d.nerf.visual_hull import sample_views
from instant3d.stage2.view_features import ViewFeatures
from instant3d.views import Views

PROFILE_CHANNELS = 5  # occupancy, facing colour, disagreement of the views


@dataclass(frozen=True)
class CarvedGrid:
    """Visual hull on a grid of cell centres.

    Attributes:
        points: Centres of the cells (N, 3), x fastest.
        weight: Share (B, V, N) of each view in a cell, 1 over the views: how squarely it faces the hull's surface
            there, and whether the hull occludes it.
        volume: (B, 5, z, y, x): occupancy, and multiplied by it colour (3) and the standard deviation of colour over
            the views. Occupancy is the smallest alpha over the views; a point outside an image is outside the object.
    """

    points: Tensor
    weight: Tensor
    volume: Tensor

    @property
    def weight_volume(self) -> Tensor:
        """The weights on the grid, (B, V, z, y, x)."""
        return self.weight.unflatten(-1, self.volume.shape[-3:])


def carve_grid(views: Views, side: int) -> Tensor:
    """Occupancy, colour and colour variance (B, 5, z, y, x) of the visual hull: the volume of `carve_views`."""
    return carve_views(views, side).volume


def carve_views(views: Views, side: int, *, everywhere: bool = True) -> CarvedGrid:
    """Carve the visual hull; differentiable in the cameras.

    Args:
        views: (B, V).
        side: Cells along each axis of the cube [-1, 1]^3.
        everywhere: Whether to compute the weights of all cells. Otherwise they are 1 / V in empty cells, which makes
            carving faster on a CPU; the volume is the same.
    """
    line = (torch.arange(side, device=views.rgb.device) + 0.5) * (2 / side) - 1
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij")[::-1], dim=-1).reshape(-1, 3)  # x fastest
    coarse = 4 * side // 3  # pixels about as large as cells: a blurred edge locates the surface within a cell
    if coarse < views.height:
        views = views.resized(coarse, coarse)
    # channels before points, here and below: arithmetic on long rows is faster
    colours = sample_views(views, points.expand(len(views.rgb), -1, -1)).mT  # (B, V, 4, N), premultiplied
    occupancy = colours[:, :, 3].amin(1)
    slopes = _slopes(occupancy, side)
    if everywhere:
        weight, volume = _weighted(views.cameras, points, colours, slopes, side)
    else:
        full = occupancy.amax(0).nonzero()[:, 0]
        weight = colours.new_full((*colours.shape[:2], len(points)), 1 / colours.shape[1])
        volume = colours.new_zeros(len(colours), PROFILE_CHANNELS, len(points))
        weight[..., full], volume[..., full] = _weighted(
            views.cameras, points[full], colours[..., full], slopes[..., full], side
        )
    return CarvedGrid(points, weight, volume.unflatten(-1, (side, side, side)))


def _weighted(cameras: Cameras, points: Tensor, colours: Tensor, slopes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Weights (B, V, N) of the views at points, and the volume's channels (B, 5, N) there.

    Args:
        cameras: (B, V).
        points: (N, 3), with all points of the hull among them.
        colours: What the views show there, premultiplied with alpha, (B, V, 4, N).
        slopes: Of the hull's blurred occupancy there, (B, 3, N).
        side: Cells along each axis of the grid.
    """
    occupancy = colours[:, :, 3].amin(1)
    weight = _facing(-F.normalize(slopes, dim=1), points, cameras.positions) * colours[:, :, 3]
    weight = weight * _visible(occupancy > 0.5, points, cameras, side) + 1e-4
    weight = weight / weight.sum(1, keepdim=True)
    mean = (weight[:, :, None] * colours[:, :, :3]).sum(1)  # (B, 3, N)
    spread = _root((weight[:, :, None] * (colours[:, :, :3] - mean[:, None]) ** 2).sum((1, 2)))
    return weight, torch.cat([occupancy[:, None], torch.cat([mean, spread[:, None]], 1) * occupancy[:, None]], dim=1)


def _root(values: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0, not infinite."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)


def _slopes(occupancy: Tensor, side: int) -> Tensor:
    """Gradient (B, 3, N) along x, y and z of a grid's occupancy (B, N), blurred by a box of 5 cells."""
    volume = occupancy.unflatten(-1, (side, side, side))
    for axis in (1, 2, 3):  # one axis after the other: five times as fast as avg_pool3d
        padded = F.pad(volume, [0, 0] * (3 - axis) + [2, 2])
        volume = functools.reduce(torch.add, (padded.narrow(axis, k, side) for k in range(5)))
    volume = volume / 125
    return torch.stack([torch.gradient(volume, dim=3 - axis)[0].flatten(1) for axis in range(3)], dim=1)


def _facing(outward: Tensor, points: Tensor, cameras: Tensor) -> Tensor:
    """Squared cosine between each camera (B, V, 3) and the hull's normals (B, 3, N) at points (N, 3), 0 from behind.

    Returns:
        (B, V, N).
    """
    facing = [(outward * F.normalize(position[..., None] - points.T, dim=1)).sum(1) for position in cameras.unbind(1)]
    return torch.stack(facing, dim=1).clamp(min=0).square()


def _visible(inside: Tensor, points: Tensor, cameras: Cameras, side: int) -> Tensor:
    """1 where the hull does not occlude a point in a view, falling to 0 three cells behind its surface: (B, V, N).

    A depth buffer of the hull's cells, its pixels a little larger than a cell seen from the structured distance.
    """
    pixels = max(1, 3 * side // 4)
    where, depth = _project(cameras, points)
    across, down = ((part * pixels).long().clamp(0, pixels - 1) for part in where)
    index = down * pixels + across
    solid = torch.where(inside[:, None], depth, torch.inf)
    buffer = torch.full((*cameras.shape, pixels * pixels), torch.inf, device=depth.device)
    first = buffer.scatter_reduce(-1, index, solid, "amin").gather(-1, index)
    behind = (depth - first) * (side / 2)  # in cells; -inf where the pixel is empty
    return (2 - behind / 1.5).clamp(0, 1)


def _project(cameras: Cameras, points: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """`Cameras.project` of points (N, 3) by the same operations on rows: two coordinates and depth, each (B, V, N)."""
    x, y, z = (points.T - cameras.positions[..., None]).unbind(-2)
    turn, lens = cameras.cam_to_world[..., :3, :3].mT[..., None], cameras.intrinsics[..., None]
    right, down, depth = (x * turn[..., k, 0, :] + y * turn[..., k, 1, :] + z * turn[..., k, 2, :] for k in range(3))
    safe = torch.where(depth.abs() < 1e-9, 1e-9, depth)
    return (lens[..., 0, :] * right / safe + lens[..., 2, :], lens[..., 1, :] * down / safe + lens[..., 3, :]), depth


def extents(volume: Tensor, plane: int) -> Tensor:
    """Extent of the hull along the axis across a plane, and its colour at both ends.

    Ends lie in [-1, 1], interpolated where occupancy passes 1/2; in an empty column the upper end is -1 and the lower
    1, so that no point is between them.

    Args:
        volume: Grid of `carve_grid`, (B, 5, z, y, x).
        plane: Index of the plane, xy, xz or yz.

    Returns:
        (B, 11, side, side): upper end, negative lower end, greatest occupancy, colour at the upper end (3), at the
        lower (3), and the cell's own two coordinates.
    """
    columns = _columns(volume, plane)
    upper, upper_rgb = _end(columns)
    lower, lower_rgb = _end(columns.flip(-1))
    side = columns.shape[-1]
    line = (torch.arange(side, device=volume.device) + 0.5) * (2 / side) - 1
    own = [line.expand(len(volume), side, side), line[:, None].expand(len(volume), side, side)]
    single = [upper, -lower, columns[:, 0].amax(-1)]
    return torch.cat([torch.stack(single, 1), upper_rgb, lower_rgb, torch.stack(own, 1)], dim=1)


def end_points(ends: Tensor, plane: int) -> Tensor:
    """World coordinates (B, 2, H, W, 3) of the upper and lower ends of the columns of a plane.

    Args:
        ends: Extents (B, 11, H, W) of the plane.
        plane: Index of the plane, xy, xz or yz.
    """
    across, down = PLANE_AXES[plane]
    (along,) = {0, 1, 2} - {across, down}
    points = ends.new_empty(len(ends), 2, *ends.shape[-2:], 3)
    points[..., along] = ends[:, :2]
    points[..., across], points[..., down] = ends[:, None, -2], ends[:, None, -1]
    return points


def _columns(volume: Tensor, plane: int) -> Tensor:
    """Columns of a grid (B, C, z, y, x) across a plane: (B, C, height, width, side)."""
    across, down = PLANE_AXES[plane]
    (along,) = {0, 1, 2} - {across, down}
    return volume.permute(0, 1, 4 - down, 4 - across, 4 - along)  # axis a of the world is dimension 4 - a


def _end(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Position (B, H, W) and colour (B, 3, H, W) of the last occupied cell of columns (B, 5, H, W, side)."""
    occupancy = F.pad(columns[:, 0], (0, 1))
    side = columns.shape[-1]
    inside = occupancy > 0.5
    last = torch.where(inside.any(-1), side - inside.flip(-1).int().argmax(-1), 0)  # 0..side; 0: empty
    here = (last - 1).clamp(min=0)[..., None]
    value, following = occupancy.gather(-1, here)[..., 0], occupancy.gather(-1, here + 1)[..., 0]
    part = (value - 0.5) / (value - following).clamp(min=1e-6)
    end = torch.where(last > 0, (here[..., 0] + 0.5 + part.clamp(0, 1)) * (2 / side) - 1, -1.0)
    rgb = columns[:, 1:4].gather(-1, here[:, None].expand(-1, 3, -1, -1, -1))[..., 0]
    return end, rgb / value.clamp(min=1e-6)[:, None] * (last > 0)[:, None]


def _profiles(volume: Tensor, plane: int) -> Tensor:
    """Columns of a grid (B, C, z, y, x) across a plane, all in one: (B, height, width, C * side)."""
    return _columns(volume, plane).movedim(1, 3).flatten(3)


def _zero_layer(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class AxisProfiles(nn.Module):
    """Visual hull along each plane's third axis: learned features of every column, and the hull's extents.

    Features (B, 3, width, side, side) are computed from the whole column; extents (B, 3, 11, side, side) need no
    training, and a decoder of a few units can read the hull from them.

    The layers that add image features begin at zero (ControlNet, arXiv 2302.05543, section 3.1), so that a trained
    network can be given them.

    Args:
        width: Channels of the features.
        side: Cells along each axis of the grid.
        lifted: Channels of image features that are lifted to the cells; see `Architecture.lift_features`.
        surface: Channels of image features at both ends of the columns; see `Architecture.surface_features`.
    """

    def __init__(self, width: int, side: int, lifted: int = 0, surface: int = 0) -> None:
        super().__init__()
        self.side = side
        self.profile = nn.ModuleList(nn.Linear(PROFILE_CHANNELS * side, width) for _ in PLANE_AXES)
        self.lifted = ViewFeatures(lifted) if lifted else None
        self.from_lifted = nn.ModuleList(_zero_layer(2 * lifted * side, width) for _ in PLANE_AXES) if lifted else None
        self.surface = ViewFeatures(surface) if surface else None
        self.from_surface = _zero_layer(4 * surface, width) if surface else None

    def forward(self, views: Views, grid: CarvedGrid) -> tuple[Tensor, Tensor]:
        """Features and extents of views (B, V) and their visual hull."""
        planes = [layer(_profiles(grid.volume, plane)) for plane, layer in enumerate(self.profile)]
        if self.from_lifted is not None:
            lifted = self._lift(views, grid)
            planes = [
                profile + layer(_profiles(lifted, plane))
                for plane, (profile, layer) in enumerate(zip(planes, self.from_lifted, strict=True))
            ]
        features = F.gelu(torch.stack(planes, dim=1))
        ends = torch.stack([extents(grid.volume, plane) for plane in range(3)], dim=1)
        if self.from_surface is not None:
            features = features + self.from_surface(self._at_ends(views, grid, ends).movedim(2, -1))
        return features.movedim(-1, 2), ends

    def _lift(self, views: Views, grid: CarvedGrid) -> Tensor:
        """Mean and variance of image features in the cells of the hull, (B, 2 * lifted, z, y, x)."""
        assert self.lifted is not None
        points = grid.points.expand(len(views.rgb), -1, -1)
        found = mean_and_variance(self.lifted.sample(views, points), grid.weight).transpose(1, 2)
        return found.unflatten(-1, (self.side,) * 3) * grid.volume[:, :1]

    def _at_ends(self, views: Views, grid: CarvedGrid, ends: Tensor) -> Tensor:
        """Mean and variance of image features at the ends of the columns, (B, 3, 4 * surface, side, side)."""
        assert self.surface is not None
        points = torch.stack([end_points(ends[:, plane], plane) for plane in range(3)], dim=1)  # (B, 3, 2, H, W, 3)
        flat = points.flatten(1, 4)
        weight = sample_weights(grid.weight_volume, flat)
        found = mean_and_variance(self.surface.sample(views, flat), weight).unflatten(1, points.shape[1:5])
        found = found.movedim(-1, 3).flatten(2, 3)  # (B, 3, 2 ends * channels, H, W)
        return found * (ends[:, :, :1] > ends[:, :, 1:2])
