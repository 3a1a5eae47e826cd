"""Hypotheses about a scene's cameras (convention, focal length, extent), scored by silhouette consistency.

Scores are pixels of contradiction (`silhouettes`), averaged over the rays, at images of SIDE pixels. Correct cameras
leave almost none (docs/doctor.md has the figures), so cameras are not doubted below a clear threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from instant3d.cameras import Cameras
from instant3d.scenes.checks.silhouettes import SOLID, Silhouettes, rim_agreement

LEAST_VIEWS = 3
CLEAR = 0.03  # below, the cameras count as correct
WRONG = 0.5  # above, they are certainly wrong, even if no better hypothesis is found
NOISE = 0.02  # contradiction that correct cameras may leave by chance
SURE = 0.9  # confidence from which `--fix` changes a file
FOCAL_FACTORS = (0.45, 0.55, 0.67, 0.8, 0.9, 1.12, 1.25, 1.5, 1.8, 2.2)
FOCAL_RATIOS = (0.86, 0.91, 0.95, 1.05, 1.1, 1.16)  # around the best of those
FOCAL_LEAST = 1.08  # a smaller factor cannot be distinguished from 1
BOX = 1.03  # half a side of the cube, plus about a pixel for rounding
OUTSIDE_SHARE = 0.02  # of all rays
OUTSIDE_PIXELS = 3.0  # by which they miss everything inside the cube
TINY = 0.25  # half the object's extent; the cube's is 1


@dataclass(frozen=True)
class Hypothesis:
    """The best of several hypotheses.

    Attributes:
        name: The hypothesis.
        score: Its contradiction in pixels.
        runner_up: Contradiction of the second best.
    """

    name: str
    score: float
    runner_up: float

    @property
    def sure(self) -> float:
        """Confidence from 0 to 1, by how much more the second best contradicts the silhouettes."""
        return confidence(self.score, self.runner_up)


def confidence(best: float, other: float) -> float:
    """Confidence in the better of two scores: 0 if both contradict alike, towards 1 if only the other does."""
    return max(0.0, 1 - (best + NOISE) / (other + NOISE))


def contradiction(shapes: Silhouettes, cameras: Cameras) -> float:
    """Mean contradiction of silhouettes under given cameras, in pixels."""
    return float(rim_agreement(shapes, cameras).miss.mean())


def alternatives(scores: dict[str, float]) -> tuple[str, ...]:
    """Return the hypotheses that the silhouettes cannot distinguish from the best one."""
    least = min(scores.values())
    return tuple(sorted(name for name, score in scores.items() if confidence(least, score) < SURE))


def best(scores: dict[str, float]) -> Hypothesis:
    """Return the hypothesis with the least contradiction, of two or more."""
    order = sorted(scores, key=lambda name: scores[name])
    return Hypothesis(order[0], scores[order[0]], scores[order[1]])


@dataclass(frozen=True)
class Focal:
    """Best factor of the focal length.

    Attributes:
        low: Smallest factor that fits about as well as the best.
        high: Largest such factor.
        score: Contradiction of the best factor in pixels.
    """

    low: float
    high: float
    score: float

    @property
    def middle(self) -> float:
        """Geometric mean of `low` and `high`."""
        return (self.low * self.high) ** 0.5


def focal(shapes: Silhouettes, cameras: Cameras) -> Focal:
    """Search the factor of the focal length with the least contradiction; silhouettes determine it only to a range."""
    scores = {factor: contradiction(shapes, zoomed(cameras, factor)) for factor in FOCAL_FACTORS}
    near = min(scores, key=lambda key: scores[key])
    for ratio in FOCAL_RATIOS:
        scores[near * ratio] = contradiction(shapes, zoomed(cameras, near * ratio))
    least = min(scores.values())
    fitting = [factor for factor, score in scores.items() if score <= least + NOISE / 4]
    return Focal(min(fitting), max(fitting), least)


def zoomed(cameras: Cameras, factor: float) -> Cameras:
    """Multiply the focal length of cameras by a factor."""
    scale = torch.tensor([factor, factor, 1.0, 1.0])
    return Cameras(cameras.cam_to_world, cameras.intrinsics * scale)


def share_outside(shapes: Silhouettes, cameras: Cameras) -> float:
    """Return the share of silhouette rays that meet the object certainly outside the cube [-1, 1]^3."""
    free = rim_agreement(shapes, cameras)
    if not (free.points.abs().amax(-1) > BOX).any():
        return 0.0
    return float((rim_agreement(shapes, cameras, box=BOX).miss - free.miss > OUTSIDE_PIXELS).float().mean())


def half_extent(shapes: Silhouettes, cameras: Cameras) -> float:
    """Return half of the largest extent in any view, in world units at the distance of the world's origin."""
    low, high = shapes.rims.amin(1), shapes.rims.amax(1)
    depth = -(cameras.positions * cameras.cam_to_world[:, :3, 2]).sum(-1)
    spread = (high - low) / cameras.intrinsics[:, :2] * depth[:, None].clamp(min=0)
    return float(spread.norm(dim=-1).amax() / 2)


def cut_off(alpha: torch.Tensor) -> list[bool]:
    """Return for each of the masks (V, 1, H, W) whether its object extends beyond the frame."""
    solid = alpha[:, 0] >= SOLID
    return [bool((mask[[0, -1]].sum() + mask[:, [0, -1]].sum()) > 1) for mask in solid]
