"""The fast renderers: from meshes and cameras to views.

Colour is the surface's own, unlit ("flat") or under a light fixed in the world ("soft"); surfaces are seen from both
sides. Textures are interpolated and samples averaged in linear light; the result is sRGB in steps of 1 / 255.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from instant3d.cameras import Cameras
from instant3d.mesh import Mesh
from instant3d.scenes import ViewPixels
from instant3d.views import MAPS, Views

from . import embree, opengl
from .pixels import to_views
from .triangle_soup import flatten

LIGHTINGS = ("flat", "soft")
BACKENDS = ("auto", "gl", "embree")


def render_views(
    meshes: Sequence[Mesh],
    cameras: Cameras,
    size: int,
    *,
    lighting: str = "flat",
    supersample: int = 3,
    backend: str = "auto",
    maps: Sequence[str] = MAPS,
) -> Views:
    """Square views (..., C, size, size) of `meshes` from cameras (...).

    Args:
        meshes: Parts of the object, in world axes.
        cameras: Cameras (...).
        size: Pixels a side.
        lighting: "flat" or "soft".
        supersample: Samples a side of a pixel, averaged to its colour and alpha; depth and normals are those at its
            centre.
        backend: "gl" (OpenGL through EGL), "embree" (ray casting, installed by pip), "auto" (the first that works).
        maps: Which of depth and world normals to render too.
    """
    row = Cameras(cameras.cam_to_world.reshape(-1, 4, 4), cameras.intrinsics.reshape(-1, 4))
    pixels = render_pixels(meshes, row, size, lighting=lighting, supersample=supersample, backend=backend, maps=maps)
    found = {"depth": pixels.depth, "normals": pixels.normals}
    shaped = {name: value.reshape(*pixels.rgba.shape[:3], -1) for name, value in found.items() if value is not None}
    return to_views(pixels.rgba, shaped, cameras)


def render_pixels(
    meshes: Sequence[Mesh],
    cameras: Cameras,
    size: int,
    *,
    lighting: str = "flat",
    supersample: int = 3,
    backend: str = "auto",
    maps: Sequence[str] = MAPS,
) -> ViewPixels:
    """Render as `render_views` does, to the 8 bits of a scene's files.

    Args:
        meshes: Parts of the object, in world axes.
        cameras: Cameras (V,).
        size: Pixels a side.
        lighting: As in `render_views`.
        supersample: As in `render_views`.
        backend: As in `render_views`.
        maps: As in `render_views`.
    """
    _check(cameras, size, lighting, supersample, backend)
    matrices = cameras.cam_to_world.detach().cpu().double().numpy()
    intrinsics = cameras.intrinsics.detach().cpu().double().numpy()
    soup = flatten(meshes, texture_side=max(1024, 2 * size))
    draw = embree.draw if chosen(backend) == "embree" else opengl.draw
    world_to_cam, soft = np.linalg.inv(matrices), lighting == "soft"
    rgba, found = draw(soup, world_to_cam, intrinsics, size, soft=soft, supersample=supersample, maps=maps)
    depth = found["depth"][..., 0] if "depth" in found else None
    return ViewPixels(rgba, cameras, depth, found.get("normals"))


def chosen(backend: str) -> str:
    """The backend that will be used: "gl" or "embree"; an error if it does not work."""
    if backend == "embree":
        embree.library()
        return backend
    try:
        opengl.shared_context()
        return "gl"
    except opengl.Unavailable as error:
        if backend == "auto" and embree.available():
            return chosen("embree")
        raise ValueError(
            f"OpenGL cannot render here ({error}); install libegl1, or embreex for the embree back end"
        ) from error


def _check(cameras: Cameras, size: int, lighting: str, supersample: int, backend: str) -> None:
    if lighting not in LIGHTINGS or backend not in BACKENDS:
        raise ValueError(f"lighting is one of {LIGHTINGS} and backend one of {BACKENDS}, got {lighting!r}, {backend!r}")
    if size < 1 or supersample < 1:
        raise ValueError(f"size and supersample must be at least 1, got {size} and {supersample}")
    if not cameras.shape.numel():
        raise ValueError("there is no camera to render for; give at least one")
    if not (cameras.cam_to_world.isfinite().all() and cameras.intrinsics.isfinite().all()):
        raise ValueError("a camera holds numbers that are not finite")
    if cameras.cam_to_world[..., :3, :3].det().abs().min() < 1e-6:
        raise ValueError("a camera's rotation is singular; cam_to_world must hold an orthonormal rotation")
