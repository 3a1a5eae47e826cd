"""Meshes to a Stanford .ply: sRGB vertex colours, +z up, as Blender imports it, with a comment that says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instant3d.mesh.mesh import Mesh
from instant3d.mesh.processing import merged, vertex_colors
from instant3d.utils.atomic import write_bytes

Z_UP = "comment +z up, right-handed"


def write_ply(meshes: Sequence[Mesh], path: Path) -> None:
    """Write a binary .ply, +z up, with one colour a vertex; a texture is looked up at the vertices."""
    mesh = merged(meshes)
    fields = [(name, "<f4") for name in "xyz"]
    columns = list(mesh.vertices.T)
    if mesh.normals is not None:
        fields += [(name, "<f4") for name in ("nx", "ny", "nz")]
        columns += list(mesh.normals.T)
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
    lines = ["ply", "format binary_little_endian 1.0", Z_UP, f"element vertex {vertices}"]
    lines += [f"property {words[kind]} {name}" for name, kind in fields]
    lines += [f"element face {faces}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(lines).encode()
