"""Loading and saving of meshes: selects the reader or writer by file suffix and checks the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from instant3d.mesh import gltf_reader, gltf_writer, obj, obj_writer, ply_writer, printing, usdz
from instant3d.mesh.mesh import WORLD_FROM_Y_UP, Mesh, bounds, face_areas
from instant3d.mesh.untrusted import TooLarge, UnsafePath
from instant3d.utils.mesh_options import MAX_FACES, SIZE_MM


def load(path: str | Path, up: Literal["y", "z"] = "y") -> list[Mesh]:
    """Read a .glb, .gltf, .obj or .ply file as meshes in world axes.

    Safe for untrusted files: refuses a file that it cannot read correctly, and opens no file outside the file's folder.

    Args:
        path: The file.
        up: Up axis of an .obj, or of a .ply without one; glTF is +y up by its standard.

    Raises:
        FileNotFoundError: There is no such file.
        TooLarge: It would take too much memory, or holds more than `MAX_FACES` triangles.
        UnsafePath: It refers to a file outside its folder.
        ValueError: It is of another format, broken, or without a visible surface.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], list[Mesh]]] = {
        ".glb": gltf_reader.read_gltf,
        ".gltf": gltf_reader.read_gltf,
        ".obj": obj.read_obj,
        ".ply": partial(_read_ply, up=up),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is not a mesh that can be read; expected one of {', '.join(readers)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no mesh file {path}; check its path")
    try:
        meshes = [mesh for mesh in reader(path) if len(mesh.faces)]
        _check_object(meshes)
    except ValueError as error:
        kind = type(error) if isinstance(error, TooLarge | UnsafePath) else ValueError
        raise kind(f"{path} cannot be read: {error}") from error
    return [_unturned(mesh) for mesh in meshes] if up == "z" and reader is obj.read_obj else meshes


def _read_ply(path: Path, up: Literal["y", "z"]) -> list[Mesh]:
    from instant3d.mesh.ply import read_ply  # and trimesh, which takes long to import

    return read_ply(path, up)


def _unturned(mesh: Mesh) -> Mesh:
    """Undo the readers' turn from +y up to +z up."""
    normals = None if mesh.normals is None else mesh.normals @ WORLD_FROM_Y_UP
    return replace(mesh, vertices=mesh.vertices @ WORLD_FROM_Y_UP, normals=normals)


def _check_object(meshes: Sequence[Mesh]) -> None:
    count = sum(len(mesh.faces) for mesh in meshes)
    if not count:
        raise ValueError("it holds no triangles; export its surface as triangles")
    if count > MAX_FACES:
        raise TooLarge(f"it holds {count} triangles; at most {MAX_FACES} are read, simplify it first")
    low, high = bounds(meshes)
    area = sum(float(face_areas(mesh).sum()) for mesh in meshes)
    if not np.isfinite(area) or area <= 1e-9 * float(np.square(high - low, dtype=np.float64).sum()):
        raise ValueError("its triangles have almost no area")


def save(meshes: Sequence[Mesh], path: str | Path, *, size_mm: float = SIZE_MM) -> None:
    """Write several parts as one file, whole or not at all.

    Args:
        meshes: The parts; those without triangles are left out.
        path: Its suffix chooses the format, one of `FORMATS`; an .obj brings an .mtl and .png files.
        size_mm: Length of the largest side in an .stl or .3mf, in millimetres.

    Raises:
        ValueError: The format is unknown, the size impossible or there is no triangle.
        OSError: It cannot be written there.
    """
    path = Path(path)
    writers: dict[str, Callable[[Sequence[Mesh], Path], None]] = {
        ".glb": gltf_writer.write_glb,
        ".obj": obj_writer.write_obj,
        ".ply": ply_writer.write_ply,
        ".stl": partial(printing.write_stl, size_mm=size_mm),
        ".3mf": partial(printing.write_3mf, size_mm=size_mm),
        ".usdz": usdz.write_usdz,
    }
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"a mesh is written as one of {', '.join(writers)}, not as {path.name}")
    if not sum(len(mesh.faces) for mesh in meshes):
        raise ValueError(f"there is no triangle to write to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer(meshes, path)
