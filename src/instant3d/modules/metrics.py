"""Image, mask, depth, normal and surface metrics of reconstructions.

Images are (..., C, H, W) in [0, 1] and give one number each, (...). Point sets are (N, 3) and give one number.
"""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

_WINDOW, _SIGMA = 11, 1.5  # of SSIM's Gaussian
_C1, _C2 = 0.01**2, 0.03**2


def psnr(rendered: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 1; at most 100 dB, so that equal images have a finite mean."""
    return -10 * (rendered - target).square().mean((-3, -2, -1)).clamp(min=1e-10).log10()


def ssim(rendered: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) over all 11 x 11 Gaussian windows, averaged over channels.

    Raises:
        ValueError: The images are smaller than the window.
    """
    if min(rendered.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW} pixels a side, got {tuple(rendered.shape[-2:])}")
    a, b = rendered.flatten(0, -3)[:, None], target.flatten(0, -3)[:, None]  # every channel an image of its own
    mean_a, mean_b, square_a, square_b, product = (_window(x) for x in (a, b, a * a, b * b, a * b))
    variance_a, variance_b, covariance = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return (luminance * structure).mean((-3, -2, -1)).reshape(rendered.shape[:-2]).mean(-1)


def _window(image: Tensor) -> Tensor:
    ticks = torch.arange(_WINDOW, device=image.device, dtype=image.dtype) - _WINDOW // 2
    kernel = torch.softmax(-(ticks**2) / (2 * _SIGMA**2), dim=0)
    return F.conv2d(F.conv2d(image, kernel[None, None, None]), kernel[None, None, :, None])


def mask_iou(rendered: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of two masks (alpha above 1/2); 1 where both are empty."""
    a, b = rendered > 0.5, target > 0.5
    union = (a | b).sum((-3, -2, -1))
    return torch.where(union > 0, (a & b).sum((-3, -2, -1)) / union.clamp(min=1), 1.0)


def depth_error(rendered: Tensor, target: Tensor) -> Tensor:
    """Mean absolute depth difference in world units over pixels where both depths are positive; NaN if none is."""
    both = (rendered > 0) & (target > 0)
    return ((rendered - target).abs() * both).sum((-3, -2, -1)) / both.sum((-3, -2, -1))


def normal_error(rendered: Tensor, target: Tensor) -> Tensor:
    """Mean angle in degrees between normals (..., 3, H, W) over pixels where neither is 0; NaN if there is none."""
    lengths = torch.linalg.vector_norm(rendered, dim=-3) * torch.linalg.vector_norm(target, dim=-3)
    cosine = (rendered * target).sum(-3) / lengths.clamp(min=1e-9)
    degrees = cosine.clamp(-1, 1).acos().rad2deg() * (lengths > 0)
    return degrees.sum((-2, -1)) / (lengths > 0).sum((-2, -1))


def chamfer(points: Tensor, reference: Tensor) -> float:
    """Mean distance to the nearest point of the other set, averaged over both directions (world units, not squared).

    Raises:
        ValueError: A set is empty.
    """
    there, back = _distances(points, reference)
    return (there.mean().item() + back.mean().item()) / 2


def f_score(points: Tensor, reference: Tensor, threshold: float) -> float:
    """Harmonic mean of precision and recall (Knapitsch et al. 2017, eq. 6).

    Args:
        points: Reconstructed surface, (N, 3).
        reference: True surface, (M, 3).
        threshold: Distance within which a point counts as matched, in world units.

    Raises:
        ValueError: A set is empty.
    """
    there, back = _distances(points, reference)
    precision, recall = ((side <= threshold).double().mean().item() for side in (there, back))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _distances(points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from each point to the nearest of the other set, in both directions: (N,) and (M,)."""
    if not len(points) or not len(reference):
        raise ValueError(f"distances need points on both sides, got {len(points)} and {len(reference)}")
    a, b = points.detach().cpu().numpy(), reference.detach().cpu().numpy()
    return torch.from_numpy(cKDTree(b).query(a)[0]), torch.from_numpy(cKDTree(a).query(b)[0])
