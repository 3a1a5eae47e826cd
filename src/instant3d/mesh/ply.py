"""Stanford .ply files to meshes, read by trimesh. Vertex colours are sRGB, and all is opaque.

The format has no up axis: files that do not state +z up, as `ply_writer` does, are read as +y up.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import trimesh
from trimesh.resolvers import Resolver

from instant3d.mesh import polygons
from instant3d.mesh.colorspace import linear_from_srgb
from instant3d.mesh.mesh import WORLD_FROM_Y_UP, Mesh
from instant3d.mesh.ply_writer import Z_UP
from instant3d.mesh.untrusted import ImageDecoder, content, path_inside
from instant3d.utils.errors import LIBRARY_ERRORS, first_line
from instant3d.utils.images import encode_png


def read_ply(path: Path, up: Literal["y", "z"] = "y") -> list[Mesh]:
    """Read the parts of a .ply file.

    Args:
        path: The file.
        up: Its up axis, if it does not state +z by the comment `Z_UP`.

    Returns:
        The parts that have faces, in world axes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file or one that it names cannot be read, or a part of it would be left out.
    """
    files, data = _Beside(path.parent), content(path)
    z_up = up == "z" or Z_UP.encode() in data.partition(b"end_header")[0]
    world_from_file = np.eye(3) if z_up else WORLD_FROM_Y_UP
    try:
        # `Mesh` refuses what is not finite
        with np.errstate(over="ignore", invalid="ignore"), _warnings() as left_out:
            scene = trimesh.load_scene(io.BytesIO(data), file_type="ply", resolver=files, process=False)
            parts = [part for part in scene.geometry.values() if isinstance(part, trimesh.Trimesh)]
            meshes = [_mesh(part, world_from_file) for part in parts if len(part.faces)]
    except LIBRARY_ERRORS as error:
        raise ValueError(f"it is not a readable .ply file ({type(error).__name__}: {first_line(error)})") from error
    if files.refusals:
        raise files.refusals[0]
    if left_out:
        raise ValueError(f"it is not a sound .ply file ({left_out[0]})")
    return meshes


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what trimesh logs of content that it left out, instead of printing it with tracebacks."""
    messages = list[str]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("trimesh")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield messages
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


class _Beside(Resolver):
    """Hands trimesh the files that a .ply names. trimesh goes on without a file that fails, so refusals are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.refusals, self.decoder = folder, list[ValueError](), ImageDecoder()

    def get(self, name: str) -> bytes:
        try:
            data = content(path_inside(self.folder, name.strip()))
            return encode_png(self.decoder.decode(data), compress_level=0)  # all that a .ply names is an image
        except ValueError as error:
            self.refusals.append(error)
            raise

    def write(self, name: str, data: bytes) -> None:
        raise ValueError("an object that is read writes nothing")

    def namespaced(self, namespace: str) -> Resolver:
        return self

    def keys(self) -> list[str]:
        return []


def _mesh(part: trimesh.Trimesh, world_from_file: np.ndarray) -> Mesh:
    vertices, (faces, polygon) = np.asarray(part.vertices) @ world_from_file.T, _triangles(part)
    normals = None
    if "vertex_normals" in part._cache.cache:  # given in the file; otherwise trimesh would make them up
        normals = np.asarray(part.vertex_normals) @ world_from_file.T
    look: Any = part.visual
    if look.kind == "vertex":
        return Mesh(vertices, faces, normals, np.asarray(look.vertex_colors)[:, :3] / 255)
    if look.kind == "face":
        colors = np.repeat(np.asarray(look.face_colors)[polygon, :3] / 255, 3, axis=0)
        return Mesh(vertices[faces.reshape(-1)], np.arange(faces.size).reshape(-1, 3), colors=colors)
    if look.kind != "texture":
        return Mesh(vertices, faces, normals)
    return Mesh(vertices, faces, normals, **_material(look))


def _triangles(part: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    """Return the faces (F, 3), and the number of each one's polygon in the file (F,).

    Polygons with colours of their own, and concave ones, which trimesh cuts into fans, are cut here.
    """
    groups, places = _polygons(part), np.asarray(part.vertices)
    look: Any = part.visual
    larger = [corners for _, corners in groups if corners.shape[1] > 3]
    is_concave = any(polygons.concave(places[corners]).any() for corners in larger)
    if is_concave and look.kind == "texture":
        raise ValueError("it has concave faces with a texture of their own; triangulate it first")
    if not is_concave and not (larger and look.kind == "face"):
        return np.asarray(part.faces), np.arange(len(part.faces))
    triangulator, faces, owners = polygons.Triangulator(), [], []
    for numbers, corners in groups:
        cut = triangulator.triangles(corners, places)
        faces.append(corners[cut[:, :1], cut[:, 1:]])
        owners.append(numbers[cut[:, 0]])
    return np.concatenate(faces), np.concatenate(owners)


def _polygons(part: trimesh.Trimesh) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the numbers (P,) and vertex indices (P, N) of the file's polygons, for each number N of corners."""
    data = part.metadata.get("_ply_raw", {}).get("face", {}).get("data")
    names = data if isinstance(data, dict) else getattr(data, "dtype", np.dtype(float)).names or ()
    name = next((name for name in ("vertex_index", "vertex_indices") if name in names), None)
    if data is None or name is None:
        return []
    rows = data[name] if isinstance(data, dict) else data[name]["f1"]
    lengths = np.array([len(row) for row in rows])
    numbers = [np.flatnonzero(lengths == length) for length in np.unique(lengths[lengths >= 3])]
    return [(chosen, np.array([rows[k] for k in chosen], dtype=np.int64)) for chosen in numbers]


def _material(look: Any) -> dict[str, Any]:
    image, diffuse = getattr(look.material, "image", None), getattr(look.material, "diffuse", None)
    if image is not None and look.uv is not None:
        uv = np.asarray(look.uv) * (1, -1) + (0, 1)  # both formats count v upwards
        return {"uv": uv, "texture": np.asarray(image.convert("RGBA"))}
    if diffuse is None:
        return {}
    red, green, blue = (float(part) for part in linear_from_srgb(np.asarray(diffuse)[:3] / 255))
    return {"base_color": (red, green, blue, 1.0)}
