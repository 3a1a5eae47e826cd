"""Mesh processing: cleaning, simplification, merging, vertex colours and surface sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instant3d.mesh.colorspace import linear_from_srgb, srgb_from_linear
from instant3d.mesh.mesh import Mesh, face_areas
from instant3d.mesh.topology import distinct_rows, weld


def clean(mesh: Mesh, *, smallest_share: float = 0.01) -> Mesh:
    """Merge duplicate vertices, drop faces without area and small connected components.

    Args:
        mesh: The mesh.
        smallest_share: Components with a smaller share of the total area are dropped; the largest one always stays.

    Raises:
        ValueError: No triangle has an area.
    """
    mesh = _without_duplicates(mesh)
    areas = face_areas(mesh)
    mesh, areas = _only_faces(mesh, areas > 0), areas[areas > 0]
    if not len(areas):
        raise ValueError("nothing is left to clean: no triangle has an area")
    piece = pieces(mesh)
    share = np.bincount(piece, weights=areas) / areas.sum()
    keep = share >= min(smallest_share, share.max())
    return _only_faces(mesh, keep[piece])


def _without_duplicates(mesh: Mesh) -> Mesh:
    """Merge vertices that agree in position, normal, colour and uv."""
    parts = [mesh.vertices, *(part for part in (mesh.normals, mesh.colors, mesh.uv) if part is not None)]
    first, index = distinct_rows(np.hstack(parts))
    return dataclasses.replace(_take(mesh, first), faces=index[mesh.faces])


def pieces(mesh: Mesh) -> np.ndarray:
    """Return the index of each face's connected component; components are joined at vertices of equal position."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    faces = weld(mesh)[1]
    rows, columns = faces[:, [0, 1]].reshape(-1), faces[:, [1, 2]].reshape(-1)
    size = int(faces.max()) + 1
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    label = connected_components(graph, directed=False)[1][faces[:, 0]]
    return np.unique(label, return_inverse=True)[1].reshape(-1)


def _only_faces(mesh: Mesh, keep: np.ndarray) -> Mesh:
    """Keep the selected faces and the vertices that they use."""
    faces = mesh.faces[keep]
    used = np.zeros(len(mesh.vertices), bool)
    used[faces] = True
    return dataclasses.replace(_take(mesh, np.flatnonzero(used)), faces=(np.cumsum(used) - 1)[faces])


def _take(mesh: Mesh, vertices: np.ndarray) -> Mesh:
    """Keep only these vertices, without faces."""
    picked: dict[str, Any] = {
        name: None if getattr(mesh, name) is None else getattr(mesh, name)[vertices]
        for name in ("vertices", "normals", "colors", "uv")
    }
    return dataclasses.replace(mesh, faces=np.zeros((0, 3), np.int64), **picked)


def decimate(mesh: Mesh, target_faces: int) -> Mesh:
    """Simplify to about `target_faces` triangles by quadric error; colours come from the nearest old vertex.

    Vertices of equal position are joined first, so that seams do not open. Normals are dropped, as they are no longer
    valid; a texture is sampled at the old vertices.

    Raises:
        ValueError: `target_faces` is below 4.
    """
    import fast_simplification
    from scipy.spatial import cKDTree

    if target_faces < 4:
        raise ValueError(f"a closed surface needs at least 4 triangles, got a target of {target_faces}")
    if len(mesh.faces) <= target_faces:
        return mesh
    places, faces = weld(mesh)
    vertices, faces = fast_simplification.simplify(places, faces, target_count=target_faces)
    plain = mesh.colors is None and mesh.texture is None
    nearest = cKDTree(mesh.vertices).query(vertices)[1]
    colors = None if plain else vertex_colors(mesh)[nearest]
    base = mesh.base_color if plain else (1.0, 1.0, 1.0, 1.0)
    return Mesh(vertices, faces, colors=colors, base_color=base)


def vertex_colors(mesh: Mesh) -> np.ndarray:
    """Return sRGB (V, 3) in [0, 1]: product, in linear light, of vertex colour, base colour and nearest texel."""
    light = np.broadcast_to(np.asarray(mesh.base_color[:3]), mesh.vertices.shape)
    if mesh.colors is not None:
        light = light * linear_from_srgb(mesh.colors)
    if mesh.texture is not None and mesh.uv is not None:
        high, wide = mesh.texture.shape[:2]
        column, row = (_pixel(mesh.uv[:, k], size, mesh.wrap[k]) for k, size in enumerate((wide, high)))
        light = light * linear_from_srgb(mesh.texture[row, column, :3] / 255)
    return srgb_from_linear(light).astype(np.float32)


def _pixel(coordinate: np.ndarray, size: int, wrap: str) -> np.ndarray:
    folded = {
        "repeat": lambda x: x % 1,
        "mirror": lambda x: 1 - np.abs(x % 2 - 1),
        "clamp": lambda x: x,
    }[wrap](coordinate.astype(np.float64))
    return np.clip(np.floor(folded * size), 0, size - 1).astype(np.int64)


def merged(meshes: Sequence[Mesh]) -> Mesh:
    """Join all parts into one mesh; materials that differ become vertex colours. Normals stay if all parts have them.

    Raises:
        ValueError: There is no triangle.
    """
    meshes = [mesh for mesh in meshes if len(mesh.faces)]
    if not meshes:
        raise ValueError("there is no triangle to join")
    if len(meshes) == 1:
        return meshes[0]
    offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets[:-1], strict=True)])
    normals = [mesh.normals for mesh in meshes if mesh.normals is not None]
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        faces,
        np.concatenate(normals) if len(normals) == len(meshes) else None,
        np.concatenate([vertex_colors(mesh) for mesh in meshes]),
    )


def sample_points(meshes: Mesh | Sequence[Mesh], count: int, generator: torch.Generator) -> Tensor:
    """Draw points uniformly by area from a surface.

    Args:
        meshes: One mesh or several parts.
        count: Number of points.
        generator: Random generator.

    Returns:
        (count, 3) float32.

    Raises:
        ValueError: The surface has no area.
    """
    parts = [meshes] if isinstance(meshes, Mesh) else list(meshes)
    corners = torch.from_numpy(np.concatenate([mesh.vertices[mesh.faces] for mesh in parts]))
    areas = torch.from_numpy(np.concatenate([face_areas(mesh) for mesh in parts]))
    total = areas.cumsum(0)
    if not len(areas) or not total[-1] > 0:
        raise ValueError("points can only be sampled from a surface that has an area")
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    face = torch.searchsorted(total, draws[:, 0] * total[-1], right=True).clamp(max=len(areas) - 1)
    side = draws[:, 1].sqrt()  # uniform over a triangle: Osada et al. 2002, equation 1
    weights = torch.stack([1 - side, side * (1 - draws[:, 2]), side * draws[:, 2]], dim=1).float()
    return (weights[:, :, None] * corners[face]).sum(1)
