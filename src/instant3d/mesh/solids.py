"""Solids: measures of a surface, and its repair for printing, by the rules of manifold3d."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instant3d.mesh.mesh import Mesh, bounds
from instant3d.mesh.processing import pieces
from instant3d.mesh.repair import fill_holes
from instant3d.mesh.topology import distinct_rows

if TYPE_CHECKING:
    from manifold3d import Manifold

ATTRIBUTES = (("normals", 3), ("colors", 3), ("uv", 2))
BOTTOM_SHARE = 0.02  # of the height, cut off for a flat bottom


@dataclass(frozen=True)
class GeometryReport:
    """Size, connectivity and volume of a surface.

    Attributes:
        faces: Number of triangles.
        vertices: Number of vertices, those on both sides of a texture seam counted twice.
        closed: Whether it is an oriented 2-manifold by manifold3d's check, vertices of equal place taken as one.
        components: Number of connected parts.
        size: Extent along x, y and z in world units.
        volume: Enclosed volume in cubic world units; None if it is not closed.
    """

    faces: int
    vertices: int
    closed: bool
    components: int
    size: tuple[float, float, float]
    volume: float | None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them; lengths have six significant digits."""
        volume = None if self.volume is None else _rounded(self.volume)
        return dataclasses.asdict(self) | {"size": [_rounded(extent) for extent in self.size], "volume": volume}


def geometry_report(mesh: Mesh) -> GeometryReport:
    """Measure a surface.

    Args:
        mesh: At least one triangle.

    Returns:
        Its faces, closedness, components, size and volume.

    Raises:
        ValueError: It has no triangle.
    """
    low, high = bounds([mesh])
    x, y, z = (float(extent) for extent in high - low)
    solid = _manifold(mesh)
    closed = _is_solid(solid)
    return GeometryReport(
        faces=len(mesh.faces),
        vertices=len(mesh.vertices),
        closed=closed,
        components=int(pieces(mesh).max()) + 1,
        size=(x, y, z),
        volume=float(solid.volume()) if closed else None,
    )


def printable(mesh: Mesh, *, flat_bottom: bool = False) -> Mesh:
    """Make a closed 2-manifold for printing: fill holes, keep the largest part and fill its cavities.

    Args:
        mesh: The surface; colours, normals and texture coordinates are kept.
        flat_bottom: Cut the lowest fiftieth of the height off, so that it stands on a plane.

    Returns:
        The solid, faces outward.

    Raises:
        ValueError: Nothing of it encloses a volume.
    """
    solid = _largest(_outward(_manifold(fill_holes(mesh)), mesh))
    if not flat_bottom:
        return _mesh(solid, mesh)
    low, high = solid.bounding_box()[2], solid.bounding_box()[5]
    cut = solid.trim_by_plane((0, 0, 1), low + BOTTOM_SHARE * (high - low))
    return _mesh(_largest(cut), mesh)


def _manifold(mesh: Mesh) -> Manifold:
    """The mesh with its attributes, vertices of equal place declared one; empty and with a status if it is none."""
    import manifold3d

    columns = [mesh.vertices, *(getattr(mesh, name) for name, _ in ATTRIBUTES if getattr(mesh, name) is not None)]
    first, index = distinct_rows(mesh.vertices)
    target = first[index]
    moved = np.flatnonzero(target != np.arange(len(target)))
    return manifold3d.Manifold(
        manifold3d.Mesh(
            vert_properties=np.ascontiguousarray(np.hstack(columns), dtype=np.float32),
            tri_verts=np.ascontiguousarray(mesh.faces, dtype=np.uint32),
            merge_from_vert=moved.astype(np.uint32),
            merge_to_vert=target[moved].astype(np.uint32),
            run_original_id=np.array([manifold3d.Manifold.reserve_ids(1)], dtype=np.uint32),
        )
    )


def _is_solid(solid: Manifold) -> bool:
    import manifold3d

    return solid.status() == manifold3d.Error.NoError and not solid.is_empty()


def _outward(solid: Manifold, mesh: Mesh) -> Manifold:
    """The solid, turned inside out if it encloses a negative volume."""
    if not _is_solid(solid):
        raise ValueError(f"a surface of {len(mesh.faces)} triangles encloses no volume; so it is no solid")
    if solid.volume() >= 0:
        return solid
    return _manifold(fill_holes(dataclasses.replace(mesh, faces=mesh.faces[:, ::-1])))


def _largest(solid: Manifold) -> Manifold:
    """The connected part of the largest volume; a cavity is a part of negative volume, and goes."""
    return max(solid.decompose(), key=lambda part: part.volume())


def _mesh(solid: Manifold, like: Mesh) -> Mesh:
    """The solid with the attributes, texture and material of `like`."""
    found = solid.to_mesh()
    columns = np.array(found.vert_properties)
    kept, start = dict[str, Any](), 3
    for name, width in ATTRIBUTES:
        if getattr(like, name) is not None:
            kept[name] = columns[:, start : start + width]
            start += width
    faces = np.asarray(found.tri_verts).astype(np.int64)
    cap = _cap(found)
    if cap.any():
        _dress_cap(kept, columns[:, :3], np.unique(faces[cap]), np.unique(faces[~cap]))
    return dataclasses.replace(like, vertices=columns[:, :3], faces=faces, **{"normals": None} | kept)


def _cap(found: Any) -> np.ndarray:
    """Which triangles (F,) come from the cutting plane: those of another origin than the first."""
    lengths = np.diff(np.asarray(found.run_index)) // 3
    return np.repeat(np.asarray(found.run_original_id) != min(found.run_original_id), lengths)


def _dress_cap(kept: dict[str, np.ndarray], vertices: np.ndarray, cap: np.ndarray, wall: np.ndarray) -> None:
    """Give the vertices of a cut, which have no attributes, colours of its rim, one texel, and normals downward."""
    from scipy.spatial import cKDTree

    rim = wall[cKDTree(vertices[wall]).query(vertices[cap])[1]]
    if "colors" in kept:
        kept["colors"][cap] = kept["colors"][rim]
    if "uv" in kept:
        kept["uv"][cap] = kept["uv"][rim[0]]  # a texture has no place for it
    if "normals" in kept:
        kept["normals"][cap] = (0, 0, -1)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
