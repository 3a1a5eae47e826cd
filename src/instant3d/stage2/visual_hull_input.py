"""Visual hull of the input views as an additional input, for networks too small to learn multi-view geometry.

Not in the paper, whose network learns multi-view geometry from 750,000 objects. A grid of points is projected into the
views; what all silhouettes agree on (the visual hull) and the colour of the views that face its surface are written to
the three planes as profiles along the third axis. A network trained for minutes starts from there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.nerf.plane_sampling import PLANE_AXES
from instant3d.nerf.visual_hull import sample_views
from instant3d.stage2.architecture import EXTENT_CHANNELS
from instant3d.views import Views

PROFILE_CHANNELS = 5  # occupancy, facing colour, disagreement of the views


@torch.no_grad()
def carve_grid(views: Views, side: int) -> Tensor:
    """Occupancy, colour and colour variance of the visual hull on a grid of cell centres.

    Occupancy is the smallest alpha over the views; a point outside an image is outside the object. Colours are those of
    the views, weighted by how squarely they face the hull's surface there and whether the hull occludes it.

    Args:
        views: (B, V).
        side: Cells along each axis of the cube [-1, 1]^3.

    Returns:
        (B, 5, z, y, x): occupancy, and multiplied by it colour (3) and the standard deviation of colour over the views.
    """
    line = (torch.arange(side, device=views.rgb.device) + 0.5) * (2 / side) - 1
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij")[::-1], dim=-1).reshape(-1, 3)  # x fastest
    coarse = 4 * side // 3  # pixels about as large as cells: a blurred edge locates the surface within a cell
    if coarse < views.height:
        views = views.resized(coarse, coarse)
    colours = sample_views(views, points.expand(len(views.rgb), -1, -1))  # (B, V, N, 4), premultiplied
    occupancy = colours[..., 3].amin(1)
    inside = occupancy > 0.5
    weight = _facing(occupancy, points, views.cameras.positions, side) * colours[..., 3]
    weight = weight * _visible(inside, points, views.cameras, side) + 1e-4
    weight = weight / weight.sum(1, keepdim=True)
    mean = (weight[..., None] * colours[..., :3]).sum(1)
    spread = (weight[..., None] * (colours[..., :3] - mean[:, None]) ** 2).sum((1, -1)).sqrt()
    volume = torch.cat([occupancy[..., None], torch.cat([mean, spread[..., None]], -1) * occupancy[..., None]], dim=-1)
    return volume.transpose(1, 2).unflatten(-1, (side, side, side))


def _facing(occupancy: Tensor, points: Tensor, cameras: Tensor, side: int) -> Tensor:
    """Squared cosine between each camera (B, V, 3) and the hull's normal near each point, 0 from behind: (B, V, N)."""
    volume = F.avg_pool3d(occupancy.unflatten(-1, (1, side, side, side)), 5, stride=1, padding=2)
    slopes = [torch.gradient(volume[:, 0], dim=3 - axis)[0].flatten(1) for axis in range(3)]
    outward = -F.normalize(torch.stack(slopes, dim=-1), dim=-1)  # (B, N, 3)
    facing = [(outward * F.normalize(position[:, None] - points, dim=-1)).sum(-1) for position in cameras.unbind(1)]
    return torch.stack(facing, dim=1).clamp(min=0).square()


def _visible(inside: Tensor, points: Tensor, cameras: Cameras, side: int) -> Tensor:
    """1 where the hull does not occlude a point in a view, falling to 0 three cells behind its surface: (B, V, N).

    A depth buffer of the hull's cells, its pixels a little larger than a cell seen from the structured distance.
    """
    pixels = max(1, 3 * side // 4)
    where, depth = cameras.project(points.expand(*cameras.shape, -1, 3))
    pixel = (where * pixels).long().clamp(0, pixels - 1)
    index = pixel[..., 1] * pixels + pixel[..., 0]
    solid = torch.where(inside[:, None], depth, torch.inf)
    buffer = torch.full((*cameras.shape, pixels * pixels), torch.inf, device=depth.device)
    first = buffer.scatter_reduce(-1, index, solid, "amin").gather(-1, index)
    behind = (depth - first) * (side / 2)  # in cells; -inf where the pixel is empty
    return (2 - behind / 1.5).clamp(0, 1)


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


def _columns(volume: Tensor, plane: int) -> Tensor:
    """Columns of a grid (B, 5, z, y, x) across a plane: (B, 5, height, width, side)."""
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


class AxisProfiles(nn.Module):
    """Visual hull along each plane's third axis: learned features of every column, and the hull's extents.

    Features (B, 3, width, side, side) are computed from the whole column; extents (B, 3, 11, side, side) need no
    training, and a decoder of a few units can read the hull from them.

    Args:
        width: Channels of the features.
        side: Cells along each axis of the grid.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.profile = nn.ModuleList(nn.Linear(PROFILE_CHANNELS * side, width) for _ in PLANE_AXES)

    def forward(self, views: Views) -> tuple[Tensor, Tensor]:
        """Features and extents of views (B, V)."""
        volume = carve_grid(views, self.side)
        planes = []
        for plane, layer in enumerate(self.profile):
            profiles = _columns(volume, plane).movedim(1, 3).flatten(3)  # (B, height, width, 5 * side)
            planes.append(F.gelu(layer(profiles)))
        features = torch.stack(planes, dim=1).movedim(-1, 2)
        return features, torch.stack([extents(volume, plane) for plane in range(3)], dim=1)


class PlaneUNet(nn.Module):
    """Convolutional U-Net around the transformer: from the hull's profiles down to tokens, from tokens up to planes.

    The three planes share all weights. Two halvings lie between the grid's side and the tokens'; finer detail takes the
    skip connections around the transformer. At initialisation the planes hold the hull's extents and nothing else.

    Args:
        width: Channels at full resolution.
        side: Cells along each axis of the grid, and side of the planes.
        token_width: Channels of the transformer's tokens.
        channels: Channels of the planes.
    """

    def __init__(self, width: int, side: int, token_width: int, channels: int) -> None:
        super().__init__()
        middle, deep = width + width // 2, 2 * width
        self.read = AxisProfiles(width, side)
        self.enter = ResidualBlock(width + EXTENT_CHANNELS, width)
        self.down = nn.ModuleList([ResidualBlock(width, middle, 2), ResidualBlock(middle, deep, 2)])
        self.to_tokens = nn.Linear(deep, token_width)
        self.from_tokens = nn.Linear(token_width, deep)
        self.up = nn.ModuleList([ResidualBlock(2 * deep + middle, middle), ResidualBlock(middle + width, width)])
        self.to_planes = nn.Conv2d(width, channels, 3, padding=1)
        self.channels = channels
        nn.init.zeros_(self.to_planes.weight)

    def encode(self, views: Views) -> tuple[Tensor, list[Tensor]]:
        """Tokens of views and the skip connections of `decode`.

        Args:
            views: (B, V).

        Returns:
            Tokens (B, 3 * n * n, token width), and maps (B * 3, channels, h, w) from fine to coarse.
        """
        features, ends = (part.float().flatten(0, 1) for part in self.read(views))
        maps = [ends, self.enter(torch.cat([features, ends], dim=1))]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        tokens = self.to_tokens(maps[-1].flatten(2).transpose(1, 2))
        return tokens.unflatten(0, (-1, 3)).flatten(1, 2), maps

    def decode(self, tokens: Tensor, maps: list[Tensor]) -> Tensor:
        """Tokens and the maps of `encode` -> planes (B * 3, channels, side, side)."""
        ends, fine, middle, deep = maps
        upsampled = self.from_tokens(tokens).unflatten(1, (3, *deep.shape[-2:])).flatten(0, 1).movedim(-1, 1)
        upsampled = torch.cat([upsampled, deep], dim=1)
        for layer, skip in zip(self.up, (middle, fine), strict=True):
            upsampled = F.interpolate(upsampled.float(), scale_factor=2, mode="nearest")
            upsampled = layer(torch.cat([upsampled, skip.float()], dim=1))
        return self.to_planes(upsampled) + F.pad(ends, (0, 0, 0, 0, 0, self.channels - EXTENT_CHANNELS))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group norm, and a 1 x 1 convolution as skip connection.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output, a multiple of 8.
        stride: Of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return F.gelu(self.skip(x) + self.second(F.gelu(self.norm(self.first(x)))))
