"""Meshes to a Wavefront .obj with its .mtl and .png files, +y up. It has no cut-out materials: all is opaque."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from instant3d.mesh.color_texture import with_color_texture
from instant3d.mesh.colorspace import srgb_from_linear
from instant3d.mesh.mesh import WORLD_FROM_Y_UP, Mesh, part_names
from instant3d.utils.atomic import write_all
from instant3d.utils.images import encode_png


def write_obj(meshes: Sequence[Mesh], path: Path) -> None:
    """Write .obj, .mtl and one .png a texture, all named after `path`; vertex colours become a texture."""
    parts = [with_color_texture(mesh) for mesh in meshes if len(mesh.faces)]
    textures = {id(part.texture): part.texture for part in parts if part.texture is not None}
    images = {key: f"{path.stem}_{number}.png" for number, key in enumerate(textures)}
    library = path.with_suffix(".mtl")
    names = part_names(parts)
    text = "".join([f"# +y up, right-handed\nmtllib {library.name}\n", *_objects(names, parts)])
    materials = "".join(_material(name, part, images) for name, part in zip(names, parts, strict=True))
    encoded = {path.with_name(images[key]): encode_png(texture) for key, texture in textures.items()}
    write_all({path: text.encode(), library: materials.encode(), **encoded})


def _material(name: str, part: Mesh, images: dict[int, str]) -> str:
    red, green, blue = srgb_from_linear(np.asarray(part.base_color[:3]))
    texture = f"map_Kd {images[id(part.texture)]}\n" if part.texture is not None else ""
    return f"newmtl {name}\nKd {red:.6f} {green:.6f} {blue:.6f}\nKs 0 0 0\nillum 1\n{texture}\n"


def _objects(names: Sequence[str], parts: Sequence[Mesh]) -> Iterator[str]:
    """The lines of all parts; equal rows of a part are written once, and numbered through the whole file."""
    start = dict.fromkeys(("v", "vt", "vn"), 1)
    for name, part in zip(names, parts, strict=True):
        yield f"o {name}\nusemtl {name}\n"
        corners = []
        for word, rows in _attributes(part):
            distinct, index = np.unique(rows.astype(np.float32) + 0.0, axis=0, return_inverse=True)
            yield _rows(word, distinct)
            corners.append(index.reshape(-1)[part.faces] + start[word])
            start[word] += len(distinct)
        yield _face_rows(np.stack(corners, axis=-1), _corner_form(part))


def _attributes(part: Mesh) -> Iterator[tuple[str, np.ndarray]]:
    yield "v", part.vertices @ WORLD_FROM_Y_UP
    if part.uv is not None:
        yield "vt", part.uv * (1, -1) + (0, 1)  # the format counts v upwards
    if part.normals is not None:
        yield "vn", part.normals @ WORLD_FROM_Y_UP


def _corner_form(part: Mesh) -> str:
    if part.uv is None:
        return "%d" if part.normals is None else "%d//%d"
    return "%d/%d" if part.normals is None else "%d/%d/%d"


def _rows(word: str, values: np.ndarray) -> str:
    line = word + " %.7g" * values.shape[1] + "\n"
    return (line * len(values)) % tuple(values.reshape(-1).tolist())


def _face_rows(corners: np.ndarray, form: str) -> str:
    """Faces (F, 3, N) of numbers from 1, N as many as `form` takes."""
    return (f"f {form} {form} {form}\n" * len(corners)) % tuple(corners.reshape(-1).tolist())
