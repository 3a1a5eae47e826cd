"""Which reading of a scene's cameras its silhouettes allow. Knows nothing of files; words and thresholds are here.

All numbers are pixels of contradiction (`silhouettes`), averaged over the rays, at SIDE pixels a picture.
Right cameras leave almost none (docs/doctor.md has the figures), so no reading is doubted before it leaves plenty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from instant3d.cameras import Cameras
from instant3d.scenes.checks.silhouettes import SOLID, Silhouettes, rim_agreement

LEAST_VIEWS = 3
CLEAR = 0.03  # below, the cameras are taken for right
WRONG = 0.5  # above, they are surely wrong, whatever is right instead
NOISE = 0.02  # what right cameras may leave by chance
SURE = 0.9  # from here on `--fix` may act
FOCAL_FACTORS = (0.45, 0.55, 0.67, 0.8, 0.9, 1.12, 1.25, 1.5, 1.8, 2.2)
FOCAL_RATIOS = (0.86, 0.91, 0.95, 1.05, 1.1, 1.16)  # around the best of those
FOCAL_LEAST = 1.08  # a smaller factor is not told from 1
BOX = 1.03  # half a side of the box, with the width of a pixel or so for rounding
OUTSIDE_SHARE = 0.02  # of all rays
OUTSIDE_PIXELS = 3.0  # by which they miss all that the box could hold
TINY = 0.25  # half the object's extent, where the box's is 1


@dataclass(frozen=True)
class Hypothesis:
    """The best of several readings: how sure it is, by how much more the next best contradicts."""

    name: str
    score: float
    runner_up: float

    @property
    def sure(self) -> float:
        return confidence(self.score, self.runner_up)


def confidence(best: float, other: float) -> float:
    """0 where both contradict alike, towards 1 where only the other does."""
    return max(0.0, 1 - (best + NOISE) / (other + NOISE))


def contradiction(shapes: Silhouettes, cameras: Cameras) -> float:
    return float(rim_agreement(shapes, cameras).miss.mean())


def alternatives(scores: dict[str, float]) -> tuple[str, ...]:
    """The readings that the pictures cannot tell from the best one."""
    least = min(scores.values())
    return tuple(sorted(name for name, score in scores.items() if confidence(least, score) < SURE))


def best(scores: dict[str, float]) -> Hypothesis:
    """The reading of least contradiction, of two or more."""
    order = sorted(scores, key=lambda name: scores[name])
    return Hypothesis(order[0], scores[order[0]], scores[order[1]])


@dataclass(frozen=True)
class Focal:
    """By what the focal length is to be multiplied: `low` to `high` fit about as well, which leaves `score`."""

    low: float
    high: float
    score: float

    @property
    def middle(self) -> float:
        return (self.low * self.high) ** 0.5


def focal(shapes: Silhouettes, cameras: Cameras) -> Focal:
    """The focal lengths of least contradiction; outlines tell them apart only so far."""
    scores = {factor: contradiction(shapes, zoomed(cameras, factor)) for factor in FOCAL_FACTORS}
    near = min(scores, key=lambda key: scores[key])
    for ratio in FOCAL_RATIOS:
        scores[near * ratio] = contradiction(shapes, zoomed(cameras, near * ratio))
    least = min(scores.values())
    fitting = [factor for factor, score in scores.items() if score <= least + NOISE / 4]
    return Focal(min(fitting), max(fitting), least)


def zoomed(cameras: Cameras, factor: float) -> Cameras:
    scale = torch.tensor([factor, factor, 1.0, 1.0])
    return Cameras(cameras.cam_to_world, cameras.intrinsics * scale)


def share_outside(shapes: Silhouettes, cameras: Cameras) -> float:
    """Of all rays along outlines, how many meet the object surely outside the box."""
    free = rim_agreement(shapes, cameras)
    if not (free.points.abs().amax(-1) > BOX).any():
        return 0.0
    return float((rim_agreement(shapes, cameras, box=BOX).miss - free.miss > OUTSIDE_PIXELS).float().mean())


def half_extent(shapes: Silhouettes, cameras: Cameras) -> float:
    """Half of the largest extent that any view shows, in world units at the distance of the world's centre."""
    low, high = shapes.rims.amin(1), shapes.rims.amax(1)
    depth = -(cameras.positions * cameras.cam_to_world[:, :3, 2]).sum(-1)
    spread = (high - low) / cameras.intrinsics[:, :2] * depth[:, None].clamp(min=0)
    return float(spread.norm(dim=-1).amax() / 2)


def cut_off(alpha: torch.Tensor) -> list[bool]:
    """Which of the pictures (V, 1, H, W) show an object that goes on beyond the frame."""
    solid = alpha[:, 0] >= SOLID
    return [bool((picture[[0, -1]].sum() + picture[:, [0, -1]].sum()) > 1) for picture in solid]
