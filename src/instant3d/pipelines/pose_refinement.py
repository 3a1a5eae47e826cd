"""Refinement of the cameras of photos by rendering the network's own reconstruction and comparing.

A round reconstructs the object from the photos with the current cameras and renders it. Each camera then moves to
where the rendering, colour and silhouette together, fits its photo best: Gauss-Newton steps whose derivatives are
differences between renderings, with the first guess as a prior. A reconstruction follows wrong cameras about half way,
so the steps are lengthened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from instant3d.nerf.field import Field
from instant3d.nerf.occupancy import Occupancy
from instant3d.nerf.occupancy_render import render
from instant3d.pipelines.orbit_poses import SHARED, OrbitPoses
from instant3d.utils.progress import OnStep
from instant3d.views import Views

# by the columns of `OrbitPoses`
SPREAD = torch.tensor([10.0, 7.0, 3.0, 0.1, 0.03, 0.03, 0.3])  # standard deviation of a first guess's error
DIFFERENCE = torch.tensor([1.5, 1.5, 1.5, 0.02, 0.01, 0.01, 0.06])  # from which derivatives are computed

SIZES = (24, 24, 32)  # pixels a side of the renderings, for each round
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
    poses, tried = start, []
    for number, size in enumerate((*SIZES, SIZES[-1])):
        field = reconstruct(replace(photos, cameras=poses.cameras))
        comparison = _Comparison(field, photos, size)
        tried.append((poses, _Comparison(field, photos, SIZES[-1]).errors(poses)))
        if on_step is not None:
            on_step(number + 1, len(SIZES) + 1)
        if number < len(SIZES):
            poses = _moved(comparison, poses, start)
    best, error = min(tried, key=lambda item: float(item[1].sum()))
    return RefinedPoses(best, tried[0][1], error)


class _Comparison:
    """Photos (V,) beside renderings of a field, both at `size` pixels a side."""

    def __init__(self, field: Field, photos: Views, size: int) -> None:
        self.field, self.size = field, size
        self.occupancy = Occupancy.from_field(field)
        self.wanted = _pixels(photos.resized(size, size))

    def residuals(self, poses: OrbitPoses) -> Tensor:
        """Differences (..., V, N) of the renderings from poses (..., V)."""
        cameras = poses.cameras
        flat = cameras.map(lambda part: part.reshape(-1, *part.shape[len(cameras.shape) :]))
        shown = render(self.field, flat, self.size, self.size, occupancy=self.occupancy, step=RENDER_STEP)
        return _pixels(shown).unflatten(0, cameras.shape) - self.wanted

    def errors(self, poses: OrbitPoses) -> Tensor:
        """Mean squared error of each view, colour plus opacity, (V,)."""
        return self.residuals(poses).square().sum(-1)


def _pixels(views: Views) -> Tensor:
    """Colours over white and opacity of views (V,): (V, N), whose squares sum to the two mean squares."""
    colour, alpha = views.composite(1.0).flatten(1), views.alpha.flatten(1)
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
