"""What is done to a finished surface: cleaning, simplifying, joining, sampling. Knows nothing of files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instant3d.mesh.colorspace import linear_from_srgb, srgb_from_linear
from instant3d.mesh.mesh import Mesh, face_areas


def clean(mesh: Mesh, *, smallest_share: float = 0.01) -> Mesh:
    """Merge equal vertices, drop faces without area, and pieces with less than `smallest_share` of the whole area."""
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
    """Vertices that agree in everything (place, normal, colour, uv) become one."""
    parts = [mesh.vertices, *(part for part in (mesh.normals, mesh.colors, mesh.uv) if part is not None)]
    rows = np.ascontiguousarray(np.hstack(parts) + 0.0)  # + 0 turns -0 into 0, which has other bytes
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    return dataclasses.replace(_take(mesh, first), faces=index.reshape(-1)[mesh.faces])


def pieces(mesh: Mesh) -> np.ndarray:
    """For each face the number of the connected piece it belongs to; pieces touch at vertices of equal place."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    faces = weld(mesh)[1]
    rows, columns = faces[:, [0, 1]].reshape(-1), faces[:, [1, 2]].reshape(-1)
    size = int(faces.max()) + 1
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    label = connected_components(graph, directed=False)[1][faces[:, 0]]
    return np.unique(label, return_inverse=True)[1].reshape(-1)


def weld(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Places (P, 3), each once, and the faces (F, 3) between them."""
    places, index = np.unique(mesh.vertices + 0.0, axis=0, return_inverse=True)
    return places, index.reshape(-1)[mesh.faces]


def _only_faces(mesh: Mesh, keep: np.ndarray) -> Mesh:
    """The faces that are kept and the vertices that they use."""
    used, index = np.unique(mesh.faces[keep], return_inverse=True)
    return dataclasses.replace(_take(mesh, used), faces=index.reshape(-1, 3))


def _take(mesh: Mesh, vertices: np.ndarray) -> Mesh:
    """The mesh with only these vertices, not yet with faces."""
    picked: dict[str, Any] = {
        name: None if getattr(mesh, name) is None else getattr(mesh, name)[vertices]
        for name in ("vertices", "normals", "colors", "uv")
    }
    return dataclasses.replace(mesh, faces=np.zeros((0, 3), np.int64), **picked)


def decimate(mesh: Mesh, target_faces: int) -> Mesh:
    """At most about `target_faces` triangles by quadric error; colours come from the nearest old vertex.

    Vertices of equal place are joined first, so that seams do not tear. Normals are dropped, for they no longer hold;
    a texture is looked up at the old vertices.
    """
    import fast_simplification
    from scipy.spatial import cKDTree

    if target_faces < 4:
        raise ValueError(f"a closed surface needs at least 4 triangles, but {target_faces} were asked for")
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
    """sRGB (V, 3) in [0, 1] of vertex colours, base colour and the texture's nearest pixel together."""
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
    """All parts as one mesh; looks that differ become vertex colours. Normals stay if all parts have them."""
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
    """Points (count, 3) float32 spread evenly by area over the surface."""
    parts = [meshes] if isinstance(meshes, Mesh) else list(meshes)
    corners = torch.from_numpy(np.concatenate([mesh.vertices[mesh.faces] for mesh in parts]))
    areas = torch.from_numpy(np.concatenate([face_areas(mesh) for mesh in parts]))
    total = areas.cumsum(0)
    if not len(areas) or not total[-1] > 0:
        raise ValueError("points can only be drawn from a surface that has an area")
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    face = torch.searchsorted(total, draws[:, 0] * total[-1], right=True).clamp(max=len(areas) - 1)
    side = draws[:, 1].sqrt()  # even over a triangle: Osada et al. 2002, equation 1
    weights = torch.stack([1 - side, side * (1 - draws[:, 2]), side * draws[:, 2]], dim=1).float()
    return (weights[:, :, None] * corners[face]).sum(1)
