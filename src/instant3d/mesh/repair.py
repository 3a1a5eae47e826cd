"""Better surfaces by their triangles alone: holes filled, noise smoothed away with or without the edges."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from instant3d.mesh.mesh import Mesh
from instant3d.mesh.topology import weld

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TAUBIN_SHRINK, TAUBIN_GROW = 0.5, -0.53  # lambda and mu of Taubin 1995, which let waves longer than a few edges pass


def fill_holes(mesh: Mesh, *, max_edges: int | None = None) -> Mesh:
    """Close every hole by a fan around the middle of its rim; a closed mesh comes back as it is.

    Args:
        mesh: Faces wound alike; its vertices of equal place count as one.
        max_edges: Leave holes with longer rims open; None fills all.

    Returns:
        The mesh with further vertices and faces. Attributes of a hole's middle are the means of its rim.
    """
    rims = [rim for rim in _rims(mesh) if max_edges is None or len(rim) <= max_edges]
    if not rims:
        return mesh
    middle = len(mesh.vertices) + np.arange(len(rims))
    fans = [
        np.stack([rim, np.roll(rim, 1), np.full_like(rim, top)], axis=1) for rim, top in zip(rims, middle, strict=True)
    ]
    grown: dict[str, Any] = {
        name: np.vstack([value, *(value[rim].mean(0) for rim in rims)])
        for name in ("vertices", "normals", "colors", "uv")
        if (value := getattr(mesh, name)) is not None
    }
    return dataclasses.replace(mesh, faces=np.vstack([mesh.faces, *fans]), **grown)


def _rims(mesh: Mesh) -> list[np.ndarray]:
    """Loops of vertices (N,) along the edges that have a face on one side alone, in the direction of those faces."""
    places, faces = weld(mesh)
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    size = len(places)
    key, back = edges @ (size, 1), edges[:, ::-1] @ (size, 1)
    # a directed edge is open as often as it occurs more often than its opposite
    values, first, counts = np.unique(key, return_index=True, return_counts=True)
    opposite = np.searchsorted(np.sort(back), values, "right") - np.searchsorted(np.sort(back), values, "left")
    open_edges = np.repeat(first, np.maximum(counts - opposite, 0))
    vertex = mesh.faces.reshape(-1)  # edge k starts at corner k
    return [vertex[loop] for loop in _loops(edges[open_edges], open_edges)]


def _loops(edges: np.ndarray, names: np.ndarray) -> list[np.ndarray]:
    """Divide directed edges into closed loops.

    Args:
        edges: Start and end vertex of each edge (E, 2); as many edges enter a vertex as leave it.
        names: A number for each edge (E,).

    Returns:
        For each loop the `names` of its edges, in order.
    """
    leaving: dict[int, list[int]] = {}
    for k, (start, _) in enumerate(edges.tolist()):
        leaving.setdefault(start, []).append(k)
    loops = []
    while leaving:
        path, seen = list[int](), dict[int, int]()
        vertex = next(iter(leaving))
        while vertex not in seen:
            seen[vertex] = len(path)
            edge = leaving[vertex].pop()
            if not leaving[vertex]:
                del leaving[vertex]
            path.append(edge)
            vertex = int(edges[edge, 1])
        loops.append(names[path[seen[vertex] :]])
        for edge in path[: seen[vertex]]:  # the way to the loop is for another one
            leaving.setdefault(int(edges[edge, 0]), []).append(edge)
    return loops


def smooth(mesh: Mesh, steps: int = 10) -> Mesh:
    """Smooth without shrinking (Taubin 1995, "A signal processing approach to fair surface design").

    Args:
        mesh: Vertices of equal place move as one.
        steps: Pairs of a shrinking and a growing step; each is about one edge wide.

    Returns:
        The mesh with other vertices, and without normals, for they no longer hold.
    """
    places, faces = weld(mesh)
    mean = _neighbour_mean(faces, len(places))
    moved = places.astype(np.float64)
    for factor in (TAUBIN_SHRINK, TAUBIN_GROW) * steps:
        moved += factor * (mean @ moved - moved)
    return _moved(mesh, faces, moved)


def smooth_within_edges(mesh: Mesh, steps: int = 10, *, angle: float = 30.0) -> Mesh:
    """Flatten noise and keep edges: face normals are averaged by how alike they are, and vertices follow them.

    Zheng et al. 2011, "Bilateral normal filtering for mesh denoising", the local scheme; vertices by Sun et al. 2007,
    "Fast and effective feature-preserving mesh denoising", equation 8.

    Args:
        mesh: Vertices of equal place move as one.
        steps: How often normals are averaged, and how often vertices follow.
        angle: Degrees between normals at which their weight has fallen to 0.6; edges much sharper are kept.

    Returns:
        The mesh with other vertices, and without normals, for they no longer hold.
    """
    places, faces = weld(mesh)
    moved, spread = places.astype(np.float64), 2 * np.sin(np.radians(angle) / 2)
    pairs = _face_pairs(faces)
    normal, area = _unit_normals(moved, faces)
    for _ in range(steps):
        normal = _filtered(normal, area, pairs, spread)
    for _ in range(steps):
        moved += _towards(moved, faces, normal)
    return _moved(mesh, faces, moved)


def _moved(mesh: Mesh, faces: np.ndarray, places: np.ndarray) -> Mesh:
    """The mesh with its vertices at `places`, between which are its welded `faces`."""
    vertices = mesh.vertices.astype(np.float64)
    vertices[mesh.faces] = places[faces]
    return dataclasses.replace(mesh, vertices=vertices, normals=None)


def _neighbour_mean(faces: np.ndarray, size: int) -> csr_array:
    """A matrix (V, V) that gives each vertex the mean of those it shares an edge with."""
    from scipy.sparse import csr_array, diags_array

    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    rows, columns = np.concatenate([start, end]), np.concatenate([end, start])
    linked = csr_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    linked.data[:] = 1  # an edge has two faces, and is one
    return csr_array(diags_array(1 / np.maximum(linked.sum(axis=1), 1)) @ linked)


def _face_pairs(faces: np.ndarray) -> np.ndarray:
    """Faces (P, 2) that share an edge."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    order = np.lexsort(edges.T)
    same = (edges[order][1:] == edges[order][:-1]).all(axis=1)
    return np.stack([order[:-1][same], order[1:][same]], axis=1) // 3


def _unit_normals(places: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3) and areas (F,)."""
    a, b, c = places[faces].swapaxes(0, 1)
    cross = np.cross(b - a, c - a)
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, 1e-300)[:, None], length / 2


def _filtered(normal: np.ndarray, area: np.ndarray, pairs: np.ndarray, spread: float) -> np.ndarray:
    """Each normal averaged with its neighbours', by their areas and by how little they differ."""
    total = normal * area[:, None]
    one, other = pairs.T
    likeness = np.exp(-np.square(normal[one] - normal[other]).sum(axis=1) / (2 * spread**2))
    np.add.at(total, one, normal[other] * (likeness * area[other])[:, None])
    np.add.at(total, other, normal[one] * (likeness * area[one])[:, None])
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-300)


def _towards(places: np.ndarray, faces: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Compute steps that turn faces towards given normals (Sun et al. 2007, equation 8).

    Args:
        places: Vertices (V, 3).
        faces: Their indices (F, 3).
        normal: Wanted unit normals (F, 3).

    Returns:
        For each vertex (V, 3), the mean over its faces of the step along `normal` to the plane through their centre.
    """
    middle = places[faces].mean(axis=1)
    step, count = np.zeros_like(places), np.zeros(len(places))
    for corner in faces.T:
        height = ((middle - places[corner]) * normal).sum(axis=1)
        np.add.at(step, corner, normal * height[:, None])
        np.add.at(count, corner, 1)
    return step / np.maximum(count, 1)[:, None]
