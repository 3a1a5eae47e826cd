"""Checks of frames that are read together: one size, something opaque, and the object in every camera's view."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from instant3d.cameras import Cameras
from instant3d.scenes import transforms
from instant3d.views import Views

MAX_DISTANCE = 1e3  # of a camera from the origin: beyond it, float32 is too coarse for an object of size 1
MAX_PIXELS = 2**27  # of all frames read at once: 2 GiB as float32 RGBA


def check_size(
    frame: transforms.Frame, views: Views, first: transforms.Frame, like: Views, *, count: int, size: int | None
) -> None:
    """Refuse a frame of another size than the first one, and more than `MAX_PIXELS` pixels in all frames together.

    Args:
        frame: The frame.
        views: Its view, as decoded.
        first: The first frame.
        like: The first frame's view, as decoded.
        count: Number of frames that are read.
        size: Side in pixels to which they are resized; None to keep their size.

    Raises:
        ValueError: The sizes differ, or there are too many pixels.
    """
    got, expected = (views.width, views.height), (like.width, like.height)
    if got != expected:
        sizes = f"{got[0]} x {got[1]} pixels, but {first.where} is {expected[0]} x {expected[1]}"
        raise ValueError(f"{frame.where} is {sizes}; make all images of a scene the same size")
    if count * (size * size if size else views.width * views.height) > MAX_PIXELS:
        raise ValueError(
            f"{count} images like {frame.where} are too many to read at once; choose fewer frames or a smaller size"
        )


def check_opacity(frames: Sequence[transforms.Frame], views: Views) -> None:
    """Warn if no frame has a pixel that is opaque enough to count as object."""
    greatest = float(views.alpha.max())
    if greatest < 0.5:
        source = f"the mask {frames[0].mask}" if frames[0].mask else "its alpha"
        warnings.warn(
            f"{frames[0].where} shows nothing: the greatest value of {source} is {255 * greatest:.0f} of 255 in all "
            f"{len(frames)} frames read; expected 255, or a mask of 0 and 1, where the object is",
            stacklevel=3,
        )


def check_sight(frames: Sequence[transforms.Frame], cameras: Cameras) -> None:
    """Refuse cameras (V,) far away or without the cube [-1, 1]^3 in view; warn if its centre is out of view."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    image, depth = cameras.project(corners.expand(len(frames), -1, -1))
    shown = (depth > 0) & ((image > 0) & (image < 1)).all(-1)  # (V, 27)
    far = cameras.positions.norm(dim=-1) > MAX_DISTANCE
    for k, frame in enumerate(frames):
        if far[k]:
            raise ValueError(
                f"{frame.where} is more than {MAX_DISTANCE:g} away from an object of size 1; scale the cameras"
            )
        if not (shown[k].any() or _hits_cube(cameras[k])):
            raise ValueError(
                f"{frame.where} looks away from the object: its camera shows nothing of the cube [-1, 1]^3 around the "
                "origin; check the matrix's axes (OpenGL: x right, y up, z backward), or move and scale the cameras"
            )
        if not shown[k, len(corners) // 2]:
            warnings.warn(f"{frame.where} does not show the origin, where the object should be", stacklevel=3)


def _hits_cube(camera: Cameras, across: int = 16) -> bool:
    """Whether a grid of rays through the image meets the cube, for cameras too near to see any of its corners."""
    rays = camera.rays_through(*torch.meshgrid(*[torch.linspace(0, 1, across)] * 2, indexing="xy"))
    slope = torch.where(rays.directions.abs() < 1e-9, torch.full_like(rays.directions, 1e-9), rays.directions)
    bounds = torch.stack([(-1 - rays.origins) / slope, (1 - rays.origins) / slope])
    near, far = bounds.amin(0).amax(-1), bounds.amax(0).amin(-1)
    return bool(((near < far) & (far > 0)).any())
