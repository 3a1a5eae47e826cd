"""LRM-Zero's augmentations of primitives (arXiv 2406.09371): height fields, boolean cuts, wires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import manifold3d
import numpy as np
from numpy.typing import NDArray

from . import shapes
from .portable_rng import PortableRandom
from .shapes import FloatArray, Patch, Shape, Vectors

Kind = Literal["cube", "sphere", "cylinder", "cone", "torus"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def primitive_patches(kind: Kind, half: FloatArray, tile: float, cells: int, sides: int) -> list[Patch]:
    """The surface of a primitive that spans [-half, half] on each axis.

    Args:
        kind: Kind of primitive.
        half: Half extents (3,).
        tile: As in `Texture.tile`.
        cells: Subdivisions of flat faces and straight walls: 1, or more for a height field.
        sides: Sides of circles.
    """
    x, y, z = half
    if kind == "cube":
        return shapes.box_patches((2 * x, 2 * y, 2 * z), tile, cells)
    if kind == "sphere":
        profile = shapes.arc(1.0, -90, 90, max(5, sides // 2)) * np.array([1.0, z])
    elif kind == "cylinder":
        profile = np.array([(0.0, -z), (1.0, -z), (1.0, z), (0.0, z)])
    elif kind == "cone":
        profile = np.array([(0.0, -z), (1.0, -z), (0.0, z)])
    else:
        profile = shapes.arc(0.3, -180, 180, max(8, sides // 2), centre=(0.7, 0.0)) * np.array([1.0, z / 0.3])
    return shapes.lathe_patches(profile, sides, (x, y), tile, rows=cells)


def inside(kind: Kind, half: FloatArray, points: Vectors) -> NDArray[np.bool_]:
    """Mask (N,) of the points that lie within a primitive.

    Args:
        kind: Kind of primitive.
        half: Its half extents (3,).
        points: (N, 3), in its own frame.
    """
    unit: Vectors = np.asarray(points / np.asarray(half))
    x, y, z = unit[:, 0], unit[:, 1], unit[:, 2]
    radius2 = x * x + y * y
    if kind == "cube":
        return np.abs(unit).max(-1) < 1
    if kind == "sphere":
        return radius2 + z * z < 1
    if kind == "cylinder":
        return (radius2 < 1) & (np.abs(z) < 1)
    if kind == "cone":
        return (np.abs(z) < 1) & (radius2 < ((1 - z) / 2) ** 2)
    return (np.sqrt(radius2) - 0.7) ** 2 + (0.3 * z) ** 2 < 0.09


def displaced(patch: Patch, dice: PortableRandom, amplitude: float) -> Patch:
    """Push a patch along its normals by a smooth random height field that fades to 0 at its rims (LRM-Zero).

    Args:
        patch: Patch of at least 4 x 4 points; a smaller one is returned as it is.
        dice: Source of the height field.
        amplitude: Largest height, a length.
    """
    rows, columns = patch.points.shape[:2]
    if rows < 4 or columns < 4:
        return patch
    height = amplitude * _height_field(dice, rows, columns, patch.ring)
    down, across = np.gradient(_wrapped(patch), axis=(0, 1))
    if patch.ring:
        down, across = np.asarray(down)[:, 1:-1], np.asarray(across)[:, 1:-1]
    normal = np.cross(across, down)
    length = np.sqrt((normal**2).sum(-1, keepdims=True))
    normal = np.where(length > 1e-9, normal / np.maximum(length, 1e-9), 0.0)
    return Patch(patch.points + normal * height[..., None], patch.uv, patch.ring)


def _wrapped(patch: Patch) -> Vectors:
    """The points, for rings with the last real column put before and the second one after."""
    if not patch.ring:
        return patch.points
    return np.concatenate([patch.points[:, -2:-1], patch.points, patch.points[:, 1:2]], axis=1)


def _height_field(dice: PortableRandom, rows: int, columns: int, ring: bool) -> Vectors:
    """(rows, columns) in [0, 1]: a random lattice of 3 to 6 knots a side, smoothly blended, zero at the rims."""
    tall, wide = dice.between(3, 6), dice.between(3, 6)
    knots = dice.uniforms((tall, wide))
    knots[[0, -1]] = 0
    if ring:
        knots[:, -1] = knots[:, 0]
    else:
        knots[:, [0, -1]] = 0
    return _blend(rows, tall) @ knots @ _blend(columns, wide).T


def _blend(count: int, knots: int) -> Vectors:
    """(count, knots) weights of smooth interpolation between evenly spread knots."""
    where = np.linspace(0, knots - 1, count)
    low = np.minimum(where.astype(int), knots - 2)
    part = where - low
    part = part * part * (3 - 2 * part)
    weights = np.zeros((count, knots))
    weights[np.arange(count), low] = 1 - part
    weights[np.arange(count), low + 1] = part
    return weights


def wires(shape: Shape, thickness: float, tile: float) -> Shape:
    """Square bars along the edges of a shape, except those between coplanar triangles (LRM-Zero's wireframes).

    Args:
        shape: The shape, whose triangles are dropped.
        thickness: Side of a bar's square section, a length.
        tile: As in `Texture.tile`.
    """
    first, place = shapes.weld(shape.vertices)
    points, triangles = shape.vertices[first], place[shape.faces]
    bars = [_bar(points[i], points[j], thickness, tile) for i, j in _creases(points, triangles)]
    return shapes.joined(bars)


def _creases(points: Vectors, triangles: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Edges (i < j) whose two triangles do not lie in one plane."""
    across = np.cross(
        points[triangles[:, 1]] - points[triangles[:, 0]], points[triangles[:, 2]] - points[triangles[:, 0]]
    )
    normal = across / np.maximum(np.sqrt((across**2).sum(-1, keepdims=True)), 1e-12)
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    owner = np.tile(np.arange(len(triangles)), 3)
    order = np.lexsort((owner, edges[:, 1], edges[:, 0]))
    edges, owner = edges[order], owner[order]
    twins = np.flatnonzero((edges[:-1] == edges[1:]).all(-1))
    bend = (normal[owner[twins]] * normal[owner[twins + 1]]).sum(-1)
    return [(int(i), int(j)) for i, j in edges[twins][bend < 0.998]]


def _bar(start: Vectors, end: Vectors, thickness: float, tile: float) -> Shape:
    """A square bar from one point to another, a little longer so that bars meet without a notch."""
    along = end - start
    length = float(np.sqrt((along**2).sum()))
    up = along / length
    side = np.cross(up, np.eye(3)[int(np.argmin(np.round(np.abs(up), 6)))])
    side /= np.sqrt((side**2).sum())
    rotation = np.stack([side, np.cross(up, side), up], axis=-1)
    bar = shapes.box((thickness, thickness, length + 0.8 * thickness), tile)
    return shapes.moved(bar, rotation, (start + end) / 2)


def difference(solid: Shape, cutters: Sequence[Shape]) -> tuple[Shape, Shape] | None:
    """The rest of the solid's own surface, and the new surface where it was cut; together they are watertight.

    Pieces below 3 % of the rest are removed. None if the cut takes less than 3 % or more than 90 % of the volume,
    or if a mesh bounds no solid.
    """
    whole, tools = _manifold(solid), [_manifold(cutter) for cutter in cutters]
    good = manifold3d.Error.NoError
    if whole.status() != good or any(tool.status() != good for tool in tools):
        return None
    result = whole
    for tool in tools:
        result = result - tool
    kept = result.volume() / whole.volume()
    if result.status() != good or not 0.1 < kept < 0.97:
        return None
    chunks = [chunk for chunk in result.decompose() if chunk.volume() > 0.03 * result.volume()]
    return _parted(manifold3d.Manifold.compose(chunks).to_mesh(), whole.to_mesh().run_original_id[0])


def _manifold(shape: Shape) -> manifold3d.Manifold:
    """Hand a shape to manifold3d with uv and patch as vertex properties and split vertices declared equal."""
    first, place = shapes.weld(shape.vertices)
    copies = np.flatnonzero(first[place] != np.arange(len(place)))
    properties = np.column_stack([shape.vertices, shape.uv, shape.patch])
    return manifold3d.Manifold(
        manifold3d.Mesh(
            vert_properties=properties.astype(np.float32),
            run_index=np.array([0, 3 * len(shape.faces)], dtype=np.uint32),
            run_original_id=np.array([manifold3d.Manifold.reserve_ids(1)], dtype=np.uint32),
            tri_verts=shape.faces.astype(np.uint32),
            merge_from_vert=copies.astype(np.uint32),
            merge_to_vert=first[place][copies].astype(np.uint32),
        )
    )


def _parted(mesh: manifold3d.Mesh, original: int) -> tuple[Shape, Shape] | None:
    """Split the triangles of a result by whether they come from the mesh with this id."""
    properties = np.asarray(mesh.vert_properties, dtype=np.float64)
    triangles = np.asarray(mesh.tri_verts, dtype=np.int64)
    own = np.zeros(len(triangles), dtype=bool)
    for start, end, source in zip(mesh.run_index[:-1], mesh.run_index[1:], mesh.run_original_id, strict=True):
        own[start // 3 : end // 3] = source == original
    if own.all() or not own.any():
        return None
    pieces = []
    for chosen in (triangles[own], triangles[~own]):
        used, compact = np.unique(chosen, return_inverse=True)
        points, uv, patch = np.split(properties[used], [3, 5], axis=1)
        pieces.append(Shape(shapes.snap(points), compact.reshape(-1, 3), uv, np.round(patch[:, 0]).astype(np.int64)))
    return pieces[0], pieces[1]
