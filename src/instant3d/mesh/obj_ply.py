"""Stanford .ply files to meshes, and meshes to .ply and Wavefront .obj files, all +y up.

Vertex colours and an .mtl's Kd are taken as sRGB. Neither format can tell cut-out materials: all is opaque.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.resolvers import Resolver

from instant3d.mesh import polygons
from instant3d.mesh.colorspace import linear_from_srgb, srgb_from_linear
from instant3d.mesh.mesh import WORLD_FROM_Y_UP, Mesh
from instant3d.mesh.processing import merged, vertex_colors
from instant3d.mesh.untrusted import ImageDecoder, content, path_inside
from instant3d.utils.atomic import write_bytes
from instant3d.utils.errors import LIBRARY_ERRORS, first_line


def read_ply(path: Path) -> list[Mesh]:
    """The parts of a .ply."""
    files, data = _Beside(path.parent), content(path)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite afterwards is refused by `Mesh`
            scene = trimesh.load_scene(io.BytesIO(data), file_type="ply", resolver=files, process=False)
            parts = [part for part in scene.geometry.values() if isinstance(part, trimesh.Trimesh)]
            meshes = [_mesh(part) for part in parts if len(part.faces)]
    except LIBRARY_ERRORS as error:
        raise ValueError(f"it is not a readable .ply file ({type(error).__name__}: {first_line(error)})") from error
    if files.refusals:
        raise files.refusals[0]
    return meshes


class _Beside(Resolver):
    """Hands trimesh the files that a .ply names. trimesh goes on without a file that fails, so refusals are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.refusals, self.decoder = folder, list[ValueError](), ImageDecoder()

    def get(self, name: str) -> bytes:
        try:
            data = content(path_inside(self.folder, name.strip()))
            return _png(self.decoder.decode(data), compress_level=0)  # all that a .ply names is an image
        except ValueError as error:
            self.refusals.append(error)
            raise

    def write(self, name: str, data: bytes) -> None:
        raise ValueError("an object that is read writes nothing")

    def namespaced(self, namespace: str) -> Resolver:
        return self

    def keys(self) -> list[str]:
        return []


def _mesh(part: trimesh.Trimesh) -> Mesh:
    vertices, faces = np.asarray(part.vertices) @ WORLD_FROM_Y_UP.T, _triangles(part)
    normals = None
    if "vertex_normals" in part._cache.cache:  # given in the file; otherwise trimesh would make them up
        normals = np.asarray(part.vertex_normals) @ WORLD_FROM_Y_UP.T
    look: Any = part.visual
    if look.kind == "vertex":
        return Mesh(vertices, faces, normals, np.asarray(look.vertex_colors)[:, :3] / 255)
    if look.kind == "face":
        colors = np.repeat(np.asarray(look.face_colors)[:, :3] / 255, 3, axis=0)
        return Mesh(vertices[faces.reshape(-1)], np.arange(faces.size).reshape(-1, 3), colors=colors)
    if look.kind != "texture":
        return Mesh(vertices, faces, normals)
    return Mesh(vertices, faces, normals, **_material(look))


def _triangles(part: trimesh.Trimesh) -> np.ndarray:
    """Return the faces (F, 3); concave polygons, which trimesh cuts into fans, are clipped by ears."""
    groups, places = _polygons(part), np.asarray(part.vertices)
    if not any(polygons.concave(places[group]).any() for group in groups if group.shape[1] > 3):
        return np.asarray(part.faces)
    if part.visual.kind not in (None, "vertex"):
        raise ValueError("it has concave faces with a colour or texture of their own; triangulate it first")
    triangulator, found = polygons.Triangulator(), []
    for group in groups:
        cut = triangulator.triangles(group, places)
        found.append(group[cut[:, :1], cut[:, 1:]])
    return np.concatenate(found)


def _polygons(part: trimesh.Trimesh) -> list[np.ndarray]:
    """Return the polygons of the file as vertex indices (P, N), one array for each number N of corners."""
    data = part.metadata.get("_ply_raw", {}).get("face", {}).get("data")
    names = data if isinstance(data, dict) else getattr(data, "dtype", np.dtype(float)).names or ()
    name = next((name for name in ("vertex_index", "vertex_indices") if name in names), None)
    if data is None or name is None:
        return []
    rows = data[name] if isinstance(data, dict) else data[name]["f1"]
    lengths = np.array([len(row) for row in rows])
    chosen = [[rows[k] for k in np.flatnonzero(lengths == length)] for length in np.unique(lengths)]
    return [np.array(group, dtype=np.int64) for group in chosen if len(group[0]) >= 3]


def _material(look: Any) -> dict[str, Any]:
    image, diffuse = getattr(look.material, "image", None), getattr(look.material, "diffuse", None)
    if image is not None and look.uv is not None:
        uv = np.asarray(look.uv) * (1, -1) + (0, 1)  # both formats count v upwards
        return {"uv": uv, "texture": np.asarray(image.convert("RGBA"))}
    if diffuse is None:
        return {}
    red, green, blue = (float(part) for part in linear_from_srgb(np.asarray(diffuse)[:3] / 255))
    return {"base_color": (red, green, blue, 1.0)}


def write_obj(meshes: Sequence[Mesh], path: Path) -> None:
    """Write .obj, an .mtl where it needs one, and one .png a texture, all named after `path`; the .obj comes last."""
    meshes = sorted((mesh for mesh in meshes if len(mesh.faces)), key=_painted, reverse=True)
    pictures: dict[int, str] = {}
    for mesh in meshes:
        if mesh.texture is not None and id(mesh.texture) not in pictures:
            pictures[id(mesh.texture)] = f"{path.stem}_{len(pictures)}.png"
            write_bytes(path.with_name(pictures[id(mesh.texture)]), _png(mesh.texture))
    materials = "".join(_mtl(k, mesh, pictures) for k, mesh in enumerate(meshes) if not _painted(mesh))
    if materials:
        write_bytes(path.with_suffix(".mtl"), materials.encode())
    library = f"mtllib {path.with_suffix('.mtl').name}\n" if materials else ""
    write_bytes(path, "".join(["# +y up, right-handed\n", library, *_obj(meshes)]).encode())


def _painted(mesh: Mesh) -> bool:
    """Coloured by its vertices alone. It goes without a material, or readers would take that for its colour."""
    return mesh.colors is not None and mesh.texture is None


def _png(texture: np.ndarray, compress_level: int = 6) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(texture).save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


def _mtl(index: int, mesh: Mesh, pictures: dict[int, str]) -> str:
    red, green, blue = srgb_from_linear(np.asarray(mesh.base_color[:3]))
    picture = f"map_Kd {pictures[id(mesh.texture)]}\n" if mesh.texture is not None else ""
    return f"newmtl part{index}\nKd {red:.6f} {green:.6f} {blue:.6f}\nKs 0 0 0\nillum 1\n{picture}\n"


def _obj(meshes: Sequence[Mesh]) -> Iterator[str]:
    """The lines of all parts; painted ones come first, before any material is chosen."""
    painted = any(_painted(mesh) for mesh in meshes)
    counts = np.zeros(3, np.int64)  # vertices, uv, normals so far: an .obj numbers them through the whole file
    for k, mesh in enumerate(meshes):
        yield f"o part{k}\n" if _painted(mesh) else f"o part{k}\nusemtl part{k}\n"
        columns = [mesh.vertices @ WORLD_FROM_Y_UP]
        if painted:
            columns.append(vertex_colors(mesh) if _painted(mesh) else np.ones_like(mesh.vertices))
        yield _rows("v", np.hstack(columns))
        if mesh.uv is not None:
            yield _rows("vt", mesh.uv * (1, -1) + (0, 1))
        if mesh.normals is not None:
            yield _rows("vn", mesh.normals @ WORLD_FROM_Y_UP)
        yield _face_rows(mesh, counts)
        counts += len(mesh.vertices) * np.array([1, mesh.uv is not None, mesh.normals is not None])


def _rows(word: str, values: np.ndarray) -> str:
    line = word + " %.7g" * values.shape[1] + "\n"
    return (line * len(values)) % tuple(values.reshape(-1).tolist())


def _face_rows(mesh: Mesh, counts: np.ndarray) -> str:
    corner = {
        (False, False): "%d",
        (True, False): "%d/%d",
        (False, True): "%d//%d",
        (True, True): "%d/%d/%d",
    }[mesh.uv is not None, mesh.normals is not None]
    kept = [0] + [1] * (mesh.uv is not None) + [2] * (mesh.normals is not None)
    numbers = mesh.faces[:, :, None] + counts[kept] + 1
    return (f"f {corner} {corner} {corner}\n" * len(mesh.faces)) % tuple(numbers.reshape(-1).tolist())


def write_ply(meshes: Sequence[Mesh], path: Path) -> None:
    """Write a binary .ply with one colour a vertex; a texture is looked up at the vertices, finer detail is lost."""
    mesh = merged(meshes)
    normals = mesh.normals
    fields = [(name, "<f4") for name in "xyz"]
    columns = list((mesh.vertices @ WORLD_FROM_Y_UP).T)
    if normals is not None:
        fields += [(name, "<f4") for name in ("nx", "ny", "nz")]
        columns += list((normals @ WORLD_FROM_Y_UP).T)
    fields += [(name, "u1") for name in ("red", "green", "blue")]
    columns += list(np.rint(vertex_colors(mesh) * 255).T)
    vertices = np.empty(len(mesh.vertices), dtype=fields)
    for (name, _), column in zip(fields, columns, strict=True):
        vertices[name] = column
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("index", "<i4", (3,))])
    faces["count"], faces["index"] = 3, mesh.faces
    write_bytes(path, _ply_header(fields, len(vertices), len(faces)) + vertices.tobytes() + faces.tobytes())


def _ply_header(fields: list[tuple[str, str]], vertices: int, faces: int) -> bytes:
    words = {"<f4": "float", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", "comment +y up, right-handed", f"element vertex {vertices}"]
    lines += [f"property {words[kind]} {name}" for name, kind in fields]
    lines += [f"element face {faces}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(lines).encode()
