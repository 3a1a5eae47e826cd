"""What a network expects of the views it is given: their size, their cameras. Knows nothing of the network itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras, orbit
from instant3d.stage2.architecture import Architecture, Span
from instant3d.views import Views

SLACK_DEG, SLACK = 1.0, 0.02  # what two cameras that mean the same may differ by; a share, of lengths


def resize_inputs(views: Views, a: Architecture) -> Views:
    """Square views at the size that the network was taught with (or the nearest to their own that its patches divide).

    Networks that were taught with bicubically resized pictures get them on their background, for a curve through
    colours that mean nothing outside the object would ring.
    """
    size = a.image_size or max(1, round(views.height / a.patch)) * a.patch
    if (views.height, views.width) == (size, size):
        return views
    if a.resize == "bilinear":
        return views.resized(size, size)
    corners = a.resize == "bicubic_corners"
    pictures = views.composite(a.background).reshape(-1, *views.rgb.shape[-3:])
    resized = F.interpolate(pictures, (size, size), mode="bicubic", align_corners=corners, antialias=not corners)
    rgb = resized.clamp(0, 1).reshape(*views.rgb.shape[:-2], size, size)
    return Views(rgb, torch.ones_like(rgb[..., :1, :, :]), views.cameras)


def assumed_camera(a: Architecture) -> Cameras | None:
    """The camera (1,) that took the one picture, if the network takes one picture."""
    return None if a.assumed_camera is None else orbit(*a.assumed_camera)[None]


def camera_warning(cameras: Cameras, a: Architecture) -> str | None:
    """A sentence that says which cameras the network knows, if some of these are others."""
    if a.assumed_camera is not None:
        return _single_camera_warning(cameras, a)
    spans = {
        "elevations": (elevations_deg(cameras), a.known_elevations_deg, SLACK_DEG, " degrees"),
        "distances": (cameras.positions.norm(dim=-1), a.known_radii, SLACK, ""),
        "fields of view": (fovs_deg(cameras), a.known_fovs_deg, SLACK_DEG, " degrees"),
    }
    strange = [
        f"{name} of {_span(found)} (it knows {known[0]:g} to {known[1]:g}{unit})"
        for name, (found, known, slack, unit) in spans.items()
        if known is not None and _outside(found, known, slack)
    ]
    return f"this checkpoint was not taught with cameras at {' and '.join(strange)}; expect less" if strange else None


def _single_camera_warning(cameras: Cameras, a: Architecture) -> str | None:
    known = assumed_camera(a)
    if known is None or a.assumed_camera is None or a.camera == "none":
        return None  # it looks at no camera
    known = known.to(cameras.intrinsics.device)
    same = (cameras.cam_to_world - known.cam_to_world).abs().amax() < SLACK
    if same and (cameras.intrinsics - known.intrinsics).abs().amax() < SLACK:
        return None
    azimuth, elevation, radius, fov = a.assumed_camera
    return (
        f"this checkpoint was taught with one camera, at azimuth {azimuth:g}, elevation {elevation:g}, "
        f"distance {radius:g} and a field of view of {fov:.4g} degrees; expect less of another"
    )


def elevations_deg(cameras: Cameras) -> Tensor:
    """How high above the horizon, as seen from the origin, cameras (...) stand."""
    height = cameras.positions[..., 2] / cameras.positions.norm(dim=-1).clamp(min=1e-9)
    return torch.rad2deg(torch.asin(height.clamp(-1, 1)))


def fovs_deg(cameras: Cameras) -> Tensor:
    """From the left edge to the right of pictures by cameras (...), for a centred principal point."""
    return 2 * torch.rad2deg(torch.atan(0.5 / cameras.intrinsics[..., 0]))


def _outside(found: Tensor, known: Span, slack: float) -> bool:
    return bool((found < known[0] - slack).any() or (found > known[1] + slack).any())


def _span(found: Tensor) -> str:
    low, high = float(found.min()), float(found.max())
    return f"{low:.3g}" if high - low < 0.1 else f"{low:.3g} to {high:.3g}"
