"""Triangle mesh with colours or a texture: data structure, bounds, normalisation, face normals and areas."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from instant3d.utils.mesh_options import SIZE_MM

OPAQUE = 0.0  # alpha cut-off of an opaque material
WORLD_FROM_Y_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # files to world: (x, y, z) -> (x, -z, y)
WRAPS = ("repeat", "clamp", "mirror")


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with one material. The colour of a point is, in linear light, colors * texture * base_color.

    Attributes:
        vertices: (V, 3) float32, world axes.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        normals: (V, 3) float32 unit vectors; None means that every face is flat.
        colors: (V, 3) float32 sRGB in [0, 1]; None means white.
        uv: (V, 2) float32 as in glTF: (0, 0) is the outer corner of the texture's first pixel, v grows downwards.
        texture: (H, W, 4) uint8, sRGB and straight alpha.
        wrap: How the texture continues beyond [0, 1], along u and along v; each one of `WRAPS`.
        base_color: Linear red, green, blue and alpha.
        alpha_cutoff: Where alpha is below it there is no surface; 0 for an opaque material.
        name: Name of the part and of its material in files; "" for the writer's default.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    wrap: tuple[str, str] = ("repeat", "repeat")
    base_color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    alpha_cutoff: float = OPAQUE
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "vertices", _float32(self.vertices))
        object.__setattr__(self, "faces", np.ascontiguousarray(self.faces, dtype=np.int64))
        for name, width in (("normals", 3), ("colors", 3), ("uv", 2)):
            self._check_per_vertex(name, width)
        _check_geometry(self.vertices, self.faces)
        if self.texture is not None and (self.texture.dtype != np.uint8 or self.texture.shape[2:] != (4,)):
            raise ValueError(f"a texture is (H, W, 4) uint8, got {self.texture.shape} {self.texture.dtype}")
        if self.texture is not None and self.uv is None:
            raise ValueError("a mesh with a texture needs uv coordinates")
        if len(self.base_color) != 4 or not np.isfinite((*self.base_color, self.alpha_cutoff)).all():
            raise ValueError(f"a base colour is four finite numbers, got {self.base_color}")
        if not set(self.wrap) <= set(WRAPS):
            raise ValueError(f"a texture wraps by one of {', '.join(WRAPS)}, got {self.wrap}")

    def _check_per_vertex(self, name: str, width: int) -> None:
        value = getattr(self, name)
        if value is None:
            return
        value = _float32(value)
        if value.shape != (len(self.vertices), width):
            raise ValueError(f"{name} must be ({len(self.vertices)}, {width}), one row a vertex, got {value.shape}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} hold numbers that are not finite")
        object.__setattr__(self, name, value)

    def save(self, path: str | Path, *, size_mm: float = SIZE_MM) -> None:
        """Write .glb, .obj, .ply, .stl, .3mf or .usdz by the suffix of `path`; see `instant3d.mesh.save`."""
        from instant3d.mesh.io import save

        save([self], path, size_mm=size_mm)


def _float32(values: np.ndarray) -> np.ndarray:
    """Convert to float32; values out of its range become infinite, which the checks then find."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _check_geometry(vertices: np.ndarray, faces: np.ndarray) -> None:
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"a mesh needs vertices (V, 3) and faces (F, 3), got {vertices.shape} and {faces.shape}")
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices).all(1)).sum())
        raise ValueError(f"{bad} of {len(vertices)} vertices are not finite numbers")
    if faces.size and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"faces refer to vertices {faces.min()} to {faces.max()}, but there are {len(vertices)}")


def bounds(meshes: Sequence[Mesh]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest coordinates, each (3,) float64, of the vertices that faces use.

    Raises:
        ValueError: There is no triangle.
    """
    used = [mesh.vertices[np.unique(mesh.faces)] for mesh in meshes if len(mesh.faces)]
    if not used:
        raise ValueError("there is no triangle, so there are no bounds")
    low, high = np.min([part.min(0) for part in used], 0), np.max([part.max(0) for part in used], 0)
    return low.astype(np.float64), high.astype(np.float64)


def normalized(meshes: Sequence[Mesh], radius: float = 1.0) -> list[Mesh]:
    """Move and scale all parts together: bounding-box centre at the origin, farthest vertex at `radius`.

    Raises:
        ValueError: There is no triangle, or the object has no size.
    """
    low, high = bounds(meshes)
    centred = [mesh.vertices.astype(np.float64) - (low + high) / 2 for mesh in meshes]
    used = [part[np.unique(mesh.faces)] for part, mesh in zip(centred, meshes, strict=True) if len(mesh.faces)]
    farthest = max(float(np.linalg.norm(part, axis=1).max()) for part in used)
    if not farthest > 0:
        raise ValueError("all vertices lie at one point, so the object has no size")
    scaled = [part * (radius / farthest) for part in centred]
    return [dataclasses.replace(mesh, vertices=part) for part, mesh in zip(scaled, meshes, strict=True)]


def part_names(meshes: Sequence[Mesh]) -> list[str]:
    """Names of the parts of a file, all different, of ASCII letters, digits and `_`; "mesh" for parts without one."""
    names: list[str] = []
    for mesh in meshes:
        name = re.sub(r"\W", "_", mesh.name, flags=re.ASCII) or "mesh"
        name = f"_{name}" if name[0].isdigit() else name
        numbered = (f"{name}_{number}" for number in range(1, len(meshes) + 1))
        names.append(name if name not in names else next(other for other in numbered if other not in names))
    return names


def moved_to(mesh: Mesh, origin: str) -> Mesh:
    """Move a mesh so that its bounding box has a given place.

    Args:
        mesh: At least one triangle.
        origin: "ground": its lowest point at height 0 and its centre above the origin; "centre": its centre at the
            origin; "world": where it is.
    """
    if origin == "world":
        return mesh
    low, high = bounds([mesh])
    shift = (low + high) / 2
    if origin == "ground":
        shift[2] = low[2]
    return dataclasses.replace(mesh, vertices=mesh.vertices - shift)


def face_normals(mesh: Mesh) -> np.ndarray:
    """Return the unit normals (F, 3) float32 by winding; 0 for a face without area."""
    cross = _edge_products(mesh)
    return (cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)).astype(np.float32)


def face_areas(mesh: Mesh) -> np.ndarray:
    """Return the face areas (F,) float64."""
    return np.linalg.norm(_edge_products(mesh), axis=1) / 2


def _edge_products(mesh: Mesh) -> np.ndarray:
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
