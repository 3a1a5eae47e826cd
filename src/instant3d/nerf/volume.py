"""Differentiable volume rendering: sampling along rays, compositing and importance sampling.

Opacity is exact for a density that is constant within each interval, whatever the number of samples: intervals tile
the ray's way through the cube from entry to exit, and their lengths are world lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from instant3d.cameras import Cameras, Rays
from instant3d.nerf.field import Field, normals
from instant3d.utils.random_numbers import rand_like
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views

if TYPE_CHECKING:
    from instant3d.nerf.fused import Fused

BYTES_PER_POINT = 4 * 64 * 8  # a 64-wide float32 decoder keeps about eight such rows per point
FUSED_BYTES_PER_POINT = 4 * 16  # edges and distances, and their temporaries


@dataclass(frozen=True)
class Pixels(TensorDataclass):
    """Rendered values of rays.

    Attributes:
        rgb: (..., 3), premultiplied by alpha.
        alpha: (...).
        distance: (...), mean distance along the ray of what it hits, 0 if nothing.
        normal: (..., 3), premultiplied by alpha.
    """

    rgb: Tensor
    alpha: Tensor
    distance: Tensor
    normal: Tensor | None = None


def box_span(rays: Rays, half_side: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the distances (...) at which rays enter and leave [-half_side, half_side]^3; equal if they miss it.

    The slab method (Kay and Kajiya 1986); a camera inside the cube enters at 0.
    """
    tiny = torch.finfo(rays.directions.dtype).tiny
    inverse = 1 / torch.where(rays.directions.abs() < tiny, torch.full_like(rays.directions, 1e-12), rays.directions)
    first, second = (-half_side - rays.origins) * inverse, (half_side - rays.origins) * inverse
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).amin(-1)
    return near, torch.maximum(near, far)


def rendering_weights(density: Tensor, edges: Tensor) -> Tensor:
    """Return each interval's share of the light at the camera (Max 1995, eq. 9).

    Args:
        density: (..., S), per world unit, >= 0.
        edges: (..., S + 1), distances from the camera.

    Returns:
        (..., S).
    """
    thickness = density * edges.diff(dim=-1)
    light = torch.exp(thickness - thickness.cumsum(-1))  # transmittance of the samples in front
    return light * -torch.expm1(-thickness)


def composite(density: Tensor, rgb: Tensor, edges: Tensor, normal: Tensor | None = None) -> Pixels:
    """Blend samples front to back.

    Args:
        density: (..., S), per world unit, >= 0.
        rgb: (..., S, 3), in [0, 1].
        edges: (..., S + 1), distances from the camera at which samples begin and end.
        normal: (..., S, 3), if normals are wanted.

    Returns:
        Pixels (...).
    """
    weight = rendering_weights(density, edges)
    alpha = weight.sum(-1)
    middle = (edges[..., 1:] + edges[..., :-1]) / 2
    distance = (weight * middle).sum(-1) / alpha.clamp(min=1e-6)
    mixed = None if normal is None else (weight[..., None] * normal).sum(-2)
    return Pixels((weight[..., None] * rgb).sum(-2), alpha, distance, mixed)


def even_edges(near: Tensor, far: Tensor, samples: int) -> Tensor:
    """Divide spans into intervals of equal length.

    Args:
        near: Where the spans begin, (...).
        far: Where they end, (...).
        samples: Number of intervals.

    Returns:
        Boundaries (..., samples + 1).
    """
    fraction = torch.linspace(0, 1, samples + 1, device=near.device, dtype=near.dtype)
    return near[..., None] + (far - near)[..., None] * fraction


def importance_edges(
    edges: Tensor, weight: Tensor, samples: int, generator: torch.Generator | None = None, even_share: float = 0.2
) -> Tensor:
    """Divide the same span into `samples` intervals of equal expected weight (NeRF, section 5.2).

    Weights are first spread to their neighbours, because a coarse interval may miss the surface by one.

    Args:
        edges: Boundaries of the coarse intervals, (..., S + 1).
        weight: Their rendering weights, (..., S).
        samples: Number of new intervals.
        generator: Moves the boundaries at random within their share; without one they are deterministic.
        even_share: Share of the intervals that is spread evenly, so that nothing is missed.

    Returns:
        (..., samples + 1).
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
    """Render rays.

    Args:
        field: The field.
        rays: (..., R).
        samples: Number of intervals of equal length on each ray's way through the cube.
        importance: If positive, the density of those (without gradient) determines where this many new intervals lie,
            and only these are blended.
        generator: Moves samples within their intervals; without one, they lie at the centre.
        with_normals: Also render normals.

    Returns:
        Pixels (..., R).
    """
    edges = even_edges(*box_span(rays), samples)
    if importance:
        with torch.no_grad():
            weight = interval_weights(field, rays, edges, _inside(edges, generator))
            edges = importance_edges(edges, weight, importance, generator)
    return blended(field, rays, edges, _inside(edges, generator), with_normals)


def interval_weights(field: Field, rays: Rays, edges: Tensor, at: Tensor) -> Tensor:
    """Return the rendering weights of the intervals of rays.

    Args:
        field: The field; its fused kernels are used if possible, without gradient.
        rays: (..., R).
        edges: Distances at which intervals begin and end, (..., R, S + 1).
        at: Distances at which density is sampled, one in each interval, (..., R, S).

    Returns:
        (..., R, S).
    """
    fused = _fused(field, "weights", rays, at.shape[-1])
    if fused is not None:
        return fused.weights(rays, edges, at)
    return rendering_weights(field.density(_points(rays, at)).unflatten(-1, at.shape[-2:]), edges)


def blended(field: Field, rays: Rays, edges: Tensor, at: Tensor, with_normals: bool = False) -> Pixels:
    """Render rays from given samples.

    Args:
        field: The field; its fused kernels are used if possible and no normals are wanted.
        rays: (..., R).
        edges: Distances at which intervals begin and end, (..., R, S + 1).
        at: Distances of the samples, one in each interval, (..., R, S).
        with_normals: Also render normals.

    Returns:
        Pixels (..., R).
    """
    fused = None if with_normals else _fused(field, "pixels", rays, at.shape[-1])
    if fused is not None:
        return Pixels(*fused.pixels(rays, edges, at))
    points, shape = _points(rays, at), at.shape[-2:]
    density, rgb = field(points)
    normal = normals(field, points).unflatten(-2, shape) if with_normals else None
    return composite(density.unflatten(-1, shape), rgb.unflatten(-2, shape), edges, normal)


def _fused(field: Field, mode: Literal["pixels", "weights"], rays: Rays, samples: int) -> Fused | None:
    """Return the fused kernels of a field if they can be used for this call."""
    fused: Fused | None = getattr(field, "fused", None)
    return fused if fused and fused.takes(mode, samples, rays.origins, rays.directions) else None


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
    """Render images of fields; differentiable.

    Args:
        field: Fields (...).
        cameras: (..., V).
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        samples: See `march`.
        importance: See `march`.
        generator: See `march`.
        with_normals: Also render normals.
        max_memory: Bytes that one chunk of rays may take; without a generator it does not change the result.
        checkpointing: Recompute each chunk in the backward pass instead of keeping it: memory of one chunk, 4/3 the
            time; the fused kernels always do so.

    Returns:
        Views (..., V) with images (..., V, 3, height, width).
    """
    rays = cameras.rays(height, width)
    flat = Rays(rays.origins.flatten(-4, -2), rays.directions.flatten(-4, -2))  # (..., V * H * W, 3)
    objects = max(1, flat.origins[..., 0, 0].numel())
    fused = None if with_normals else _fused(field, "pixels", flat, importance or samples)
    size = FUSED_BYTES_PER_POINT if fused else BYTES_PER_POINT
    count = max(1, max_memory // (size * objects * max(samples, importance)))

    def piece(origins: Tensor, directions: Tensor, state: Tensor | None = None) -> Pixels:
        if generator is not None and state is not None:
            generator.set_state(state)  # so that a recomputation draws the same numbers
        return march(
            field,
            Rays(origins, directions),
            samples=samples,
            importance=importance,
            generator=generator,
            with_normals=with_normals,
        )

    chunks = zip(flat.origins.split(count, dim=-2), flat.directions.split(count, dim=-2), strict=True)
    if checkpointing and torch.is_grad_enabled() and not fused:
        pieces = [
            checkpoint(piece, *chunk, generator.get_state() if generator else None, use_reentrant=False)
            for chunk in chunks
        ]
    else:
        pieces = [piece(*chunk) for chunk in chunks]
    return to_views(join(pieces), cameras, rays.directions, height, width)


def join(pieces: list[Pixels]) -> Pixels:
    """Concatenate chunks of rays (..., R_i) to (..., R)."""
    lead = pieces[0].alpha.dim() - 1
    normal = [piece.normal for piece in pieces if piece.normal is not None]
    return Pixels(
        torch.cat([piece.rgb for piece in pieces], dim=lead),
        torch.cat([piece.alpha for piece in pieces], dim=lead),
        torch.cat([piece.distance for piece in pieces], dim=lead),
        torch.cat(normal, dim=lead) if normal else None,
    )


def to_views(pixels: Pixels, cameras: Cameras, directions: Tensor, height: int, width: int) -> Views:
    """Arrange the pixels of rays as images; distance along the ray becomes camera-z depth.

    Args:
        pixels: (..., V * H * W).
        cameras: (..., V).
        directions: Directions of the rays, (..., V, H, W, 3).
        height: H, of the images in pixels.
        width: W, of the images in pixels.

    Returns:
        Views (..., V), with normals if the pixels have them.
    """
    size = (cameras.shape[-1], height, width)
    rgb = pixels.rgb.unflatten(-2, size).movedim(-1, -3)
    alpha = pixels.alpha.unflatten(-1, size)[..., None, :, :]
    forward = cameras.cam_to_world[..., None, None, :3, 2]
    depth = pixels.distance.unflatten(-1, size) * (directions * forward).sum(-1)
    normal = None
    if pixels.normal is not None:
        normal = torch.nn.functional.normalize(pixels.normal, dim=-1).unflatten(-2, size).movedim(-1, -3)
    return Views(rgb / alpha.clamp(min=1e-5), alpha, cameras, depth[..., None, :, :], normal)
