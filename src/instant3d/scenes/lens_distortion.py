"""Removal of lens distortion from images, in OpenCV's model: radial k1 to k4, tangential p1 and p2.

A point (x, y) of the undistorted image, in units of the focal length from the principal point, is found in the
distorted one at x (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + 2 p1 x y + p2 (r^2 + 2 x^2), and y likewise
(OpenCV, `calib3d`). COLMAP's and nerfstudio's OPENCV cameras are the same model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.scenes.images import DecodedImage

RADIAL_KEYS, TANGENTIAL_KEYS = ("k1", "k2", "k3", "k4"), ("p1", "p2")
VISIBLE = 1.0  # pixels by which distortion may move a point without being removed
FOLD_SAMPLES = 64  # radii at which the radial polynomial is tested for a fold

Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy as fractions of the image size


def coefficients_text(lens: Mapping[str, float]) -> str:
    """Return the coefficients that are not 0, such as "k1 0.02, p2 -0.001"."""
    return ", ".join(f"{key} {lens[key]:g}" for key in (*RADIAL_KEYS, *TANGENTIAL_KEYS) if lens.get(key))


def is_visible(lens: Mapping[str, float], intrinsics: Intrinsics, width: float, height: float) -> bool:
    """Whether distortion moves a point by more than `VISIBLE` pixels, on a grid of 17 x 17 points of the image.

    Args:
        lens: Coefficients by name; absent ones are 0.
        intrinsics: fx, fy, cx, cy as fractions of the image size.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """
    return _is_visible(tuple(sorted(lens.items())), intrinsics, width, height)


@lru_cache(maxsize=256)  # the frames of a capture have one camera, and each looks several times
def _is_visible(lens: tuple[tuple[str, float], ...], intrinsics: Intrinsics, width: float, height: float) -> bool:
    across = torch.linspace(0, 1, 17, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(across, across, indexing="xy"), -1)
    moved = (_distorted(points, dict(lens), intrinsics) - points) * torch.tensor([width, height], dtype=torch.float64)
    return bool(moved.norm(dim=-1).max() > VISIBLE)


def undistort(image: DecodedImage, lens: Mapping[str, float], intrinsics: Intrinsics, where: str) -> DecodedImage:
    """Resample an image as a pinhole camera with the same intrinsics would have taken it; transparent beyond its edge.

    Args:
        image: The distorted image.
        lens: Coefficients by name; absent ones are 0.
        intrinsics: Those of the distorted image, as fractions of its size.
        where: Name of the image for error messages.

    Raises:
        ValueError: The coefficients fold the image onto itself.
    """
    _check_unfolded(lens, intrinsics, where)
    alpha = torch.tensor(image.alpha, dtype=torch.float32)[..., None] / 255
    colours = torch.tensor(image.rgb, dtype=torch.float32) / 255
    found = _sampled(torch.cat([colours * alpha, alpha], -1), lens, intrinsics, "bilinear")
    opacity = found[..., 3:]
    straight = torch.where(opacity > 0, found[..., :3] / opacity.clamp(min=1e-6), torch.ones(()))
    return dataclasses.replace(image, rgb=_levels(straight), alpha=_levels(opacity[..., 0]))


def undistort_map(values: np.ndarray, lens: Mapping[str, float], intrinsics: Intrinsics) -> np.ndarray:
    """Resample a map by the nearest pixel, as a pinhole camera with the same intrinsics would have recorded it.

    Args:
        values: Depth (H, W) or normals (H, W, 3).
        lens: Coefficients by name; absent ones are 0.
        intrinsics: Those of the distorted image, as fractions of its size.

    Returns:
        float32 of the same shape; 0, which is unknown, beyond the edge of the distorted map.
    """
    flat = torch.tensor(values.reshape(*values.shape[:2], -1), dtype=torch.float32)
    return _sampled(flat, lens, intrinsics, "nearest").numpy().reshape(values.shape)


def _sampled(pixels: Tensor, lens: Mapping[str, float], intrinsics: Intrinsics, mode: str) -> Tensor:
    """Sample pixels (H, W, C) at the distorted position of each pixel."""
    height, width = pixels.shape[:2]
    rows, columns = ((torch.arange(count) + 0.5) / count for count in (height, width))
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    grid = 2 * _distorted(points, lens, intrinsics)[None] - 1
    return F.grid_sample(pixels.permute(2, 0, 1)[None], grid, mode, align_corners=False)[0].permute(1, 2, 0)


def _distorted(points: Tensor, lens: Mapping[str, float], intrinsics: Intrinsics) -> Tensor:
    """Image points (..., 2) of the distorted image for those of the undistorted one, as fractions of the image size."""
    focal, centre = points.new_tensor(intrinsics[:2]), points.new_tensor(intrinsics[2:])
    x, y = ((points - centre) / focal).unbind(-1)
    k, (p1, p2) = [lens.get(key, 0.0) for key in RADIAL_KEYS], (lens.get(key, 0.0) for key in TANGENTIAL_KEYS)
    square = x * x + y * y
    radial = 1 + square * (k[0] + square * (k[1] + square * (k[2] + square * k[3])))
    xy = torch.stack([x, y], -1) * radial[..., None]
    shift = torch.stack([2 * p1 * x * y + p2 * (square + 2 * x * x), p1 * (square + 2 * y * y) + 2 * p2 * x * y], -1)
    return (xy + shift) * focal + centre


def _check_unfolded(lens: Mapping[str, float], intrinsics: Intrinsics, where: str) -> None:
    """Refuse a radial polynomial that does not rise up to the farthest corner: two points would share a pixel."""
    fx, fy, cx, cy = intrinsics
    x, y = max(cx, 1 - cx) / fx, max(cy, 1 - cy) / fy
    square = torch.linspace(0, x * x + y * y, FOLD_SAMPLES, dtype=torch.float64)
    slope = 1 + sum((2 * n + 1) * lens.get(f"k{n}", 0.0) * square**n for n in (1, 2, 3, 4))
    if bool((torch.as_tensor(slope) <= 0).any()):
        raise ValueError(
            f"{where} has lens distortion ({coefficients_text(lens)}) that folds the image onto itself; check the "
            "coefficients, or undistort the images first"
        )


def _levels(values: Tensor) -> np.ndarray:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
