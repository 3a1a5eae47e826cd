"""Refinement of the cameras of photos by rendering the network's own reconstruction and comparing.

The error of cameras is that of the reconstruction which the network makes with them, rendered by the same cameras and
compared with the photos in colour and silhouette, in a square window around the object of each photo. A reconstruction
follows wrong cameras in part, some common changes of all cameras almost entirely, so that the error is differentiated
through the network too, not with a fixed reconstruction. It is minimised by BFGS (Nocedal and Wright 2006, algorithm
6.1) from the curvature of Gauss and Newton (their section 10.3), with the first guess as a prior.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.nerf import volume
from instant3d.nerf.field import Field
from instant3d.pipelines.orbit_poses import SHARED, OrbitPoses, in_order
from instant3d.utils.progress import OnStep
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views

# standard deviation of a first guess's error, by the columns of `OrbitPoses`
SPREAD = torch.tensor([10.0, 7.0, 3.0, 0.1, 0.03, 0.03, 0.3])

EVALUATIONS = 10  # reconstructions
LARGEST_STEP = 1.0  # in standard deviations
IMAGE_WEIGHT = 1600.0  # of a view's mean squared error, against the prior's squared deviations
LEFT = 0.5  # share of a fixed reconstruction's curvature that is left when the reconstruction follows the cameras
SIZE = 32  # pixels a side of the renderings
MARGIN = 0.06  # around an object in its window, as a fraction of the photo
SAMPLES = 36  # along each ray
CLOSE = 1.15  # times the least error of an order: up to it another one is as good
BLUR = 3  # pixels a side of the filter that softens the steps of outlines
DIFFERENCE = 0.25  # standard deviations, for the derivatives of renderings

Reconstruct = Callable[[Views], Field]


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


@dataclass(frozen=True)
class GuessedOrder:
    """Order in which photos agree best with their reconstruction.

    Attributes:
        order: For each place in the order the number of its photo.
        alternative: Another order, if it agrees about as well, as that of a symmetric object does.
    """

    order: list[int]
    alternative: list[int] | None

    def note(self, names: Sequence[str]) -> str | None:
        """Describe the alternative by the names of the photos; None if there is none."""
        if self.alternative is None:
            return None
        used, other = (", ".join(names[k] for k in order) for order in (self.order, self.alternative))
        return (
            f"two orders of the photos agree about equally: {used}, which is used, and {other}; if the second one is "
            "right, name them in it without --poses guess"
        )


def refine(reconstruct: Reconstruct, photos: Views, start: OrbitPoses, on_step: OnStep | None = None) -> RefinedPoses:
    """Refine the cameras of photos.

    Args:
        reconstruct: Returns the object's field from posed views (V,), differentiable in their cameras.
        photos: Square photos (V,) with opacity; their cameras are not used.
        start: First guess of the cameras (V,).
        on_step: Called after each reconstruction.

    Returns:
        The poses of least error and least deviation from the first guess. The mean azimuth may change, too: objects are
        reconstructed better in the orientation of the training.
    """
    errors: list[Tensor] = []
    wanted = _windowed(photos)

    def objective(unknown: Tensor) -> Tensor:
        errors.append(_errors(reconstruct, photos, wanted, _moved(start, unknown)))
        if on_step is not None:
            on_step(len(errors), EVALUATIONS)
        return (IMAGE_WEIGHT * errors[-1].sum() + unknown.square().sum()) / 2

    best, number = _minimised(objective, _curvature(reconstruct, photos, wanted, start))
    return RefinedPoses(_moved(start, best), errors[0].detach(), errors[number].detach())


def guess_order(
    reconstruct: Reconstruct, photos: Views, start: OrbitPoses, on_step: OnStep | None = None
) -> GuessedOrder:
    """Guess the order of photos, the first of which is the first.

    Every order is reconstructed and compared, so this takes (V - 1)! reconstructions.

    Args:
        reconstruct: Returns the object's field from posed views (V,).
        photos: Square photos (V,) with opacity; their cameras are not used.
        start: Cameras (V,) if the photos are in order already; azimuths are exchanged between them.
        on_step: Called after each reconstruction.
    """
    orders = [[0, *rest] for rest in itertools.permutations(range(1, len(photos.rgb)))]
    wanted = _windowed(photos)

    errors = []
    for order in orders:
        places = torch.tensor(order)
        with torch.no_grad():
            error = _errors(reconstruct, photos[places], wanted[places], in_order(start, order))
        errors.append(float(error.sum()))
        if on_step is not None:
            on_step(len(errors), len(orders))
    ranked = sorted(zip(errors, orders, strict=True))
    close = [order for error, order in ranked[1:2] if error <= CLOSE * ranked[0][0]]
    return GuessedOrder(ranked[0][1], close[0] if close else None)


def _moved(start: OrbitPoses, unknown: Tensor) -> OrbitPoses:
    """Poses (V,) at a deviation from `start` in units of `SPREAD`: V times the cameras' own columns, the shared one."""
    own = unknown[:-1].unflatten(0, (len(start.values), SHARED))
    return start.moved(torch.cat([own, unknown[-1:].expand(len(own), 1)], dim=1) * SPREAD)


@dataclass(frozen=True)
class _Windows(TensorDataclass):
    """Square windows around the objects of photos: edges as fractions (V,), and what they show (V, 4, SIZE, SIZE)."""

    left: Tensor
    top: Tensor
    side: Tensor
    image: Tensor  # colours over white, then opacity


def _windowed(photos: Views) -> _Windows:
    """Cut windows out of square photos (V,)."""
    pixels = photos.width
    margin = round(MARGIN * pixels)
    edges, images = [], []
    for k, alpha in enumerate(photos.alpha[:, 0]):
        rows, columns = torch.where(alpha >= alpha.max() / 2)
        high, wide = (int(found.max() - found.min()) + 1 for found in (rows, columns))
        side = max(high, wide) + 2 * margin
        top, left = int(rows.min()) - (side - high) // 2, int(columns.min()) - (side - wide) // 2
        bounds = (-left, left + side - pixels, -top, top + side - pixels)  # negative: cut off
        cut = Views(F.pad(photos.rgb[k], bounds), F.pad(photos.alpha[k], bounds), photos.cameras[k])
        edges.append([left, top, side])
        images.append(_image(cut.resized(SIZE, SIZE)))
    boxes = (torch.tensor(edges) / pixels).to(photos.rgb.device)
    return _Windows(boxes[:, 0], boxes[:, 1], boxes[:, 2], torch.stack(images))


def _errors(reconstruct: Reconstruct, photos: Views, wanted: _Windows, poses: OrbitPoses) -> Tensor:
    """Mean squared error of each view in its window, colour over white plus opacity, (V,)."""
    field = reconstruct(replace(photos, cameras=poses.cameras.to(photos.rgb.device)))
    return _residuals(field, wanted, poses).square().sum((1, 2, 3))


def _residuals(field: Field, wanted: _Windows, poses: OrbitPoses) -> Tensor:
    """Deviation of a field's renderings from the photos (V, 4, H, W), with sums of squares that are `_errors`."""
    windows = poses.cameras.to(wanted.image.device).crop(wanted.left, wanted.top, wanted.side, wanted.side)
    shown = _image(volume.render(field, windows, SIZE, SIZE, samples=SAMPLES, importance=0))
    deviation = F.avg_pool2d(shown - wanted.image, BLUR, stride=1)
    count = deviation.new_tensor([3.0, 3.0, 3.0, 1.0]) * deviation[0, 0].numel()
    return (deviation / count.sqrt()[:, None, None]).cpu()


def _image(views: Views) -> Tensor:
    return torch.cat([views.composite(1.0), views.alpha], dim=-3)


@torch.no_grad()
def _curvature(reconstruct: Reconstruct, photos: Views, wanted: _Windows, start: OrbitPoses) -> Tensor:
    """Second derivatives (N, N) of the objective at the start, approximately: J^T J of residuals and the prior."""
    field = reconstruct(replace(photos, cameras=start.cameras.to(photos.rgb.device)))
    here = _residuals(field, wanted, start)
    there = [_residuals(field, wanted, start.moved(DIFFERENCE * step)) for step in torch.diag(SPREAD)]
    slopes = torch.stack([(moved - here).flatten(1) / DIFFERENCE for moved in there], dim=1)  # (V, 7, ...)
    count = len(slopes)
    own = torch.arange(SHARED * count).unflatten(0, (count, SHARED))
    places = torch.cat([own, torch.full((count, 1), SHARED * count)], dim=1)  # of a view's columns in the unknown
    curvature = torch.eye(SHARED * count + 1)
    for place, products in zip(places, slopes @ slopes.mT, strict=True):
        curvature[place[:, None], place] += LEFT * IMAGE_WEIGHT * products
    return curvature


def _minimised(objective: Callable[[Tensor], Tensor], curvature: Tensor) -> tuple[Tensor, int]:
    """Minimise by BFGS from 0, without line search: a step that fails still corrects the curvature for the next one.

    Args:
        objective: Function of an unknown (N,).
        curvature: Its second derivatives at 0, approximately, (N, N).

    Returns:
        The best unknown that was tried, and its number.
    """
    inverse = torch.linalg.inv(curvature)
    best, number = torch.zeros(len(curvature)), 0
    value, slope = _differentiated(objective, best)
    for k in range(1, EVALUATIONS):
        step = -inverse @ slope
        step = step * min(1.0, LARGEST_STEP / float(step.abs().max().clamp(min=1e-9)))
        there, slope_there = _differentiated(objective, best + step)
        inverse = _corrected(inverse, step, slope_there - slope)
        if there < value:
            best, number, value, slope = best + step, k, there, slope_there
    return best, number


def _differentiated(objective: Callable[[Tensor], Tensor], unknown: Tensor) -> tuple[float, Tensor]:
    with torch.enable_grad():
        unknown = unknown.detach().requires_grad_()
        value = objective(unknown)
        (slope,) = torch.autograd.grad(value, unknown)
    return float(value.detach()), slope


def _corrected(inverse: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Inverse curvature (N, N) after a step (N,) that changed the slope by `change` (N,); as it was if that is down."""
    bend = step @ change
    if bend <= 1e-3 * step @ step:
        return inverse
    across = torch.eye(len(step)) - torch.outer(step, change) / bend
    return across @ inverse @ across.T + torch.outer(step, step) / bend
