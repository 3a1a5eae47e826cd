"""Occupancy-grid volume renderer for inference: empty-space skipping and early ray termination, no gradients.

Each ray alternates between two steps until it leaves the cube or its transmittance is below a thousandth: a skip to the
next occupied cell, and a packet of equally spaced samples from there. Density is read at all samples, colour only at
those that are visible. The result is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instant3d.cameras import Cameras, Rays
from instant3d.nerf.baked_field import BakedField, bake, density_then_color
from instant3d.nerf.compositing import Pixels, join, to_views
from instant3d.nerf.field import Field, normals
from instant3d.nerf.occupancy import Occupancy
from instant3d.nerf.ray_sampling import box_span
from instant3d.views import Views

STEP = 1 / 64  # world units: half a texel of a 64-texel triplane
FAINT_STEP = 1 / 16  # where there is only haze
PACKET = 8  # samples between two look-ups in the occupancy grid
TAIL = 2**15  # samples in one round: where few rays are left, packets are longer, up to eight times
DARK = 1e-3  # transmittance below which a ray ends
UNSEEN = 0.02  # samples of a smaller weight per step keep their opacity, but their colour is not read
BYTES_PER_SAMPLE = 4 * 24  # position, density, colour, interval, weight and the temporaries between them
BYTES_PER_POINT = 4 * 64 * 8  # inside a field that does not work in small pieces by itself
NORMALS_AT_ONCE = 2**15  # normals are found by differentiation, which keeps all intermediate results


@torch.no_grad()
def render(
    field: Field,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    occupancy: Occupancy | None = None,
    step: float = STEP,
    max_memory: int = 2**28,
    with_normals: bool = False,
    exact: bool = False,
) -> Views:
    """Render images of one object's field.

    Args:
        field: The field.
        cameras: (V,).
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        occupancy: Occupancy grid of the field; built if not given, so pass it when there are many calls.
        step: World length that one sample stands for.
        max_memory: Bytes that one chunk of rays may take; it does not change the result.
        with_normals: Also render normals.
        exact: Read the field in float32 even where half precision is faster.

    Returns:
        Views (V,): straight colour and alpha, mean camera-z depth, and mean world normals if requested.

    Raises:
        ValueError: `step` is not positive.
    """
    if step <= 0:
        raise ValueError(f"the step between samples is a length in world units and must be positive, got {step}")
    quick = bake(field, exact=exact)
    occupancy = Occupancy.from_field(quick) if occupancy is None else occupancy
    rays = cameras.rays(height, width)
    per_sample = BYTES_PER_SAMPLE + (0 if isinstance(quick, BakedField) else BYTES_PER_POINT)
    count = max(1, max_memory // (per_sample * PACKET))
    chunks = zip(rays.origins.reshape(-1, 3).split(count), rays.directions.reshape(-1, 3).split(count), strict=True)
    smooth = field if with_normals else None
    pieces = [_march(quick, occupancy, Rays(*chunk), step, smooth) for chunk in chunks]
    return to_views(join(pieces), cameras, rays.directions, height, width)


@dataclass(frozen=True)
class _Bundle:
    """Rays with coordinates first, (3, R), because arithmetic on long rows is faster."""

    origins: Tensor
    directions: Tensor

    def __getitem__(self, index: Tensor) -> _Bundle:
        return _Bundle(self.origins.index_select(1, index), self.directions.index_select(1, index))

    def at(self, distance: Tensor) -> Tensor:
        """Return points (3, ..., R) at distances (..., R)."""
        shape = (3, *[1] * (distance.dim() - 1), -1)
        return self.origins.view(shape) + distance * self.directions.view(shape)


@dataclass(frozen=True)
class _Sums:
    """Accumulated values of rays.

    Attributes:
        light: Transmittance, (R,).
        distance: Weighted sum of distances, (R,).
        rgb: Weighted sum of the colours that were read, (R, 3).
        seen: Sum of their weights, (R,).
        normal: Weighted sum of normals, (R, 3), if requested.
    """

    light: Tensor
    distance: Tensor
    rgb: Tensor
    seen: Tensor
    normal: Tensor | None

    @classmethod
    def start(cls, near: Tensor, with_normals: bool) -> _Sums:
        one, zero, triple = torch.ones_like(near), torch.zeros_like(near), near.new_zeros(len(near), 3)
        return cls(one, zero, triple, zero.clone(), triple.clone() if with_normals else None)

    def pixels(self) -> Pixels:
        alpha = 1 - self.light
        rgb = self.rgb * (alpha / self.seen.clamp(min=1e-9))[:, None]
        return Pixels(rgb, alpha, self.distance / alpha.clamp(min=1e-6), self.normal)


def _march(field: Field, occupancy: Occupancy, rays: Rays, step: float, smooth: Field | None) -> Pixels:
    at, far = _span(occupancy, rays)
    sums = _Sums.start(at, smooth is not None)
    bundle = _Bundle(rays.origins.T.contiguous(), rays.directions.T.contiguous())
    alive = torch.arange(len(at), device=at.device)
    while True:
        alive, at, arrived = _skip_empty(occupancy, bundle, alive, at, far)
        if not len(alive):
            return sums.pixels()
        here = alive[:arrived]
        some = bundle[here]
        edges = _cut(occupancy, some, at[:arrived], far[here], step)
        _blend(field, occupancy, some, here, edges, UNSEEN * step, sums, smooth)
        at = torch.cat([edges[-1], at[arrived:]])
        going = (sums.light[alive] > DARK).nonzero()[:, 0]
        alive, at = alive[going], at[going]


def _span(occupancy: Occupancy, rays: Rays) -> tuple[Tensor, Tensor]:
    """Return the distances (R) at which rays enter and leave the bounding box of occupied cells."""
    low, high = occupancy.box()
    half = ((high - low) / 2).clamp(min=1e-9)
    return box_span(Rays((rays.origins - (high + low) / 2) / half, rays.directions / half))


def _skip_empty(
    occupancy: Occupancy, bundle: _Bundle, alive: Tensor, at: Tensor, far: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Advance rays until at least half of them are in occupied cells; return these first, and their number last.

    Rays that leave the cube are dropped. Not waiting for the slowest rays keeps the work of each step large.
    """
    done: list[tuple[Tensor, Tensor]] = []
    arrived = 0
    while True:
        inside = (at < far[alive]).nonzero()[:, 0]
        alive, at = alive[inside], at[inside]
        if arrived >= len(alive):
            break
        some = bundle[alive]
        way = occupancy.skip_empty(some.at(at), some.directions)
        there, still = (way == 0).nonzero()[:, 0], way.nonzero()[:, 0]
        done.append((alive[there], at[there]))
        arrived += len(there)
        alive, at = alive[still], at[still] + way[still]
    done.append((alive, at))
    return torch.cat([some for some, _ in done]), torch.cat([some for _, some in done]), arrived


def _cut(occupancy: Occupancy, rays: _Bundle, at: Tensor, far: Tensor, step: float) -> Tensor:
    """Return the boundaries of the next intervals of rays, (S + 1, R) distances: long ones up to a dense cell."""
    free = occupancy.skip_to_dense(rays.at(at), rays.directions)
    stride = max(step, FAINT_STEP)
    samples = max(PACKET, min(8 * PACKET, TAIL // len(at)))
    count = torch.arange(samples + 1, device=at.device, dtype=at.dtype)[:, None]
    strides = (free / stride).ceil()
    ahead = torch.where(count < strides, count * stride, free + (count - strides) * step)
    return torch.minimum(at + ahead, far)


def _blend(
    field: Field,
    occupancy: Occupancy,
    rays: _Bundle,
    here: Tensor,
    edges: Tensor,
    unseen: float,
    sums: _Sums,
    smooth: Field | None,
) -> None:
    """Add the contribution of `rays`, with indices `here`, in the intervals between `edges` (S + 1, R) to `sums`."""
    middle, length = (edges[1:] + edges[:-1]) / 2, edges.diff(dim=0)
    density = torch.zeros_like(middle)
    places = rays.at(middle).flatten(1)
    real = ((length.flatten() > 0) & occupancy.is_filled(places)).nonzero()[:, 0]
    points = places.index_select(1, real).T
    density.view(-1)[real], color_at = density_then_color(field, points)
    thickness = density * length
    total = thickness.cumsum(0)
    light = sums.light[here]
    weight = light * torch.exp(thickness - total) * -torch.expm1(-thickness)
    sums.light[here] = light * torch.exp(-total[-1])
    sums.distance[here] += (weight * middle).sum(0)
    share = weight.view(-1)[real]
    visible = (share > unseen).nonzero()[:, 0]
    share, ray = share[visible], here[real[visible] % len(here)]
    sums.seen.index_add_(0, ray, share)
    sums.rgb.index_add_(0, ray, share[:, None] * color_at(visible))
    if smooth is not None and sums.normal is not None:
        slopes = torch.cat([normals(smooth, some) for some in points[visible].split(NORMALS_AT_ONCE)])
        sums.normal.index_add_(0, ray, share[:, None] * slopes)
