"""Fewer triangles by quadric error metrics (Garland and Heckbert 1997)."""

from __future__ import annotations

from instant3d.mesh.mesh import Mesh
from instant3d.mesh.topology import is_closed
from instant3d.utils.mesh_options import FEWEST

PACES = (5, 7, 3)  # of fast_simplification, in the order in which they are tried; a slow one is more exact


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """Simplify the shape of a mesh.

    Args:
        mesh: Vertices of equal place must be one. Its normals, colours and texture do not carry over.
        faces: Most triangles of the result, at least 4.

    Returns:
        A mesh of at most `faces` triangles, or as close to that as edges can be collapsed; closed if `mesh` is closed
        and any of several tries stays so.

    Raises:
        ValueError: `faces` is less than 4.
    """
    if faces < FEWEST:
        raise ValueError(f"a mesh is simplified to at least {FEWEST} triangles, got {faces}")
    if len(mesh.faces) <= faces:
        return Mesh(mesh.vertices, mesh.faces, name=mesh.name)
    closed = is_closed(mesh)
    tries = []
    for pace in PACES:
        tries.append(_collapsed(mesh, faces, pace))
        if len(tries[-1].faces) <= faces and (is_closed(tries[-1]) or not closed):
            return tries[-1]
    return min(tries, key=lambda tried: max(len(tried.faces), faces))


def _collapsed(mesh: Mesh, faces: int, pace: int) -> Mesh:
    import fast_simplification

    vertices, triangles = fast_simplification.simplify(mesh.vertices, mesh.faces, target_count=faces, agg=pace)
    return Mesh(vertices, triangles, name=mesh.name)
