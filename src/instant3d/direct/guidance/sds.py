"""Score distillation: what a diffusion model's answers mean as a gradient of an image. Knows no model, only `Guide`.

x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps; the gradient on x0 is w(t) (eps_hat - eps) (Poole et al. 2022, eq. 3),
where eps_hat joins several answers of the model to one x_t, t and eps: classifier-free guidance, or Perp-Neg
(Armandpour et al. 2023; Instant3D arXiv 2311.08403, equations 3 and 10 to 12).
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
    """Timesteps (count,) drawn evenly from the shares [least, most] of `total`, both ends included.

    The released code's default; the paper neither names the range nor narrows it in the course of training.
    """
    if not 0 <= least <= most <= 1:
        raise ValueError(f"timesteps are drawn between shares 0 <= least <= most <= 1, got {least} and {most}")
    first, last = int(least * total), min(int(most * total), total - 1)
    return torch.randint(first, last + 1, (count,), **generator_kwargs(generator))


def timestep_weight(abar_t: Tensor, kind: Weight = "dreamfusion") -> Tensor:
    """w(t) of abar_t, of its shape. The paper says only that it depends on alpha_t; threestudio offers these.

    dreamfusion  1 - abar                 fantasia3d  sqrt(abar) (1 - abar)                 uniform  1
    """
    if kind == "dreamfusion":
        return 1 - abar_t
    if kind == "fantasia3d":
        return abar_t.sqrt() * (1 - abar_t)
    if kind == "uniform":
        return torch.ones_like(abar_t)
    raise ValueError(f"there is no weighting {kind!r} of timesteps; choose among {', '.join(get_args(Weight))}")


def mix_conditions(conditions: Conditions, shares: Tensor) -> Conditions:
    """Each sample's prompt between its view words: (B, V, ...) with shares (B, V) becomes (B, ...).

    Of masks, whatever any word with a share shows is shown.
    """

    def mixed(tensor: Tensor) -> Tensor:
        part = shares.reshape(shares.shape + (1,) * (tensor.dim() - 2)).to(tensor.device)
        if tensor.dtype == torch.bool:
            return (tensor & (part > 0)).any(dim=1)
        return (tensor * part.to(tensor.dtype)).sum(dim=1)

    return conditions.map(mixed) if isinstance(conditions, TensorDataclass) else mixed(conditions)


def predict_noise(guide: DiffusionGuidance, x_t: Tensor, t: Tensor, conditions: Sequence[Conditions]) -> Tensor:
    """The model's answers (K, B, ...) to one x_t (B, ...) and t (B,) under K conditions (B, ...) each, in one call."""
    first, count = conditions[0], len(conditions)
    rows = list[Any](conditions)  # all of one kind
    told = type(first).cat(rows) if isinstance(first, TensorDataclass) else torch.cat(rows)
    with torch.no_grad():
        noise = guide.predict_noise(x_t.repeat(count, *[1] * (x_t.dim() - 1)), t.repeat(count), told)
    return noise.unflatten(0, (count, -1))


def classifier_free_guidance(e_uncond: Tensor, e_positive: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): scale 0 ignores the prompt, 1 is the prompt's own answer."""
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
    """eps_hat (B, ...) by which what negative prompts add beside the positive one is taken away (eq. 10 to 12).

    With e_pos = e_positive - e_uncond and e_i = e_negatives_i - e_uncond, each of one sample alone:
    eps_hat = e_uncond + scale (e_pos - sum_i w_i (e_i - <e_i, e_pos> / max(|e_pos|^2, floor) e_pos)).

    e_negatives    (n, B, ...)  raw answers of the network, as are the other two, (B, ...)
    weights        (n, B)       w_i >= 0
    perpendicular  False leaves out the projection: ordinary negative prompts, for comparison
    """
    e_uncond, e_positive, e_negatives = (_full(answer) for answer in (e_uncond, e_positive, e_negatives))
    toward, away = e_positive - e_uncond, e_negatives - e_uncond
    if perpendicular:
        length = _inner(toward, toward).clamp(min=floor)
        away = away - _inner(away, toward) / length * toward
    part = weights.reshape(weights.shape + (1,) * (away.dim() - 2)).to(away)
    return e_uncond + scale * (toward - (part * away).sum(dim=0))


def sds_surrogate_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose derivative by x0 (B, ...) is gradient / B, exactly; its value is |gradient|^2 / 2B.

    The value shows in logs how much there is to change; it is no potential of the gradient.
    """
    share = gradient.detach() / len(x0)
    pull = (x0 * share).sum()
    return pull - pull.detach() + (share * gradient.detach()).sum() / 2


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (..., B, 1, ...) over all that belongs to one sample, of a (..., B, ...) and b (B, ...)."""
    first = a.dim() - b.dim() + 1
    return (a * b).sum(dim=tuple(range(first, a.dim())), keepdim=True)


def _full(answer: Tensor) -> Tensor:
    """Half precision loses the small difference of two answers."""
    return answer.float() if answer.dtype in (torch.float16, torch.bfloat16) else answer
