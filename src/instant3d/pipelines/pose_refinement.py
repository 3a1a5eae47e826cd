"""Refinement of the cameras of photos by rendering the network's own reconstruction and comparing.

A round reconstructs the object from the photos with the current cameras and renders it. Each camera then moves to
where the rendering, colour and silhouette together, fits its photo best: Gauss-Newton steps whose derivatives are
differences between renderings, with the first guess as a prior. A reconstruction follows wrong cameras about half way,
so the steps are lengthened. The focal length and the elevation of all cameras together, which it follows almost
entirely, are found by reconstructing at three values each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.nerf.field import Field
from instant3d.nerf.occupancy import Occupancy
from instant3d.nerf.occupancy_render import render
from instant3d.pipelines.orbit_poses import COLUMNS, SHARED, OrbitPoses, in_order
from instant3d.utils.progress import OnStep
from instant3d.views import Views

# by the columns of `OrbitPoses`
SPREAD = torch.tensor([10.0, 7.0, 3.0, 0.1, 0.03, 0.03, 0.3])  # standard deviation of a first guess's error
DIFFERENCE = torch.tensor([3.0, 3.0, 3.0, 0.05, 0.02, 0.02, 0.15])  # from which derivatives are computed

SIZES = (24, 32, 48)  # pixels a side of the renderings, for each round
SEARCHED = ((SHARED, 0.2), (COLUMNS.index("elevation_deg"), 4.0))  # columns of common changes, and between what values
BLUR = 3  # pixels a side of the filter that softens the steps of outlines
STEPS = 2  # Gauss-Newton steps of a round
LENGTHENED = 1.7  # times a round's movement
FARTHEST = 1.0  # greatest change of a step, in standard deviations
IMAGE_WEIGHT = 700.0  # of a view's mean squared error, against the prior's squared deviations
RENDER_STEP = 1 / 16  # world units between samples


@dataclass(frozen=True)
class RefinedPoses:
    """Result of a refinement.

    Attributes:
        poses: The cameras that agree best with the photos.
        error_before: Mean squared error of each photo's rendering at the start, colour plus opacity, (V,).
        error: The same at the end, (V,).
    """

    poses: OrbitPoses
    error_before: Tensor
    error: Tensor


def refine(
    reconstruct: Callable[[Views], Field], photos: Views, start: OrbitPoses, on_step: OnStep | None = None
) -> RefinedPoses:
    """Refine the cameras of photos.

    Args:
        reconstruct: Returns the object's field from posed views (V,).
        photos: Square photos (V,) with opacity; their cameras are not used.
        start: First guess of the cameras (V,).
        on_step: Called after each round.

    Returns:
        The poses of the round whose reconstruction agrees best with the photos. Their mean azimuth is that of `start`,
        since turning all cameras together changes nothing.
    """
    tried: list[tuple[OrbitPoses, Tensor]] = []

    def reconstructed(poses: OrbitPoses, size: int) -> _Comparison:
        """Reconstruct the object with given poses, and record how well it agrees with the photos."""
        comparison = _Comparison(reconstruct(replace(photos, cameras=poses.cameras)), photos, size)
        tried.append((poses, comparison.errors(poses)))
        if on_step is not None:
            on_step(len(tried), len(SIZES) + 1 + 3 * len(SEARCHED))
        return comparison

    poses = start
    for size in SIZES[:-1]:
        poses = _moved(reconstructed(poses, size), poses, start)
    for column, width in SEARCHED:
        poses = _searched(lambda poses: reconstructed(poses, SIZES[-1]), poses, column, width)
    poses = _moved(reconstructed(poses, SIZES[-1]), poses, start)
    reconstructed(poses, SIZES[-1])
    best, error = min(tried, key=lambda item: float(item[1].sum()))
    return RefinedPoses(best, tried[0][1], error)


def _searched(
    reconstructed: Callable[[OrbitPoses], _Comparison], poses: OrbitPoses, column: int, width: float
) -> OrbitPoses:
    """Move all cameras together in one column to the least error of reconstructions at three values, by a parabola.

    A reconstruction follows such a common change almost entirely, so that comparing with a fixed one does not help.
    """
    direction = torch.zeros_like(poses.values)
    direction[:, column] = 1
    tried = [poses.moved(offset * direction) for offset in (-width, 0.0, width)]
    low, middle, high = (float(reconstructed(each).errors(each).sum()) for each in tried)
    bend, farthest = low - 2 * middle + high, 2 * width
    vertex = width * (low - high) / (2 * bend) if bend > 0 else math.copysign(farthest, low - high)
    return poses.moved(max(-farthest, min(farthest, vertex)) * direction)


def guess_order(reconstruct: Callable[[Views], Field], photos: Views, start: OrbitPoses) -> list[int]:
    """Guess the order of photos, the first of which is the first.

    Every order is reconstructed and compared, so this takes (V - 1)! reconstructions.

    Args:
        reconstruct: Returns the object's field from posed views (V,).
        photos: Square photos (V,) with opacity; their cameras are not used.
        start: Cameras (V,) if the photos are in order already; azimuths are exchanged between them.

    Returns:
        For each place in the order the number of its photo.
    """
    orders = [[0, *rest] for rest in itertools.permutations(range(1, len(photos.rgb)))]

    def error(order: list[int]) -> float:
        poses = in_order(start, order)
        ordered = replace(photos[torch.tensor(order)], cameras=poses.cameras)
        return float(_Comparison(reconstruct(ordered), ordered, SIZES[-1]).errors(poses).sum())

    return min(orders, key=error)


class _Comparison:
    """Photos (V,) beside renderings of a field, both at `size` pixels a side unless another size is named."""

    def __init__(self, field: Field, photos: Views, size: int) -> None:
        self.field, self.photos, self.size = field, photos, size
        self.occupancy = Occupancy.from_field(field)

    def residuals(self, poses: OrbitPoses, size: int | None = None) -> Tensor:
        """Differences (..., V, N) of the renderings from poses (..., V)."""
        size = size or self.size
        cameras = poses.cameras
        flat = cameras.map(lambda part: part.reshape(-1, *part.shape[len(cameras.shape) :]))
        shown = render(self.field, flat, size, size, occupancy=self.occupancy, step=RENDER_STEP)
        return _pixels(shown).unflatten(0, cameras.shape) - _pixels(self.photos.resized(size, size))

    def errors(self, poses: OrbitPoses) -> Tensor:
        """Mean squared error of each view, colour plus opacity, at the finest size: (V,)."""
        return self.residuals(poses, SIZES[-1]).square().sum(-1)


def _pixels(views: Views) -> Tensor:
    """Colours over white and opacity of views (V,): (V, N), whose squares sum to the two mean squares."""
    soft = [F.avg_pool2d(image, BLUR, stride=1) for image in (views.composite(1.0), views.alpha)]
    colour, alpha = (image.flatten(1) for image in soft)
    return torch.cat([colour / colour.shape[1] ** 0.5, alpha / alpha.shape[1] ** 0.5], dim=1)


def _moved(comparison: _Comparison, poses: OrbitPoses, start: OrbitPoses) -> OrbitPoses:
    """Return the poses after one round."""
    fitted = poses
    for _ in range(STEPS):
        fitted = _gauss_newton(comparison, fitted, start)
    change = LENGTHENED * (fitted.values - start.values) + (1 - LENGTHENED) * (poses.values - start.values)
    change[:, 0] -= change[:, 0].mean()
    return start.moved(change)


def _gauss_newton(comparison: _Comparison, poses: OrbitPoses, start: OrbitPoses) -> OrbitPoses:
    """One step from poses (V,), in units of `SPREAD`, towards least squares of photos and prior together."""
    count, columns = poses.values.shape
    probes = torch.cat([torch.zeros(1, columns), torch.diag(DIFFERENCE)])  # the poses themselves, then each derivative
    residuals = comparison.residuals(poses.moved(probes[:, None].expand(-1, count, -1)))  # (1 + columns, V, N)
    slopes = (residuals[1:] - residuals[0]) * (SPREAD / DIFFERENCE)[:, None, None]
    normal = IMAGE_WEIGHT * torch.einsum("avn,bvn->vab", slopes, slopes)
    pull = -IMAGE_WEIGHT * torch.einsum("avn,vn->va", slopes, residuals[0])
    step = _solved(normal, pull, (poses.values - start.values) / SPREAD)
    return poses.moved(step.clamp(-FARTHEST, FARTHEST) * SPREAD)


def _solved(normal: Tensor, pull: Tensor, deviation: Tensor) -> Tensor:
    """Solve the normal equations of all views, which share the last unknown, with a unit prior on each.

    Args:
        normal: (V, 7, 7).
        pull: (V, 7).
        deviation: From the prior's centre, (V, 7).

    Returns:
        Step (V, 7).
    """
    count, columns = pull.shape
    own = columns - 1
    index = torch.arange(count)[:, None] * own + torch.arange(columns)
    index[:, SHARED] = count * own
    total = torch.eye(count * own + 1)
    total.index_put_((index[:, :, None], index[:, None, :]), normal, accumulate=True)
    right = torch.zeros(count * own + 1).index_put_((index,), pull, accumulate=True)
    right[index] -= deviation  # the shared one has one prior, written V times with the same value
    return torch.linalg.solve(total, right)[index]
