"""Differentiable volume rendering of fields.

Intervals tile a ray's way through the cube from entry to exit, and their lengths are world lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from instant3d.cameras import Cameras, Rays
from instant3d.nerf.compositing import Pixels, composite, join, rendering_weights, to_views
from instant3d.nerf.field import Field, normals
from instant3d.nerf.ray_sampling import box_span, even_edges, importance_edges
from instant3d.utils.random_numbers import rand_like
from instant3d.views import Views

if TYPE_CHECKING:
    from instant3d.nerf.fused import Fused

BYTES_PER_POINT = 4 * 64 * 8  # a 64-wide float32 decoder keeps about eight such rows per point
FUSED_BYTES_PER_POINT = 4 * 16  # edges and distances, and their temporaries


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
