"""Density-field regularisers of score distillation: opacity, entropy, surface orientation.

The paper lists no regulariser and no weight; the released renderer returns orientation and opacity. The terms here are
DreamFusion's (Poole et al. 2022, appendix A.2) as stable-dreamfusion and threestudio write them, each a mean over
pixels or rays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from instant3d.cameras import Rays
from instant3d.nerf.compositing import rendering_weights
from instant3d.nerf.field import Field, finite_difference_normals
from instant3d.nerf.ray_sampling import box_span, even_edges
from instant3d.utils.random_numbers import rand_like


def opacity(alpha: Tensor) -> Tensor:
    """Mean of sqrt(alpha^2 + 0.01) over pixels (...), which favours empty space over haze (DreamFusion, app. A.2)."""
    return (alpha.square() + 0.01).sqrt().mean()


def entropy(alpha: Tensor, edge: float = 1e-5) -> Tensor:
    """Mean binary entropy of alpha (...) in bits: 0 where it is 0 or 1, 1 where it is a half (stable-dreamfusion).

    Args:
        alpha: Opacities of pixels.
        edge: Opacities nearer than this to 0 and 1 have no gradient, which would be infinite there.
    """
    alpha = alpha.clamp(edge, 1 - edge)
    return -(alpha * alpha.log2() + (1 - alpha) * (1 - alpha).log2()).mean()


def orientation(weight: Tensor, normal: Tensor, direction: Tensor) -> Tensor:
    """Mean over rays of sum_i w_i max(0, n_i . d)^2: visible surfaces must face the camera (Ref-NeRF 2022, eq. 11).

    Args:
        weight: Rendering weight of each sample, (..., R, S), in [0, 1]; detached, since the loss could otherwise be
            lowered by hiding surfaces (DreamFusion, appendix A.2).
        normal: Outward unit normals, (..., R, S, 3).
        direction: Unit directions of the rays, away from the camera, (..., R, 3).
    """
    behind = (normal * direction[..., None, :]).sum(-1).clamp(min=0)
    return (weight.detach() * behind.square()).sum(-1).mean()


def field_orientation(field: Field, rays: Rays, samples: int = 32, generator: torch.Generator | None = None) -> Tensor:
    """Orientation loss of a field along rays (..., R), with weights from the density that is rendered.

    The released code uses the raw density, which the blob makes about -10^15 in the corners by 1 - exp(-raw).

    Args:
        field: The field.
        rays: Rays (..., R).
        samples: Samples at even intervals on each ray.
        generator: Moves samples at random within their intervals.
    """
    near, far = box_span(rays)
    edges = even_edges(near, far, samples)
    length = edges.diff(dim=-1)
    part = 0.5 if generator is None else rand_like(length, generator)
    points = rays.at(edges[..., :-1] + part * length).flatten(-3, -2)
    shape = edges[..., 1:].shape[-2:]
    with torch.no_grad():
        weight = rendering_weights(field.density(points).unflatten(-1, shape), edges)
    return orientation(weight, finite_difference_normals(field, points).unflatten(-2, shape), rays.directions)
