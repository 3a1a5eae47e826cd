"""Agreement of photos of one object with its reconstruction, as a whole and photo by photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instant3d.modules import metrics
from instant3d.nerf.field import Field
from instant3d.nerf.occupancy_render import render
from instant3d.views import Views

SIZE = 64  # pixels a side of the images that are compared
POOR = 0.75  # overlap of the outlines below which a photo does not fit
ALIKE_IOU, ALIKE_PSNR = 0.85, 18.0  # overlap and colours in dB from which two photos show the same side
ASYMMETRIC = 0.05  # overlap that they lose when one is mirrored
BETTER = 0.1  # overlap that the other photos must gain when the odd one is left out


@dataclass(frozen=True)
class Agreement:
    """Agreement between the renderings of a reconstruction and its photos.

    Attributes:
        mask_iou: Overlap of the outlines, intersection over union, (V,).
        psnr: Of the colours over white in dB, (V,).
    """

    mask_iou: Tensor
    psnr: Tensor

    def report(self) -> dict[str, list[float]]:
        """Return the numbers, rounded, for a record."""
        return {
            "mask_iou": [round(value, 3) for value in self.mask_iou.tolist()],
            "psnr": [round(value, 2) for value in self.psnr.tolist()],
        }


def measure_agreement(shown: Views, photos: Views) -> Agreement:
    """Compare renderings (V,) of a reconstruction, of `SIZE` pixels a side, with its photos (V,)."""
    wanted = photos.resized(SIZE, SIZE)
    psnr = metrics.psnr(shown.composite(1.0).clamp(0, 1), wanted.composite(1.0))
    return Agreement(metrics.mask_iou(shown.alpha, wanted.alpha), psnr)


def disagreement(
    agreement: Agreement, reconstruct: Callable[[Views], Field], photos: Views, names: Sequence[str]
) -> str | None:
    """Describe in one sentence how photos disagree; None if they agree.

    If one does not fit, the object is reconstructed without each photo in turn: the odd one is that without which the
    others agree.

    Args:
        agreement: Of all photos (V,).
        reconstruct: Returns the object's field from posed views.
        photos: Square photos (V,) with their cameras.
        names: Their names.
    """
    if show_one_side(photos):
        return "all photos seem to show the same side: they are nearly the same image; give photos from different sides"
    worst = float(agreement.mask_iou.min())
    if worst >= POOR:
        return None
    begin = f"the photos do not agree: with their cameras, outlines overlap by {worst:.0%} at the worst"
    without = [_worst_without(k, reconstruct, photos) for k in range(len(names))] if len(names) > 2 else [0.0]
    best = max(without)
    if best >= POOR and best >= worst + BETTER:
        return f"{begin}, but by {best:.0%} without {names[without.index(best)]}; leave it out, or take it again"
    return f"{begin}; are they of one object that did not move, from the sides that were given?"


def show_one_side(photos: Views) -> bool:
    """Whether photos (V,) that were given from different sides show the same one.

    They are nearly the same image, but its outline is not its own mirror image, as the outlines of two opposite sides
    are of each other.
    """
    directions = torch.nn.functional.normalize(photos.cameras.positions, dim=-1)
    small = photos.resized(SIZE, SIZE)
    first = small[:1].map(lambda tensor: tensor.expand(len(photos.alpha), *tensor.shape[1:]))
    overlaps = metrics.mask_iou(small.alpha, first.alpha)
    colors = metrics.psnr(small.composite(1.0), first.composite(1.0))
    mirrored = metrics.mask_iou(small.alpha.flip(-1), first.alpha)
    alike = overlaps.min() >= ALIKE_IOU and colors.min() >= ALIKE_PSNR
    around = (directions @ directions.T).min() < 0  # more than a quarter turn between two cameras
    return bool(around and alike and (overlaps - mirrored).min() >= ASYMMETRIC)


def _worst_without(k: int, reconstruct: Callable[[Views], Field], photos: Views) -> float:
    others = photos[torch.tensor([other for other in range(len(photos.rgb)) if other != k])]
    shown = render(reconstruct(others), others.cameras, SIZE, SIZE)
    return float(measure_agreement(shown, others).mask_iou.min())
