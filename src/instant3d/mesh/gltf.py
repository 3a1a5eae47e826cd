"""glTF 2.0 files (.glb, .gltf) to meshes. Knows nothing of other formats, of lights, cameras or animation.

Own code rather than a library's: a stranger's file must be refused when it cannot be shown as meant, and the common
readers pass over unknown required extensions, oversized textures, skins and cut-out materials without a word.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from instant3d.mesh.light import srgb_from_linear
from instant3d.mesh.texture_files import Decoder, path_inside
from instant3d.mesh.triangles import MAX_FACES, Mesh

Json = dict[str, Any]

# Extensions that only change the look in ways a diffuse colour does not show, or that are read below.
KNOWN_EXTENSIONS = {"KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp", "KHR_lights_punctual"}
KNOWN_PREFIX = "KHR_materials_"
COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
WRAP_MODES = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
BLEND_CUTOFF = 0.1  # see-through materials are drawn solid, except where they are next to invisible
Y_UP_TO_WORLD = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=np.float64)  # (x, y, z) -> (x, -z, y)


def read(path: Path) -> list[Mesh]:
    """Every triangle primitive of the default scene, placed by its nodes, in world axes."""
    document, binary = _open(path)
    try:
        return list(_Reader(document, binary, path.parent).meshes())
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"its glTF description is broken ({type(error).__name__}: {error})") from error


def _open(path: Path) -> tuple[Json, bytes | None]:
    """The JSON document and the binary chunk of a .glb, or the JSON of a .gltf."""
    data = path.read_bytes()
    if data[:4] != b"glTF":
        return _parse(data), None
    if len(data) < 20:
        raise ValueError("the file is cut short")
    _, version, length = struct.unpack_from("<4sII", data)
    size, kind = struct.unpack_from("<II", data, 12)
    if version != 2 or kind != 0x4E4F534A:
        raise ValueError(f"it is not glTF 2.0 (version {version})")
    if length > len(data) or 20 + size > len(data):
        raise ValueError(f"the file is cut short: {len(data)} bytes of {max(length, 20 + size)}")
    document, start = _parse(data[20 : 20 + size]), 20 + size
    return document, data[
        start + 8 : start + 8 + struct.unpack_from("<I", data, start)[0]
    ] if length >= start + 8 else None


def _parse(text: bytes) -> Json:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it does not hold a glTF document") from error
    if not isinstance(document, dict) or "asset" not in document:
        raise ValueError("it does not hold a glTF document")
    unknown = [name for name in document.get("extensionsRequired", []) if not _known(name)]
    if unknown:
        raise ValueError(f"it needs the glTF extension {', '.join(map(str, unknown))}; export it again without")
    return document


def _known(name: str) -> bool:
    return name in KNOWN_EXTENSIONS or str(name).startswith(KNOWN_PREFIX)


class _Reader:
    """One file's document with its buffers and pictures, each fetched once."""

    def __init__(self, document: Json, binary: bytes | None, folder: Path) -> None:
        self.document, self.binary, self.folder = document, binary, folder
        self.nodes: list[Json] = document.get("nodes", [])
        self.buffers: dict[int, bytes] = {}
        self.images: dict[int, np.ndarray] = {}
        self.decoder = Decoder()
        self.faces_read = 0

    def meshes(self) -> Iterator[Mesh]:
        placed = dict(self._placed_nodes())
        for index, matrix in placed.items():
            node = self.nodes[index]
            if "mesh" not in node:
                continue
            mesh = self.document["meshes"][node["mesh"]]
            for primitive in mesh["primitives"]:
                if primitive.get("mode", 4) in (4, 5, 6) and "POSITION" in primitive["attributes"]:
                    weights = node.get("weights", mesh.get("weights", []))
                    yield self._primitive(primitive, matrix, self._joints(node, placed), weights)

    def _placed_nodes(self) -> Iterator[tuple[int, np.ndarray]]:
        """Nodes of the default scene with their matrices to the scene, parents first."""
        scenes = self.document.get("scenes")
        children = {child for node in self.nodes for child in node.get("children", [])}
        roots = (
            scenes[self.document.get("scene", 0)].get("nodes", []) if scenes else set(range(len(self.nodes))) - children
        )
        waiting, seen = [(root, np.eye(4)) for root in roots], set()
        while waiting:
            index, parent = waiting.pop()
            if index in seen or index < 0:
                raise ValueError(f"node {index} is reached twice; nodes must form a tree")
            seen.add(index)
            matrix = parent @ _local_matrix(self.nodes[index])
            yield index, matrix
            waiting += [(child, matrix) for child in self.nodes[index].get("children", [])]

    def _joints(self, node: Json, placed: dict[int, np.ndarray]) -> np.ndarray | None:
        """Matrices (J, 4, 4) from a skinned mesh's own axes to the scene, or None."""
        if "skin" not in node:
            return None
        skin = self.document["skins"][node["skin"]]
        scene = np.stack([placed[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" not in skin:
            return scene
        inverse = self._accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
        return scene @ inverse[: len(scene)]

    def _primitive(self, primitive: Json, matrix: np.ndarray, joints: np.ndarray | None, weights: list[float]) -> Mesh:
        attributes = primitive["attributes"]
        position = self._morphed(primitive, "POSITION", weights)
        normal = self._morphed(primitive, "NORMAL", weights) if "NORMAL" in attributes else None
        faces = self._faces(primitive, len(position))
        matrices = matrix if joints is None else self._skinned(attributes, joints)
        position = _transform(matrices, position)
        if np.linalg.det(matrices[..., :3, :3]).mean() < 0:  # a mirroring node turns every face inside out
            faces = faces[:, ::-1]
        if normal is not None:
            normal = _unit(_rotate(np.linalg.pinv(matrices[..., :3, :3]).swapaxes(-1, -2), normal) @ Y_UP_TO_WORLD.T)
        colors = self._colors(attributes)
        return Mesh(position @ Y_UP_TO_WORLD.T, faces, normal, colors, **self._material(primitive))

    def _faces(self, primitive: Json, vertices: int) -> np.ndarray:
        indices = self._accessor(primitive["indices"])[:, 0] if "indices" in primitive else np.arange(vertices)
        mode = primitive.get("mode", 4)
        count = len(indices) // 3 if mode == 4 else max(len(indices) - 2, 0)
        self.faces_read += count
        if self.faces_read > MAX_FACES:
            raise ValueError(f"it holds more than {MAX_FACES} triangles; simplify it first")
        indices = indices.astype(np.int64)
        if mode == 4:
            return indices[: count * 3].reshape(-1, 3)
        k = np.arange(count)
        if mode == 6:
            return np.stack([indices[np.zeros_like(k)], indices[k + 1], indices[k + 2]], 1)
        odd = k % 2  # in a strip every second triangle runs the other way round
        return np.stack([indices[k], indices[k + 1 + odd], indices[k + 2 - odd]], 1)

    def _morphed(self, primitive: Json, name: str, weights: list[float]) -> np.ndarray:
        value = self._accessor(primitive["attributes"][name]).astype(np.float64)
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            if weight and name in target:
                value = value + weight * self._accessor(target[name])
        return value

    def _skinned(self, attributes: Json, joints: np.ndarray) -> np.ndarray:
        """One blended matrix a vertex, (V, 4, 4)."""
        sets = [k for k in range(4) if f"JOINTS_{k}" in attributes]
        index = np.concatenate([self._accessor(attributes[f"JOINTS_{k}"], raw=True) for k in sets], 1).astype(np.int64)
        weight = np.concatenate([self._accessor(attributes[f"WEIGHTS_{k}"]) for k in sets], 1).astype(np.float64)
        weight /= np.maximum(weight.sum(1, keepdims=True), 1e-12)
        blended = np.zeros((len(index), 4, 4))
        for k in range(index.shape[1]):
            blended += weight[:, k, None, None] * joints[index[:, k]]
        return blended

    def _colors(self, attributes: Json) -> np.ndarray | None:
        if "COLOR_0" not in attributes:
            return None
        return srgb_from_linear(self._accessor(attributes["COLOR_0"])[:, :3])  # glTF 2.0, 3.7.2.1: linear

    def _material(self, primitive: Json) -> Json:
        """Keyword arguments of `Mesh` that come from the material."""
        material = self.document["materials"][primitive["material"]] if "material" in primitive else {}
        old = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        look = old if old is not None else material.get("pbrMetallicRoughness", {})
        names = ("diffuseFactor", "diffuseTexture") if old is not None else ("baseColorFactor", "baseColorTexture")
        factor = tuple(float(part) for part in look.get(names[0], (1, 1, 1, 1)))
        if len(factor) != 4 or not np.isfinite(factor).all():
            raise ValueError(f"a material's colour needs four finite numbers, got {factor}")
        cutoffs = {"MASK": float(material.get("alphaCutoff", 0.5)), "BLEND": BLEND_CUTOFF}
        found: Json = {"base_color": factor, "alpha_cutoff": cutoffs.get(material.get("alphaMode", "OPAQUE"), 0.0)}
        return found | (self._texture(look[names[1]], primitive["attributes"]) if names[1] in look else {})

    def _texture(self, use: Json, attributes: Json) -> Json:
        move = use.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{move.get('texCoord', use.get('texCoord', 0))}"
        if name not in attributes:
            return {}
        texture = self.document["textures"][use["index"]]
        source = texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source", texture.get("source"))
        if source is None:
            raise ValueError("a texture has no PNG, JPEG or WebP picture")
        sampler = self.document["samplers"][texture["sampler"]] if "sampler" in texture else {}
        wrap = tuple(WRAP_MODES.get(sampler.get(key, 10497), "repeat") for key in ("wrapS", "wrapT"))
        return {"uv": _moved(self._accessor(attributes[name]), move), "texture": self._image(source), "wrap": wrap}

    def _image(self, index: int) -> np.ndarray:
        if index not in self.images:
            image = self.document["images"][index]
            data = self._view(image["bufferView"]) if "bufferView" in image else self._fetch(image["uri"])
            self.images[index] = self.decoder.decode(data)
        return self.images[index]

    def _fetch(self, uri: str) -> bytes:
        if not uri.startswith("data:"):
            return path_inside(self.folder, uri).read_bytes()
        try:
            return base64.b64decode(uri.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ValueError("data inside it is not valid base64") from error

    def _buffer(self, index: int) -> bytes:
        if index not in self.buffers:
            buffer = self.document["buffers"][index]
            data = self._fetch(buffer["uri"]) if "uri" in buffer else self.binary
            if data is None or len(data) < buffer["byteLength"]:
                raise ValueError(f"buffer {index} is cut short: {len(data or b'')} bytes of {buffer['byteLength']}")
            self.buffers[index] = data
        return self.buffers[index]

    def _view(self, index: int) -> bytes:
        view = self.document["bufferViews"][index]
        start, length = view.get("byteOffset", 0), view["byteLength"]
        data = self._buffer(view["buffer"])
        if start < 0 or length < 0 or start + length > len(data):
            raise ValueError(f"buffer view {index} reaches beyond its buffer")
        return data[start : start + length]

    def _accessor(self, index: int, *, raw: bool = False) -> np.ndarray:
        """Values (count, width); normalised integers become floats in [0, 1] or [-1, 1] unless `raw`."""
        accessor = self.document["accessors"][index]
        kind, width, count = (
            np.dtype(COMPONENTS[accessor["componentType"]]),
            WIDTHS[accessor["type"]],
            accessor["count"],
        )
        if not 0 <= count <= 3 * MAX_FACES:
            raise ValueError(f"accessor {index} asks for {count} elements")
        if "bufferView" in accessor:
            view = self.document["bufferViews"][accessor["bufferView"]]
            data, start = self._view(accessor["bufferView"]), accessor.get("byteOffset", 0)
            value = _strided(data, start, kind, count, width, view.get("byteStride", 0))
        else:
            value = np.zeros((count, width), kind)
        if "sparse" in accessor:
            value = self._sparse(value.copy(), accessor["sparse"])
        if accessor.get("normalized") and not raw and kind.kind in "iu":
            return np.maximum(value.astype(np.float32) / np.iinfo(kind).max, -1)
        return value

    def _sparse(self, value: np.ndarray, sparse: Json) -> np.ndarray:
        count, where, what = sparse["count"], sparse["indices"], sparse["values"]
        kind = np.dtype(COMPONENTS[where["componentType"]])
        index = _strided(self._view(where["bufferView"]), where.get("byteOffset", 0), kind, count, 1, 0)[:, 0]
        value[index] = _strided(
            self._view(what["bufferView"]), what.get("byteOffset", 0), value.dtype, count, value.shape[1], 0
        )
        return value


def _strided(data: bytes, start: int, kind: np.dtype, count: int, width: int, stride: int) -> np.ndarray:
    item = kind.itemsize * width
    stride = stride or item
    if count < 0 or start < 0 or (count and start + stride * (count - 1) + item > len(data)):
        raise ValueError("an accessor reaches beyond its buffer view")
    return (
        np.ndarray((count, width), kind.newbyteorder("<"), data, start, (stride, kind.itemsize))
        if count
        else np.zeros((0, width), kind)
    )


def _local_matrix(node: Json) -> np.ndarray:
    if "matrix" in node:
        return np.asarray(node["matrix"], dtype=np.float64).reshape(4, 4).T  # stored by columns
    x, y, z, w = np.asarray(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.asarray(node.get("scale", (1, 1, 1)), dtype=np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _transform(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (V, 3) through one matrix (4, 4) or one a point (V, 4, 4)."""
    return _rotate(matrices[..., :3, :3], points) + matrices[..., :3, 3]


def _rotate(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("...ij,...j->...i", matrices, vectors)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _moved(uv: np.ndarray, move: Json) -> np.ndarray:
    """Texture coordinates after KHR_texture_transform: scaled, turned, shifted."""
    angle = float(move.get("rotation", 0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (uv * np.asarray(move.get("scale", (1, 1)))) @ turn.T + np.asarray(move.get("offset", (0, 0)))
