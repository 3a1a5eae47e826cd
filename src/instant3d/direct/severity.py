"""Severity C of adaptive Perp-Neg: how much an object repeats itself around (Instant3D, arXiv 2311.08403, equation 12).

Two views that look alike although their cameras are far apart are the multi-face Janus problem. Severity compares
image features and camera directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.utils.tensor_dataclass import TensorDataclass

Similarity = Literal["measured", "constant"]
TYPICAL_SIMILARITY = 0.775  # middle of 0.6 to 0.95, between CLIP's features of two views of one object


@dataclass(frozen=True)
class CachedViews(TensorDataclass):
    """Earlier views, (...) of them.

    Attributes:
        directions: (..., 3), unit vectors from the object to the camera.
        features: (..., F), image features.
        seen: (...) bool, False where there is no view.
    """

    directions: Tensor
    features: Tensor
    seen: Tensor


def directions_of(cameras: Cameras) -> Tensor:
    """Unit vectors (..., 3) from the origin to cameras (...)."""
    return F.normalize(cameras.positions, dim=-1)


def great_circle_cosine(cameras_a: Cameras, cameras_b: Cameras) -> Tensor:
    """Cosine (...) of the angle at the origin between two cameras; on the equator, of their azimuths' difference.

    The paper writes cos(v - v_i) and leaves open of what; an unused function of the released code computes this.
    """
    return (directions_of(cameras_a) * directions_of(cameras_b)).sum(-1)


@torch.no_grad()
def severity(
    directions: Tensor,
    other_directions: Tensor,
    features: Tensor,
    other_features: Tensor,
    seen: Tensor,
    *,
    similarity: Similarity = "measured",
    constant: float = TYPICAL_SIMILARITY,
) -> Tensor:
    """Severity C (B,) in [0, 1]: mean over other views of (1 - cos of the angle between them) (1 + similarity) / 4.

    Args:
        directions: Unit vectors to the cameras, (B, 3).
        other_directions: Those of the other views, (n, B, 3).
        features: Image features, (B, F); their lengths do not matter.
        other_features: Those of the other views, (n, B, F).
        seen: (n, B) bool; other views that are False do not count, and without any C is 0.
        similarity: "measured" is the paper's, the cosine of features; "constant" uses no image, for comparison: most of
            C's variation comes from the angle alone.
        constant: The constant similarity.

    Raises:
        ValueError: There is no such similarity.
    """
    if similarity not in get_args(Similarity):
        raise ValueError(
            f"there is no similarity {similarity!r} of views; choose among {', '.join(get_args(Similarity))}"
        )
    apart = 1 - F.cosine_similarity(directions.float(), other_directions.float(), dim=-1)
    if similarity == "measured":
        alike = 1 + F.cosine_similarity(features.float(), other_features.float(), dim=-1)
    else:
        alike = torch.full_like(apart, 1 + constant)
    each = (apart * alike / 4).clamp(0, 1).where(seen, torch.zeros_like(apart))
    return each.sum(0) / seen.sum(0).clamp(min=1)


def negative_weight(severity: Tensor, least: float = 1.0, span: float = 2.0) -> Tensor:
    """w_neg = w_min + C dW of severities C (equation 11); the paper publishes neither number, so it is 1 to 3 here.

    stable-dreamfusion's fixed weight is 2, and its authors advise 0 to 4.

    Args:
        severity: C, (B,).
        least: w_min.
        span: dW.
    """
    return least + span * severity


def other_views(ids: Tensor, directions: Tensor, features: Tensor) -> CachedViews:
    """For each view of a batch, the other views of the same prompt.

    Args:
        ids: Prompt of each view, (B,).
        directions: (B, 3).
        features: (B, F).

    Returns:
        Views (B, B), others first; `seen` is False for other prompts and for the view itself.
    """
    count = len(ids)
    same = (ids[:, None] == ids[None]) & ~torch.eye(count, dtype=torch.bool, device=ids.device)
    return CachedViews(
        directions.detach()[:, None].expand(-1, count, -1), features.detach()[:, None].expand(-1, count, -1), same
    )


class FeatureCache(nn.Module):
    """Cache of the last view of each training prompt, so that C costs no second rendering (section 3.4).

    It is part of the checkpoint, and the same in all processes: each stores the views of all of them in a step.

    Args:
        prompts: Number of prompts.
        width: Channels of the features, F.
    """

    directions: Tensor
    features: Tensor
    seen: Tensor

    def __init__(self, prompts: int, width: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(prompts, 3))
        self.register_buffer("features", torch.zeros(prompts, width))
        self.register_buffer("seen", torch.zeros(prompts, dtype=torch.bool))

    def get(self, ids: Tensor) -> CachedViews:
        """Last views of prompts (B,)."""
        return CachedViews(self.directions[ids], self.features[ids], self.seen[ids])

    @torch.no_grad()
    def put(self, ids: Tensor, directions: Tensor, features: Tensor) -> None:
        """Store the views of a step, of all processes; of several views of one prompt, the last one counts.

        Args:
            ids: Prompt of each view, (B,).
            directions: Unit vectors from the objects to the cameras, (B, 3).
            features: Image features, (B, F).
        """
        ids, directions, features = gather_across_processes(
            ids.to(self.seen.device), directions.to(self.directions), features.to(self.features)
        )
        place = torch.arange(len(ids), device=ids.device)
        last = torch.full_like(self.seen, -1, dtype=torch.long).scatter_reduce(0, ids, place, "amax")
        final = last[ids] == place  # one of each prompt, so that the order of writing does not matter
        self.directions[ids[final]] = directions[final]
        self.features[ids[final]] = features[final]
        self.seen[ids] = True


def gather_across_processes(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Concatenate tensors (B, ...) of all processes, in the processes' order; B may differ between them."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return tensors
    count = torch.tensor([len(tensors[0])], device=tensors[0].device)
    counts = [torch.zeros_like(count) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, count)
    most = int(torch.stack(counts).max())
    return tuple(_gather(tensor.contiguous(), [int(n) for n in counts], most) for tensor in tensors)


def _gather(tensor: Tensor, counts: list[int], most: int) -> Tensor:
    padded = torch.cat([tensor, tensor.new_zeros(most - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
