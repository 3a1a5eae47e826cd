"""The colours of a field, and of the images it was made of, as a texture or as vertex colours of a mesh."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.mesh import Mesh, face_normals
from instant3d.mesh.rasterization import interpolate, nearest_of, rasterize, smallest
from instant3d.nerf.baked_field import device_of
from instant3d.nerf.field import Field, finite_difference_normals
from instant3d.nerf.mesh_extraction import color_at
from instant3d.nerf.view_colors import view_colors
from instant3d.views import Views

GUTTER = 1.5  # pixels around charts that have the colours of their edges; beyond are means, for smaller mip levels
FIELD_WEIGHT = 0.02  # of the field's own colour beside the views', 1 being one view straight on
NORMAL_STEP = 1 / 64  # world units of the differences that normals are found by
AGREEMENT = 0.3  # cosine to the faces around, below which a gradient is noise


def bake_texture(field: Field, mesh: Mesh, size: int, views: Views | None = None) -> Mesh:
    """Bake the colours of a field, and of views, into a texture of a mesh.

    Args:
        field: The object's density and colour.
        mesh: With texture coordinates and normals.
        size: Side of the texture in pixels.
        views: Posed images (V,) of the object, blended in where they show the surface squarely and unoccluded.

    Returns:
        The mesh with a texture (size, size, 4).

    Raises:
        ValueError: The mesh has no texture coordinates or no normals.
    """
    if mesh.uv is None or mesh.normals is None:
        raise ValueError("a texture is baked onto a mesh with texture coordinates and normals; unwrap it first")
    pixel, face, weights = rasterize(mesh.uv[mesh.faces] * size, size, size, margin=GUTTER)
    chosen = nearest_of(pixel, -smallest(weights), size * size)
    covered = np.flatnonzero(chosen >= 0)
    faces, weights = mesh.faces[face[chosen[covered]]], weights[chosen[covered]].clip(min=0).astype(np.float32)
    weights /= (weights[:, 0] + weights[:, 1] + weights[:, 2])[:, None]
    points, normals = (interpolate(part, faces, weights) for part in (mesh.vertices, mesh.normals))
    texture = torch.zeros(4, size * size)
    texture[:3, covered] = surface_colors(field, mesh, points, normals, views).T
    texture[3, covered] = 1
    filled = _fill(texture.view(4, size, size)).permute(1, 2, 0).mul(255).round().byte().numpy()
    return dataclasses.replace(mesh, texture=filled, colors=None)


def color_vertices(field: Field, mesh: Mesh, views: Views | None = None) -> Mesh:
    """Compute vertex colours for a mesh, from the same sources as `bake_texture`.

    Args:
        field: The object's density and colour.
        mesh: With normals.
        views: Posed images (V,) of the object, blended in where they show the surface squarely and unoccluded.

    Returns:
        The mesh with colours (V, 3), without texture and texture coordinates.

    Raises:
        ValueError: The mesh has no normals.
    """
    if mesh.normals is None:
        raise ValueError("vertices are coloured by a mesh's normals; it has none")
    colors = surface_colors(field, mesh, mesh.vertices, mesh.normals, views)
    return dataclasses.replace(mesh, colors=colors.numpy(), texture=None, uv=None)


def surface_colors(field: Field, mesh: Mesh, points: np.ndarray, normals: np.ndarray, views: Views | None) -> Tensor:
    """Return the colours of surface points: the field's, blended with the views' where those are reliable.

    Args:
        field: The object's density and colour.
        mesh: The surface, which hides points from views.
        points: World points (N, 3) on it.
        normals: Normals (N, 3) there, of any length.
        views: Posed images (V,) of the object; None: the field's colours alone.

    Returns:
        Colours (N, 3) on the CPU.
    """
    own = torch.from_numpy(color_at(field, points))
    if views is None:
        return own
    unit = F.normalize(torch.from_numpy(normals), dim=-1)
    shown, weight = view_colors(mesh, torch.from_numpy(points), unit, views.to("cpu"))
    return torch.lerp(own, shown, (weight / (weight + FIELD_WEIGHT))[:, None])


@torch.no_grad()
def add_normals(field: Field, mesh: Mesh) -> Mesh:
    """Give a mesh normals (V, 3) from the field's gradient; where that is noise, the mean of the faces around."""
    points = torch.from_numpy(mesh.vertices).to(device_of(field))
    found = finite_difference_normals(field, points, NORMAL_STEP).cpu()
    faces = torch.from_numpy(mesh.faces)
    around = torch.zeros_like(found)
    for corner in range(3):
        around.index_add_(0, faces[:, corner], torch.from_numpy(face_normals(mesh)))
    around = F.normalize(around, dim=-1)
    sound = ((found * around).sum(-1) > AGREEMENT)[:, None] & found.isfinite().all(-1, keepdim=True)
    return dataclasses.replace(mesh, normals=torch.where(sound, found, around).numpy())


def _fill(texture: Tensor) -> Tensor:
    """RGBA (4, S, S), alpha 0 or 1, to RGBA without gaps: means of what is covered nearby, coarser farther away."""
    covered = texture[3:]
    if bool(covered.all()) or texture.shape[-1] == 1:
        return torch.cat([texture[:3], torch.ones_like(covered)])
    sums = F.avg_pool2d(texture[None], 2, ceil_mode=True, count_include_pad=False)[0]
    share = sums[3:]
    coarse = torch.cat([sums[:3] / share.clamp(min=1e-9), (share > 0).float()])
    coarse[:3] *= coarse[3:]
    fine = F.interpolate(_fill(coarse)[None], scale_factor=2, mode="nearest")[
        0, :, : texture.shape[1], : texture.shape[2]
    ]
    return torch.where(covered > 0, texture, fine)
