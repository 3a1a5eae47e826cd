"""glTF 2.0 writer: meshes to one .glb file.

Materials are matte (metallic 0, roughness 1), and two-sided unless the part is closed; vertex colours are linear, as
glTF demands. The object and its materials are named after the parts, or else "mesh": equal meshes make equal files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instant3d.mesh.colorspace import linear_from_srgb
from instant3d.mesh.gltf_document import Json
from instant3d.mesh.gltf_reader import WRAP_MODES
from instant3d.mesh.mesh import WORLD_FROM_Y_UP, Mesh
from instant3d.mesh.topology import is_closed, signed_volume
from instant3d.utils.atomic import write_bytes
from instant3d.utils.images import encode_png

ARRAY, INDICES = 34962, 34963  # targets of buffer views
SHORT = 65536  # vertices that indices of 16 bits can name, of which glTF keeps the last for itself
TYPES = {np.dtype(np.float32): 5126, np.dtype(np.uint8): 5121, np.dtype(np.uint16): 5123, np.dtype(np.uint32): 5125}


def write_glb(meshes: Sequence[Mesh], path: Path) -> None:
    """Write `meshes` as the parts of one object, +y up."""
    writer = _Writer(next((mesh.name for mesh in meshes if mesh.name), "mesh"))
    primitives = [writer.primitive(mesh) for mesh in meshes if len(mesh.faces)]
    write_bytes(path, container(writer.document(primitives), bytes(writer.data)))


def container(document: Json, binary: bytes) -> bytes:
    """Assemble a GLB: a header, the JSON padded with spaces, the binary chunk padded with zeros."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


class _Writer:
    """The growing binary chunk, and the JSON lists that describe it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = bytearray()
        self.lists: dict[str, list[Json]] = {key: [] for key in ("bufferViews", "accessors", "materials")}
        self.images: dict[str, list[Json]] = {key: [] for key in ("images", "textures", "samplers")}
        self.textures: dict[tuple[int, tuple[str, str]], int] = {}

    def document(self, primitives: list[Json]) -> Json:
        filled = {key: value for key, value in (self.lists | self.images).items() if value}
        return {
            "asset": {"version": "2.0", "generator": "instant3d"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": self.name}],
            "meshes": [{"primitives": primitives, "name": self.name}],
            "buffers": [{"byteLength": len(self.data)}],
        } | filled

    def primitive(self, mesh: Mesh) -> Json:
        attributes = {"POSITION": self._accessor(mesh.vertices @ WORLD_FROM_Y_UP, "VEC3", bounded=True)}
        if mesh.normals is not None:
            attributes["NORMAL"] = self._accessor(_unit(mesh.normals) @ WORLD_FROM_Y_UP, "VEC3")
        if mesh.colors is not None:
            attributes["COLOR_0"] = self._colors(mesh.colors)
        if mesh.uv is not None:
            attributes["TEXCOORD_0"] = self._accessor(mesh.uv, "VEC2")
        kind = np.uint16 if len(mesh.vertices) < SHORT else np.uint32
        indices = self._accessor(mesh.faces.reshape(-1, 1).astype(kind), "SCALAR")
        return {"attributes": attributes, "indices": indices, "material": self._material(mesh)}

    def _colors(self, srgb: np.ndarray) -> int:
        """Write colours with 8 bits a channel: trimesh 5 re-exports 16 as garbage. Near black, sRGB errs by 6/255."""
        steps = np.rint(linear_from_srgb(np.clip(srgb, 0, 1)) * 255).astype(np.uint8)
        opaque = np.full((len(steps), 1), 255, np.uint8)
        return self._accessor(np.hstack([steps, opaque]), "VEC4", normalized=True)

    def _accessor(self, values: np.ndarray, kind: str, *, normalized: bool = False, bounded: bool = False) -> int:
        values = np.ascontiguousarray(values, dtype=values.dtype if values.dtype in TYPES else np.float32)
        view = self._view(values.tobytes(), INDICES if kind == "SCALAR" else ARRAY)
        accessor: Json = {"bufferView": view, "componentType": TYPES[values.dtype], "count": len(values), "type": kind}
        if normalized:
            accessor["normalized"] = True
        if bounded:
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        return _append(self.lists["accessors"], accessor)

    def _view(self, data: bytes, target: int | None) -> int:
        view: Json = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self.data += data + bytes(-len(data) % 4)
        return _append(self.lists["bufferViews"], view)

    def _material(self, mesh: Mesh) -> int:
        look: dict[str, Any] = {"baseColorFactor": list(mesh.base_color), "metallicFactor": 0, "roughnessFactor": 1}
        if mesh.texture is not None:
            look["baseColorTexture"] = {"index": self._texture(mesh.texture, mesh.wrap)}
        material: Json = {"name": mesh.name or self.name, "pbrMetallicRoughness": look}
        if not (is_closed(mesh) and signed_volume(mesh) > 0):
            material["doubleSided"] = True
        if mesh.alpha_cutoff > 0:
            material |= {"alphaMode": "MASK", "alphaCutoff": mesh.alpha_cutoff}
        return _append(self.lists["materials"], material)

    def _texture(self, texture: np.ndarray, wrap: tuple[str, str]) -> int:
        key = (id(texture), wrap)
        if key not in self.textures:
            opaque = bool((texture[..., 3] == 255).all())
            png = encode_png(texture[..., :3] if opaque else texture)
            modes = {word: mode for mode, word in WRAP_MODES.items()}
            image = {"bufferView": self._view(png, None), "mimeType": "image/png"}
            sampler = {"magFilter": 9729, "minFilter": 9987, "wrapS": modes[wrap[0]], "wrapT": modes[wrap[1]]}
            source, used = _append(self.images["images"], image), _append(self.images["samplers"], sampler)
            self.textures[key] = _append(self.images["textures"], {"source": source, "sampler": used})
        return self.textures[key]


def _append(items: list[Json], item: Json) -> int:
    items.append(item)
    return len(items) - 1


def _unit(normals: np.ndarray) -> np.ndarray:
    """Normalise to unit length, as glTF requires; zero normals become +z."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-6, normals / np.maximum(length, 1e-6), np.array([0, 0, 1], np.float32))
