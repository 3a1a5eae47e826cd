"""Better surfaces by their triangles alone: holes filled."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from instant3d.mesh.mesh import Mesh
from instant3d.mesh.processing import weld


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
    """Cut directed edges (E, 2), as many into each vertex as out of it, into loops; each edge is told by its name."""
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
