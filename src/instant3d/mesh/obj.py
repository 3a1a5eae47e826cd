"""Wavefront .obj reader (+y up): one mesh per material.

Own code rather than a library's: an untrusted file must be read as intended or refused, and the common readers count
relative indices from the end of the file, read only one material library and fill in concave faces.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from instant3d.mesh.emission import EmissionBaker, Look
from instant3d.mesh.mesh import WORLD_FROM_Y_UP, Mesh
from instant3d.mesh.mtl import Material, materials, statements
from instant3d.mesh.polygons import Triangulator
from instant3d.mesh.untrusted import ImageDecoder, TooLarge, content, path_inside, plain_text
from instant3d.utils.mesh_options import MAX_FACES

VERTEX, UV, NORMAL = 0, 1, 2
# the parts of a corner, by its text with each number written as 0
FORMS = {
    "0": (VERTEX,),
    "0/": (VERTEX,),
    "0//": (VERTEX,),
    "0/0": (VERTEX, UV),
    "0/0/": (VERTEX, UV),
    "0//0": (VERTEX, NORMAL),
    "0/0/0": (VERTEX, UV, NORMAL),
}
NAMES = ("vertices", "texture coordinates", "normals")
MAX_PARTS = 4096  # materials, each of which becomes a mesh
MAX_WORDS = 16  # in the name of one material library


def read_obj(path: Path) -> list[Mesh]:
    """Read the parts of an .obj file as meshes in world axes.

    Raises:
        TooLarge: It holds too many triangles, materials or pixels.
        UnsafePath: It refers to a file outside its folder.
        ValueError: It is broken, or a file that it refers to is missing.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # `Mesh` refuses values that are not finite
        return list(_Object(path).meshes())


class _Object:
    """The statements of one file, grouped by type."""

    def __init__(self, path: Path) -> None:
        self.folder, self.decoder, self.triangulator = path.parent, ImageDecoder(), Triangulator()
        self.emission = EmissionBaker()
        self.rows: dict[str, list[str]] = {"v": [], "vt": [], "vn": []}
        self.polygons: dict[tuple[str, str], list[str]] = defaultdict(list)  # by material and form
        self.libraries: dict[Path, dict[str, Material]] = {}
        self.textures: dict[Path, np.ndarray] = {}
        self._sort(plain_text(content(path)))

    def _sort(self, text: str) -> None:
        material = ""
        for word, rest in statements(text):
            if word in self.rows:
                self.rows[word].append(rest)
            elif word == "f":
                self._polygon(material, rest)
            elif word == "usemtl":
                material = rest
            elif word == "mtllib":
                self._libraries(rest)

    def _polygon(self, material: str, rest: str) -> None:
        """Store a face with those of the same form, its relative indices made absolute."""
        corners = rest.partition("#")[0].split()
        if len(corners) < 3:
            return
        if "-" in rest:
            corners = [self._absolute(corner) for corner in corners]
        words = " ".join(corners)
        self.polygons[material, re.sub(r"\d+", "0", words)].append(words)

    def _absolute(self, corner: str) -> str:
        """Convert negative indices of a corner, which count back from the rows read so far, to positive ones."""
        words, lists = corner.split("/"), self.rows.values()
        return "/".join(
            str(max(0, len(rows) + 1 + int(word))) if word.startswith("-") else word
            for word, rows in zip(words, lists, strict=False)
        )

    def _libraries(self, rest: str) -> None:
        for path in _named_files(self.folder, rest):
            if path not in self.libraries:
                self.libraries[path] = materials(plain_text(content(path)))

    def _material(self, name: str) -> Material:
        """Return the material from the first library that defines it; white if none does."""
        return next((found[name] for found in self.libraries.values() if name in found), Material())

    def meshes(self) -> Iterator[Mesh]:
        """Yield one mesh for each material and form of corner."""
        if sum(len(faces) * (form.count(" ") - 1) for (_, form), faces in self.polygons.items()) > MAX_FACES:
            raise TooLarge(f"it holds more than {MAX_FACES} triangles; simplify it first")
        lists = [_numbers(self.rows["v"], 3), _numbers(self.rows["vt"], 2), _numbers(self.rows["vn"], 3)]
        colors = _colors(self.rows["v"])
        triangles: dict[tuple[str, tuple[int, ...]], list[np.ndarray]] = defaultdict(list)
        for (material, form), faces in self.polygons.items():
            corners, kept = _corners(faces, form, [len(rows) for rows in lists])
            number, *three = self.triangulator.triangles(corners[..., VERTEX], lists[VERTEX]).T
            triangles[material, kept].append(np.stack([corners[number, k] for k in three], axis=1))
        if len(triangles) > MAX_PARTS:
            raise TooLarge(f"it holds {len(triangles)} materials; at most {MAX_PARTS} are read")
        for (name, _), found in triangles.items():
            yield self._mesh(np.concatenate(found), name, lists, colors)

    def _mesh(self, corners: np.ndarray, name: str, lists: list[np.ndarray], colors: np.ndarray | None) -> Mesh:
        """Build the mesh of corners (F, 3, 3): indices of vertex, texture coordinate and normal, -1 if absent."""
        used, faces = _distinct(corners.reshape(-1, 3), [len(rows) for rows in lists])
        vertex, uv, normal = used.T
        material = self._material(name)
        coordinates = lists[UV][uv] if uv.min(initial=0) >= 0 else None
        look, colored = self._look(material, coordinates), colors is not None
        if colors is not None and "texture" not in look:
            look["colors"] = colors[vertex]
        if material.emission is not None:
            look = self.emission.add(look, self._look(material.emission, coordinates), vertex_colors=colored)
        normals = None if normal.min(initial=0) < 0 else _unit(lists[NORMAL][normal] @ WORLD_FROM_Y_UP.T)
        return Mesh(lists[VERTEX][vertex] @ WORLD_FROM_Y_UP.T, faces.reshape(-1, 3), normals, **look)

    def _look(self, material: Material, uv: np.ndarray | None) -> Look:
        """Return base colour, or texture; Kd is then no colour of its own."""
        if material.texture is None or uv is None:
            return {"base_color": material.base_color}
        return {"base_color": (1.0, 1.0, 1.0, 1.0)} | self._texture(material, uv)

    def _texture(self, material: Material, uv: np.ndarray) -> Look:
        path = path_inside(self.folder, str(material.texture))
        if path not in self.textures:
            self.textures[path] = self.decoder.decode(content(path))
        moved = uv * material.scale + material.offset
        wrap = ("clamp", "clamp") if material.clamped else ("repeat", "repeat")
        return {"uv": moved * (1, -1) + (0, 1), "texture": self.textures[path], "wrap": wrap}  # .obj counts v upwards


def _named_files(folder: Path, rest: str) -> list[Path]:
    """Split an `mtllib` statement into files, whose names may contain blanks: the longest existing name wins.

    Raises:
        ValueError: A name leads to no file, or outside the folder.
    """
    words, found = rest.split(), list[Path]()
    while words:
        length = next((n for n in range(min(len(words), MAX_WORDS), 1, -1) if _is_there(folder, words[:n])), 1)
        found.append(path_inside(folder, " ".join(words[:length])))
        del words[:length]
    return found


def _is_there(folder: Path, words: Sequence[str]) -> bool:
    try:
        return path_inside(folder, " ".join(words)).is_file()
    except ValueError:
        return False


def _numbers(rows: Sequence[str], width: int) -> np.ndarray:
    """Return the first `width` numbers of each row, (N, width) float64."""
    if not rows:
        return np.zeros((0, width))
    if width == 2:
        rows = [row if " " in row else f"{row} 0" for row in rows]  # a texture along one axis
    return _table(rows, range(width))


def _colors(rows: Sequence[str]) -> np.ndarray | None:
    """Return the red, green and blue values that follow each vertex, (N, 3) in [0, 1], if all vertices have them."""
    if not rows or len(rows[0].split()) < 6 or min(len(row.partition("#")[0].split()) for row in rows) < 6:
        return None
    found = _table(rows, range(3, 6))
    return np.clip(found / 255 if found.max() > 1 else found, 0, 1)


def _table(rows: Sequence[str], columns: range) -> np.ndarray:
    """Parse numbers (N, C) of the rows; refuse empty rows, which `loadtxt` would skip and so shift all indices."""
    found = np.loadtxt(rows, usecols=columns, ndmin=2)
    if len(found) != len(rows):
        raise ValueError(f"{len(rows) - len(found)} of {len(rows)} vertices or the like have no numbers")
    return found


def _corners(faces: Sequence[str], form: str, counts: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Parse faces of one form.

    Returns:
        Indices from 0 of vertex, texture coordinate and normal, (P, N, 3), -1 where the form has none; and which of the
        three it has.

    Raises:
        ValueError: A face is of no known form, or refers to a missing row.
    """
    one, *others = form.split(" ")
    if one not in FORMS or any(other != one for other in others):
        raise ValueError(f"it has a face {faces[0]!r}, whose corners are not all of one form such as 1/1/1")
    kept = FORMS[one]
    found = np.full((len(faces), 1 + len(others), 3), -1, dtype=np.int64)
    numbers = np.fromstring(" ".join(faces).replace("/", " "), dtype=np.int64, sep=" ")
    found[..., kept] = numbers.reshape(*found.shape[:2], len(kept)) - 1
    for k in kept:
        low, high = int(found[..., k].min()) + 1, int(found[..., k].max()) + 1
        if low < 1 or high > counts[k]:
            raise ValueError(f"its faces refer to {NAMES[k]} {low} to {high}, but there are {counts[k]}")
    return found, kept


def _distinct(corners: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows of (C, 3), and for each row the index of its distinct row, (C,)."""
    pair = corners[:, VERTEX] * (counts[UV] + 1) + corners[:, UV] + 1
    _, which = np.unique(pair, return_inverse=True)
    key = which * (counts[NORMAL] + 1) + corners[:, NORMAL] + 1
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return corners[first], which


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
