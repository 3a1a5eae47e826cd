"""Topology of triangle meshes: closed surfaces, the volume that they enclose, and vertices of equal position."""

from __future__ import annotations

import numpy as np

from instant3d.mesh.mesh import Mesh


def is_closed(mesh: Mesh) -> bool:
    """Whether each edge is crossed once in each direction, vertices of equal place being one: an oriented 2-manifold.

    Args:
        mesh: Any mesh; one without faces is not closed.
    """
    faces = mesh.faces
    if _unpaired(faces, len(mesh.vertices)) and len(faces):
        faces = weld(mesh)[1]
    return bool(len(faces)) and not _unpaired(faces, int(faces.max()) + 1)


def _unpaired(faces: np.ndarray, count: int) -> bool:
    """Whether any half-edge occurs twice or lacks its opposite."""
    start, end = faces.reshape(-1), faces[:, [1, 2, 0]].reshape(-1)
    there, back = np.sort(start * count + end), np.sort(end * count + start)
    return bool((there[1:] == there[:-1]).any()) or not np.array_equal(there, back)


def signed_volume(mesh: Mesh) -> float:
    """Volume that a closed mesh encloses, in cubic world units; negative if its faces point inward."""
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def weld(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct positions (P, 3) and the faces (F, 3) between them."""
    first, index = distinct_rows(mesh.vertices)
    return mesh.vertices[first] + 0.0, index[mesh.faces]


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find equal rows, many times faster than `np.unique` along an axis.

    Args:
        rows: (N, K), finite.

    Returns:
        The first occurrence (P,) of each distinct row, these rows in ascending order, and for each row which of
        them it equals (N,).
    """
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    new = np.ones(len(rows), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    index = np.empty(len(rows), np.int64)
    index[order] = np.cumsum(new) - 1
    return order[new], index
