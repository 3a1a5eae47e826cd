"""Sampling along rays: their span in the cube, and its division into intervals, equal ones or by importance."""

from __future__ import annotations

import torch
from torch import Tensor

from instant3d.cameras import Rays
from instant3d.utils.random_numbers import rand_like


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
