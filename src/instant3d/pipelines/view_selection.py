"""Choice of the few views of a capture that tell most about an object: spread around it, and sharp."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sharpness(rgb: np.ndarray, alpha: np.ndarray) -> float:
    """Variance of the Laplacian of an object's brightness, which blur lowers (Pech-Pacheco et al. 2000).

    Args:
        rgb: Image (H, W, 3) in uint8.
        alpha: Opacity (H, W) in uint8; only pixels that are opaque with their four neighbours count.

    Returns:
        The variance; 0 if no pixels count.
    """
    grey, solid = rgb.mean(-1), alpha > 127
    around = [grey[:-2, 1:-1], grey[2:, 1:-1], grey[1:-1, :-2], grey[1:-1, 2:]]
    inside = solid[1:-1, 1:-1] & solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:]
    laplacian = sum(around) - 4 * grey[1:-1, 1:-1]
    return float(laplacian[inside].var()) if inside.any() else 0.0


def choose_views(positions: Tensor, sharpness: Tensor, count: int) -> list[int]:
    """Choose views one by one: each has the largest product of two factors.

    The first factor is the angle, as seen from the object, to the nearest view chosen before; the second is the view's
    sharpness divided by the median, at most 1. The first view is the sharpest.

    Args:
        positions: Camera positions (V, 3) around the object, which is at the origin.
        sharpness: Of the views (V,).
        count: How many to choose; all if there are fewer.

    Returns:
        Indices of the views, in the order in which they were chosen.
    """
    directions = torch.nn.functional.normalize(positions.double(), dim=-1)
    quality = (sharpness / sharpness.median().clamp(min=1e-9)).clamp(max=1.0)
    chosen = [int(sharpness.argmax())]
    while len(chosen) < min(count, len(positions)):
        angle = (directions @ directions[chosen].T).clamp(-1, 1).acos().amin(1)
        score = angle * quality
        score[chosen] = -1
        chosen.append(int(score.argmax()))
    return chosen
