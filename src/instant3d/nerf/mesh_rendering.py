"""A software renderer of meshes with one texture or vertex colours, for turntables and contact sheets."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.mesh import Mesh, face_normals
from instant3d.mesh.rasterization import interpolate, nearest_of, rasterize
from instant3d.mesh.topology import is_closed
from instant3d.views import Views

NEAR = 1e-3  # world units in front of a camera from which a triangle is drawn
SUPERSAMPLE = 2  # samples a side of a pixel
AMBIENT = 0.45  # share of the light that comes from everywhere


@dataclasses.dataclass(frozen=True)
class Fragments:
    """The nearest surface in the pixels that show one.

    Attributes:
        pixel: Row-major number of each such pixel (N,).
        face: The triangle that it shows (N,).
        weights: Barycentric coordinates on the triangle (N, 3), perspective-correct.
        depth: Camera-z distance (N,).
    """

    pixel: np.ndarray
    face: np.ndarray
    weights: np.ndarray
    depth: np.ndarray

    def interpolate(self, mesh: Mesh, attribute: np.ndarray) -> np.ndarray:
        """Interpolate a vertex attribute (V, C) of the mesh: (N, C)."""
        return interpolate(attribute, mesh.faces.take(self.face, 0), self.weights)


def nearest_surface(mesh: Mesh, camera: Cameras, size: int, *, front_only: bool = False) -> Fragments:
    """Find what each pixel of a square image shows of a mesh.

    Args:
        mesh: In world axes. Triangles that reach behind the camera are left out.
        camera: One camera, ().
        size: Width and height in pixels.
        front_only: Leave out triangles that face away, which a closed surface hides anyway.
    """
    places, depth = camera.project(torch.from_numpy(mesh.vertices))
    ahead = np.flatnonzero((depth > NEAR).numpy()[mesh.faces].all(1))
    faces, z = mesh.faces[ahead], depth.double().numpy()
    corners = (places.double() * size).numpy()[faces]
    if front_only:
        along, across = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        facing = along[:, 0] * across[:, 1] < along[:, 1] * across[:, 0]  # counter-clockwise, with y down
        ahead, faces, corners = ahead[facing], faces[facing], corners[facing]
    pixel, face, weights = rasterize(corners, size, size)
    weights = weights / z[faces].take(face, 0)  # 1 / z and attribute / z are linear in the image
    inverse = weights[:, 0] + weights[:, 1] + weights[:, 2]
    chosen = nearest_of(pixel, -inverse, size * size)
    covered = np.flatnonzero(chosen >= 0)
    chosen = chosen[covered]
    return Fragments(covered, ahead[face[chosen]], weights[chosen] / inverse[chosen, None], 1 / inverse[chosen])


def render_mesh(mesh: Mesh, cameras: Cameras, size: int, *, supersample: int = SUPERSAMPLE) -> Views:
    """Render unlit images of a mesh, with normals.

    Args:
        mesh: In world axes, with a texture, vertex colours or neither (white). Textures are clamped and opaque.
        cameras: (V,).
        size: Width and height of the images in pixels.
        supersample: Samples a side of a pixel, which are averaged.

    Returns:
        Views (V,) with alpha and normals.
    """
    closed, texture = is_closed(mesh), _texture(mesh)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        each = pool.map(
            lambda k: _render(mesh, texture, cameras[k], size, supersample, closed), range(cameras.shape[0])
        )
        return Views.stack(list(each))


def shade(views: Views) -> Views:
    """Light views with normals softly, by a wide light that stands above each camera.

    Args:
        views: (V,), with normals.

    Returns:
        Views (V,) with lit colours.

    Raises:
        ValueError: The views have no normals.
    """
    if views.normals is None:
        raise ValueError("only views with normals can be lit; render them with normals")
    forward, up = views.cameras.cam_to_world[..., :3, 2], torch.tensor([0.0, 0.0, 1.0])
    light = F.normalize(F.normalize(-forward, dim=-1) + up, dim=-1)[..., None, None]
    facing = (views.normals * light).sum(-3, keepdim=True)
    return dataclasses.replace(views, rgb=views.rgb * (AMBIENT + (1 - AMBIENT) * (0.5 + 0.5 * facing)))


def _render(mesh: Mesh, texture: Tensor | None, camera: Cameras, size: int, supersample: int, closed: bool) -> Views:
    side = size * supersample
    found = nearest_surface(mesh, camera, side, front_only=closed)
    normals = found.interpolate(mesh, mesh.normals) if mesh.normals is not None else face_normals(mesh)[found.face]
    samples = torch.zeros(7, side * side)  # premultiplied colour, alpha, normals
    samples[:, found.pixel] = torch.cat(
        [_colors(mesh, texture, found), torch.ones(len(found.pixel), 1), torch.from_numpy(normals)], 1
    ).T
    rgb, alpha, normal = F.avg_pool2d(samples.view(1, 7, side, side), supersample)[0].split([3, 1, 3])
    return Views(rgb / alpha.clamp(min=1e-6), alpha, camera, normals=F.normalize(normal, dim=0))


def _texture(mesh: Mesh) -> Tensor | None:
    """Return the texture of a mesh (1, 3, H, W) in [0, 1], if it has one."""
    if mesh.texture is None or mesh.uv is None:
        return None
    return torch.tensor(mesh.texture[..., :3]).permute(2, 0, 1)[None].float() / 255


def _colors(mesh: Mesh, texture: Tensor | None, found: Fragments) -> Tensor:
    """Return the sRGB colours (N, 3) of fragments."""
    if texture is not None and mesh.uv is not None:
        grid = torch.from_numpy(found.interpolate(mesh, mesh.uv) * 2 - 1)[None, None]
        return F.grid_sample(texture, grid, padding_mode="border", align_corners=False)[0, :, 0].T
    if mesh.colors is not None:
        return torch.from_numpy(found.interpolate(mesh, mesh.colors))
    return torch.ones(len(found.face), 3)
