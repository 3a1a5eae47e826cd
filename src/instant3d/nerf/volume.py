"""From densities along rays to pixels. Knows nothing of triplanes: any `Field` will do.

Opacity is exact for a density that is constant within each interval, whatever the number of samples: intervals tile
the ray's way through the cube from entry to exit, and their lengths are world lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from instant3d.cameras import Cameras, Rays
from instant3d.nerf.field import Field, normals
from instant3d.utils.random_numbers import rand_like
from instant3d.utils.tensor_dataclass import Batch
from instant3d.views import Views

BYTES_PER_POINT = 4 * 64 * 8  # a 64-wide float32 decoder keeps about eight such rows of each point while it runs


@dataclass(frozen=True)
class Pixels(Batch):
    """What rays saw: colour premultiplied by alpha, and the mean distance of what they hit (0 where nothing)."""

    rgb: Tensor  # (..., 3)
    alpha: Tensor  # (...)
    distance: Tensor  # (...)
    normal: Tensor | None = None  # (..., 3), premultiplied by alpha


def box_span(rays: Rays, half_side: float = 1.0) -> tuple[Tensor, Tensor]:
    """Distances (...) at which rays enter and leave the cube [-half_side, half_side]^3; equal where they miss it.

    The slab method (Kay and Kajiya 1986); a camera inside the cube enters at 0.
    """
    tiny = torch.finfo(rays.directions.dtype).tiny
    inverse = 1 / torch.where(rays.directions.abs() < tiny, torch.full_like(rays.directions, 1e-12), rays.directions)
    first, second = (-half_side - rays.origins) * inverse, (half_side - rays.origins) * inverse
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).amin(-1)
    return near, torch.maximum(near, far)


def weights(density: Tensor, edges: Tensor) -> Tensor:
    """Share of the light at the camera that each interval sends (Max 1995, eq. 9): (..., S) for edges (..., S + 1)."""
    thickness = density * edges.diff(dim=-1)
    light = torch.exp(thickness - thickness.cumsum(-1))  # what the samples in front let through
    return light * -torch.expm1(-thickness)


def composite(density: Tensor, rgb: Tensor, edges: Tensor, normal: Tensor | None = None) -> Pixels:
    """Blend samples front to back.

    density  (..., S)      per world unit, >= 0
    rgb      (..., S, 3)   in [0, 1]
    edges    (..., S + 1)  distance from the camera at which samples begin and end
    """
    weight = weights(density, edges)
    alpha = weight.sum(-1)
    middle = (edges[..., 1:] + edges[..., :-1]) / 2
    distance = (weight * middle).sum(-1) / alpha.clamp(min=1e-6)
    mixed = None if normal is None else (weight[..., None] * normal).sum(-2)
    return Pixels((weight[..., None] * rgb).sum(-2), alpha, distance, mixed)


def even_edges(near: Tensor, far: Tensor, samples: int) -> Tensor:
    """`samples` intervals of equal length between near and far (...): (..., samples + 1)."""
    fraction = torch.linspace(0, 1, samples + 1, device=near.device, dtype=near.dtype)
    return near[..., None] + (far - near)[..., None] * fraction


def importance_edges(
    edges: Tensor, weight: Tensor, samples: int, generator: torch.Generator | None = None, even_share: float = 0.2
) -> Tensor:
    """Split the same span (..., S + 1) again into `samples` intervals of equal expected weight (NeRF, section 5.2).

    Weights (..., S) are first spread to their neighbours, for a coarse interval may miss the surface by one, and
    `even_share` of all intervals is spread evenly, so that nothing goes unseen. With a generator the cuts are moved
    at random within their share; without one they are always the same.
    """
    padded = torch.nn.functional.pad(weight, (1, 1))
    spread = torch.maximum(torch.maximum(padded[..., :-2], padded[..., 2:]), weight)
    total = spread.sum(-1, keepdim=True)
    share = spread / total.clamp(min=1e-6)
    mix = even_share + (1 - even_share) * (total < 1e-6)
    chance = (1 - mix) * share + mix / weight.shape[-1]
    cumulative = torch.cat([torch.zeros_like(chance[..., :1]), chance.cumsum(-1)], dim=-1)
    cumulative = cumulative / cumulative[..., -1:]
    cut = torch.arange(1, samples, device=edges.device, dtype=edges.dtype).expand(*edges.shape[:-1], -1)
    if generator is not None:
        cut = cut + rand_like(cut, generator) - 0.5
    cut = (cut / samples).contiguous()
    upper = torch.searchsorted(cumulative.contiguous(), cut, right=True).clamp(1, weight.shape[-1])
    low, high = cumulative.gather(-1, upper - 1), cumulative.gather(-1, upper)
    part = ((cut - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    start, end = edges.gather(-1, upper - 1), edges.gather(-1, upper)
    return torch.cat([edges[..., :1], start + part * (end - start), edges[..., -1:]], dim=-1)


def march(
    field: Field,
    rays: Rays,
    *,
    samples: int,
    importance: int = 0,
    generator: torch.Generator | None = None,
    with_normals: bool = False,
) -> Pixels:
    """What rays (..., R) see of a field.

    samples     intervals of equal length on each ray's way through the cube
    importance  if positive, density at those (without gradient) decides where this many new intervals are cut, and
                only these are blended
    generator   moves samples within their intervals; without one, they sit in the middle
    """
    near, far = box_span(rays)
    edges = even_edges(near, far, samples)
    if importance:
        with torch.no_grad():
            density = field.density(_points(rays, _inside(edges, generator)))
            edges = importance_edges(
                edges, weights(density.unflatten(-1, edges[..., 1:].shape[-2:]), edges), importance, generator
            )
    points = _points(rays, _inside(edges, generator))
    density, rgb = field(points)
    shape = edges[..., 1:].shape[-2:]
    normal = normals(field, points).unflatten(-2, shape) if with_normals else None
    return composite(density.unflatten(-1, shape), rgb.unflatten(-2, shape), edges, normal)


def _inside(edges: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return (edges[..., 1:] + edges[..., :-1]) / 2
    length = edges.diff(dim=-1)
    return edges[..., :-1] + rand_like(length, generator) * length


def _points(rays: Rays, distance: Tensor) -> Tensor:
    return rays.at(distance).flatten(-3, -2)  # (..., R * S, 3)


def render(
    field: Field,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    samples: int = 128,
    importance: int = 128,
    generator: torch.Generator | None = None,
    with_normals: bool = False,
    max_memory: int = 2**30,
    checkpointing: bool = False,
) -> Views:
    """Pictures (..., V, 3, height, width) of fields (...) by cameras (..., V); differentiable.

    max_memory     bytes that one chunk of rays may take; more chunks, the same picture (without a generator)
    checkpointing  recompute each chunk in the backward pass instead of keeping it: memory of one chunk, 4/3 the time
    """
    rays = cameras.rays(height, width)
    flat = Rays(rays.origins.flatten(-4, -2), rays.directions.flatten(-4, -2))  # (..., V * H * W, 3)
    objects = max(1, flat.origins[..., 0, 0].numel())
    count = max(1, max_memory // (BYTES_PER_POINT * objects * max(samples, importance)))

    def piece(origins: Tensor, directions: Tensor, state: Tensor | None = None) -> Pixels:
        if generator is not None and state is not None:
            generator.set_state(state)  # recomputed, the same numbers are drawn again
        return march(
            field,
            Rays(origins, directions),
            samples=samples,
            importance=importance,
            generator=generator,
            with_normals=with_normals,
        )

    chunks = zip(flat.origins.split(count, dim=-2), flat.directions.split(count, dim=-2), strict=True)
    if checkpointing and torch.is_grad_enabled():
        pieces = [
            checkpoint(piece, *chunk, generator.get_state() if generator else None, use_reentrant=False)
            for chunk in chunks
        ]
    else:
        pieces = [piece(*chunk) for chunk in chunks]
    return to_views(join(pieces), cameras, rays.directions, height, width)


def join(pieces: list[Pixels]) -> Pixels:
    """Chunks of rays (..., R_i) as one (..., R)."""
    lead = pieces[0].alpha.dim() - 1
    normal = [piece.normal for piece in pieces if piece.normal is not None]
    return Pixels(
        torch.cat([piece.rgb for piece in pieces], dim=lead),
        torch.cat([piece.alpha for piece in pieces], dim=lead),
        torch.cat([piece.distance for piece in pieces], dim=lead),
        torch.cat(normal, dim=lead) if normal else None,
    )


def to_views(pixels: Pixels, cameras: Cameras, directions: Tensor, height: int, width: int) -> Views:
    """Rays' pixels (..., V * H * W) as pictures; distance along the ray becomes camera-z depth."""
    size = (cameras.shape[-1], height, width)
    rgb = pixels.rgb.unflatten(-2, size).movedim(-1, -3)
    alpha = pixels.alpha.unflatten(-1, size)[..., None, :, :]
    forward = cameras.cam_to_world[..., None, None, :3, 2]
    depth = pixels.distance.unflatten(-1, size) * (directions * forward).sum(-1)
    normal = None
    if pixels.normal is not None:
        normal = torch.nn.functional.normalize(pixels.normal, dim=-1).unflatten(-2, size).movedim(-1, -3)
    return Views(rgb / alpha.clamp(min=1e-5), alpha, cameras, depth[..., None, :, :], normal)
