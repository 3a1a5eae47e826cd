"""Score distillation: the noise predictions of a diffusion model as a gradient on an image.

x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps; the gradient on x0 is w(t) (eps_hat - eps) (Poole et al. 2022, eq. 3),
where eps_hat combines several predictions for one x_t, t and eps: classifier-free guidance, or Perp-Neg (Armandpour et
al. 2023; Instant3D arXiv 2311.08403, equations 3 and 10 to 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from instant3d.direct.guidance.base import Conditions, DiffusionGuidance
from instant3d.utils.random_numbers import generator_kwargs
from instant3d.utils.tensor_dataclass import TensorDataclass

Weight = Literal["dreamfusion", "uniform", "fantasia3d"]

FLOOR = 1e-6  # of |e_pos|^2 in the projection; stable-dreamfusion's


def sample_timesteps(
    count: int, total: int, generator: torch.Generator | None = None, *, least: float = 0.02, most: float = 0.98
) -> Tensor:
    """Draw timesteps uniformly from a range.

    The default range is the released code's; the paper neither names the range nor narrows it in the course of
    training.

    Args:
        count: Number of timesteps.
        total: Timesteps of the schedule.
        generator: Random numbers.
        least: Lower end of the range as a share of `total`, included.
        most: Upper end, included.

    Returns:
        (count,) integers.

    Raises:
        ValueError: The range is empty or leaves [0, 1].
    """
    if not 0 <= least <= most <= 1:
        raise ValueError(f"timesteps are drawn between shares 0 <= least <= most <= 1, got {least} and {most}")
    first, last = int(least * total), min(int(most * total), total - 1)
    return torch.randint(first, last + 1, (count,), **generator_kwargs(generator))


def timestep_weight(abar_t: Tensor, kind: Weight = "dreamfusion") -> Tensor:
    """Weight w(t) of timesteps; the paper states only that it depends on alpha_t, threestudio has these.

    Args:
        abar_t: Share of signal.
        kind: "dreamfusion" is 1 - abar, "fantasia3d" is sqrt(abar) (1 - abar), "uniform" is 1.

    Returns:
        Of `abar_t`'s shape.

    Raises:
        ValueError: There is no such weighting.
    """
    if kind == "dreamfusion":
        return 1 - abar_t
    if kind == "fantasia3d":
        return abar_t.sqrt() * (1 - abar_t)
    if kind == "uniform":
        return torch.ones_like(abar_t)
    raise ValueError(f"there is no weighting {kind!r} of timesteps; choose among {', '.join(get_args(Weight))}")


def mix_conditions(conditions: Conditions, shares: Tensor) -> Conditions:
    """Weighted mean of each sample's conditions over view words; of masks, the union where the share is positive.

    Args:
        conditions: (B, V, ...).
        shares: (B, V).

    Returns:
        (B, ...).
    """

    def mixed(tensor: Tensor) -> Tensor:
        part = shares.reshape(shares.shape + (1,) * (tensor.dim() - 2)).to(tensor.device)
        if tensor.dtype == torch.bool:
            return (tensor & (part > 0)).any(dim=1)
        return (tensor * part.to(tensor.dtype)).sum(dim=1)

    return conditions.map(mixed) if isinstance(conditions, TensorDataclass) else mixed(conditions)


def predict_noise(guidance: DiffusionGuidance, x_t: Tensor, t: Tensor, conditions: Sequence[Conditions]) -> Tensor:
    """Noise predictions for one x_t and t under K conditions, in one call.

    Args:
        guidance: The guidance model.
        x_t: (B, ...).
        t: (B,).
        conditions: K conditions, each (B, ...).

    Returns:
        (K, B, ...).
    """
    first, count = conditions[0], len(conditions)
    rows = list[Any](conditions)  # all of one kind
    joined = type(first).cat(rows) if isinstance(first, TensorDataclass) else torch.cat(rows)
    with torch.no_grad():
        noise = guidance.predict_noise(x_t.repeat(count, *[1] * (x_t.dim() - 1)), t.repeat(count), joined)
    return noise.unflatten(0, (count, -1))


def classifier_free_guidance(e_uncond: Tensor, e_positive: Tensor, scale: float) -> Tensor:
    """Guided noise e_uncond + scale (e_positive - e_uncond) (Ho and Salimans 2022).

    Args:
        e_uncond: Noise predicted for the empty prompt, (B, ...).
        e_positive: Noise predicted for the prompt, (B, ...).
        scale: 0 ignores the prompt, 1 is the prompt's own prediction.
    """
    return e_uncond + scale * (e_positive - e_uncond)


def perp_neg(
    e_uncond: Tensor,
    e_positive: Tensor,
    e_negatives: Tensor,
    weights: Tensor,
    scale: float,
    *,
    perpendicular: bool = True,
    floor: float = FLOOR,
) -> Tensor:
    """Perp-Neg: subtract the components of negative prompts that are perpendicular to the positive one (eq. 10 to 12).

    With e_pos = e_positive - e_uncond and e_i = e_negatives_i - e_uncond, each of one sample alone:
    eps_hat = e_uncond + scale (e_pos - sum_i w_i (e_i - <e_i, e_pos> / max(|e_pos|^2, floor) e_pos)).

    Args:
        e_uncond: Prediction for the empty prompt, (B, ...).
        e_positive: Prediction for the prompt, (B, ...).
        e_negatives: Predictions for n negative prompts, (n, B, ...).
        weights: w_i >= 0, (n, B).
        scale: Guidance scale.
        perpendicular: False leaves out the projection: ordinary negative prompts, for comparison.
        floor: Least |e_pos|^2 in the projection.

    Returns:
        eps_hat, (B, ...).
    """
    e_uncond, e_positive, e_negatives = (_full(prediction) for prediction in (e_uncond, e_positive, e_negatives))
    toward, away = e_positive - e_uncond, e_negatives - e_uncond
    if perpendicular:
        length = _inner(toward, toward).clamp(min=floor)
        away = away - _inner(away, toward) / length * toward
    part = weights.reshape(weights.shape + (1,) * (away.dim() - 2)).to(away)
    return e_uncond + scale * (toward - (part * away).sum(dim=0))


def sds_surrogate_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """Scalar whose derivative by x0 (B, ...) is gradient / B, exactly; its value is |gradient|^2 / 2B.

    The value shows the size of the gradient in logs; it is no potential of the gradient.
    """
    share = gradient.detach() / len(x0)
    pull = (x0 * share).sum()
    return pull - pull.detach() + (share * gradient.detach()).sum() / 2


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (..., B, 1, ...) over all dimensions of one sample, of a (..., B, ...) and b (B, ...)."""
    first = a.dim() - b.dim() + 1
    return (a * b).sum(dim=tuple(range(first, a.dim())), keepdim=True)


def _full(prediction: Tensor) -> Tensor:
    """Convert to float32: half precision loses the small difference of two predictions."""
    return prediction.float() if prediction.dtype in (torch.float16, torch.bfloat16) else prediction
