"""Plain rendering and meshing of a triplane as in the papers: the baseline for `instant3d.nerf`.

Written to be read and to be correct, without waste: one `grid_sample` call for the three planes, the 3 C features of
every point concatenated and sent through the whole MLP in float32, in chunks that fit the cache hierarchy, without
gradients. Two samplings of every ray (64 even, 64 by importance, all 128 blended; none evaluated twice), and a dense
grid of densities for marching cubes. Shares only cameras, weights and result types with the package.
"""

from __future__ import annotations

import numpy as np
import torch
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.mesh import Mesh
from instant3d.nerf.triplane import Decoder, Triplane
from instant3d.views import Views

POINTS_AT_ONCE = 2**14


class TextbookField:
    """Density and colour at points (N, 3) of one object."""

    def __init__(self, triplane: Triplane, decoder: Decoder) -> None:
        self.planes, self.decoder = triplane.planes, decoder  # (3, C, P, P)

    def features(self, points: Tensor) -> Tensor:
        """Concatenated samples of the planes xy, xz, yz: (N, 3 C); their mean, (N, C), where the decoder wants that."""
        x, y, z = points.unbind(-1)
        where = torch.stack([torch.stack([x, y], -1), torch.stack([x, z], -1), torch.stack([y, z], -1)])
        sampled = F.grid_sample(self.planes, where[:, None], align_corners=False)  # (3, C, 1, N)
        if self.decoder.config.aggregate == "mean":
            return sampled[:, :, 0].mean(0).T
        return sampled[:, :, 0].permute(2, 0, 1).flatten(1)

    def raw(self, points: Tensor) -> Tensor:
        """The MLP's four outputs, (N, 4)."""
        state = self.features(points)
        for layer in (self.decoder.first, *self.decoder.hidden):
            state = self.decoder.activation(layer(state))
        return self.decoder.last(state)

    def density(self, points: Tensor) -> Tensor:
        return self.decoder.to_density(self.raw(points)[:, 0], points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.raw(points)
        return self.decoder.to_density(raw[:, 0], points), self.decoder.to_rgb(raw[:, 1:])


@torch.no_grad()
def render(field: TextbookField, cameras: Cameras, height: int, width: int, coarse: int = 64, fine: int = 64) -> Views:
    """Images (V, 3, height, width) by NeRF's two samplings (Mildenhall et al. 2020, section 5.2)."""
    rays = cameras.rays(height, width)
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    at_once = max(1, POINTS_AT_ONCE // coarse)
    pieces = [
        _render_rays(field, o, d, coarse, fine)
        for o, d in zip(origins.split(at_once), directions.split(at_once), strict=True)
    ]
    rgb, alpha, distance = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    shape = (len(cameras.intrinsics), height, width)
    z = (rays.directions * cameras.cam_to_world[:, None, None, :3, 2]).sum(-1)
    alpha = alpha.reshape(shape)[:, None]
    rgb = rgb.reshape(*shape, 3).movedim(-1, 1) / alpha.clamp(min=1e-5)
    return Views(rgb, alpha, cameras, (distance.reshape(shape) * z)[:, None])


def _render_rays(
    field: TextbookField, origins: Tensor, directions: Tensor, coarse: int, fine: int
) -> tuple[Tensor, Tensor, Tensor]:
    near, far = _box(origins, directions)
    step = ((far - near) / coarse)[:, None]
    first = near[:, None] + step * (torch.arange(coarse) + 0.5)
    density, rgb = _evaluate(field, origins, directions, first)
    if fine:
        second = _by_importance(_blend(density, first, near, far), near, step, fine)
        more_density, more_rgb = _evaluate(field, origins, directions, second)
        first, order = torch.cat([first, second], -1).sort(-1)
        density = torch.cat([density, more_density], -1).gather(-1, order)
        rgb = torch.cat([rgb, more_rgb], 1).gather(1, order[..., None].expand(-1, -1, 3))
    weight = _blend(density, first, near, far)
    alpha = weight.sum(-1)
    return (weight[..., None] * rgb).sum(1), alpha, (weight * first).sum(-1) / alpha.clamp(min=1e-6)


def _box(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    one, other = (-1 - origins) / directions, (1 - origins) / directions
    near = torch.minimum(one, other).amax(-1).clamp(min=0)
    return near, torch.maximum(near, torch.maximum(one, other).amin(-1))


def _evaluate(field: TextbookField, origins: Tensor, directions: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    points = origins[:, None] + directions[:, None] * distance[..., None]
    density, rgb = field(points.flatten(0, 1))
    return density.reshape(distance.shape), rgb.reshape(*distance.shape, 3)


def _blend(density: Tensor, distance: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Weights (R, S); each sample stands for the ray half-way to its neighbours, the outermost up to the box."""
    middle = (distance[:, 1:] + distance[:, :-1]) / 2
    length = torch.cat([near[:, None], middle, far[:, None]], -1).diff(dim=-1)
    alpha = 1 - torch.exp(-density * length)
    light = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]], -1), -1)
    return alpha * light


def _by_importance(weight: Tensor, near: Tensor, step: Tensor, count: int) -> Tensor:
    """Distances (R, count) at the middles of equal shares of the weights' distribution, without chance."""
    cumulative = torch.cumsum((weight + 1e-5) / (weight + 1e-5).sum(-1, keepdim=True), -1)
    cumulative = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative], -1)
    share = ((torch.arange(count) + 0.5) / count).expand(len(weight), -1).contiguous()
    upper = torch.searchsorted(cumulative, share, right=True).clamp(1, weight.shape[-1])
    low, high = cumulative.gather(-1, upper - 1), cumulative.gather(-1, upper)
    return near[:, None] + step * (upper - 1 + (share - low) / (high - low).clamp(min=1e-9))


@torch.no_grad()
def extract(field: TextbookField, resolution: int, threshold: float) -> Mesh:
    """Density at resolution^3 points, marching cubes, colours at the vertices."""
    axis = torch.linspace(-1, 1, resolution)
    density = []
    for x in axis.split(max(1, POINTS_AT_ONCE // resolution**2)):
        points = torch.stack(torch.meshgrid(x, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        density += [field.density(some) for some in points.split(POINTS_AT_ONCE)]
    vertices, faces, _, _ = marching_cubes(
        torch.cat(density).reshape((resolution,) * 3).numpy(), threshold, gradient_direction="ascent"
    )
    vertices = (vertices * (2 / (resolution - 1)) - 1).astype(np.float32)
    colors = torch.cat([field(some)[1] for some in torch.from_numpy(vertices).split(POINTS_AT_ONCE)])
    return Mesh(vertices, faces, colors=colors.clamp(0, 1).numpy())
