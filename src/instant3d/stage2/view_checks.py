"""Preparation and checks of input views: the network's image size, and the cameras that it was trained with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras, orbit
from instant3d.stage2.architecture import Architecture, Span
from instant3d.views import Views

SLACK_DEG, SLACK = 1.0, 0.02  # tolerance of angles, and of lengths in world units


def resize_inputs(views: Views, a: Architecture) -> Views:
    """Resize square views to the network's training size, or to the nearest size that its patches divide.

    Networks trained on bicubically resized images get them composited on their background, since the bicubic kernel
    would ring at the undefined colours outside the object.

    Args:
        views: Square views.
        a: The network's architecture.
    """
    size = a.image_size or max(1, round(views.height / a.patch)) * a.patch
    if (views.height, views.width) == (size, size):
        return views
    if a.resize == "bilinear":
        return views.resized(size, size)
    corners = a.resize == "bicubic_corners"
    images = views.composite(a.background).reshape(-1, *views.rgb.shape[-3:])
    resized = F.interpolate(images, (size, size), mode="bicubic", align_corners=corners, antialias=not corners)
    rgb = resized.clamp(0, 1).reshape(*views.rgb.shape[:-2], size, size)
    return Views(rgb, torch.ones_like(rgb[..., :1, :, :]), views.cameras)


def assumed_camera(a: Architecture) -> Cameras | None:
    """Camera (1,) of the input image of a single-image network; None for networks of posed views."""
    return None if a.assumed_camera is None else orbit(*a.assumed_camera)[None]


def camera_warning(cameras: Cameras, a: Architecture) -> str | None:
    """Warning if some cameras lie outside the range that a network was trained with; None if all lie inside."""
    if a.assumed_camera is not None:
        return _single_camera_warning(cameras, a)
    spans = {
        "elevations": (elevations_deg(cameras), a.known_elevations_deg, SLACK_DEG, " degrees"),
        "distances": (cameras.positions.norm(dim=-1), a.known_radii, SLACK, ""),
        "fields of view": (fovs_deg(cameras), a.known_fovs_deg, SLACK_DEG, " degrees"),
    }
    outside = [
        f"{name} of {_span(found)} (trained on {trained[0]:g} to {trained[1]:g}{unit})"
        for name, (found, trained, slack, unit) in spans.items()
        if trained is not None and _outside(found, trained, slack)
    ]
    return (
        f"this checkpoint was not trained with cameras at {' and '.join(outside)}; expect worse results"
        if outside
        else None
    )


def _single_camera_warning(cameras: Cameras, a: Architecture) -> str | None:
    trained = assumed_camera(a)
    if trained is None or a.assumed_camera is None or a.camera == "none":
        return None  # the network does not use the camera
    trained = trained.to(cameras.intrinsics.device)
    same = (cameras.cam_to_world - trained.cam_to_world).abs().amax() < SLACK
    if same and (cameras.intrinsics - trained.intrinsics).abs().amax() < SLACK:
        return None
    azimuth, elevation, radius, fov = a.assumed_camera
    return (
        f"this checkpoint was trained with one camera, at azimuth {azimuth:g}, elevation {elevation:g}, "
        f"distance {radius:g} and a field of view of {fov:.4g} degrees; expect worse results from another"
    )


def elevations_deg(cameras: Cameras) -> Tensor:
    """Elevation of cameras (...) above the horizon as seen from the origin, in degrees."""
    height = cameras.positions[..., 2] / cameras.positions.norm(dim=-1).clamp(min=1e-9)
    return torch.rad2deg(torch.asin(height.clamp(-1, 1)))


def fovs_deg(cameras: Cameras) -> Tensor:
    """Horizontal field of view of cameras (...) in degrees, for a centred principal point."""
    return 2 * torch.rad2deg(torch.atan(0.5 / cameras.intrinsics[..., 0]))


def _outside(found: Tensor, trained: Span, slack: float) -> bool:
    return bool((found < trained[0] - slack).any() or (found > trained[1] + slack).any())


def _span(found: Tensor) -> str:
    low, high = float(found.min()), float(found.max())
    return f"{low:.3g}" if high - low < 0.1 else f"{low:.3g} to {high:.3g}"
