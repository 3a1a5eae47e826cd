"""glTF 2.0 container (.glb, .gltf): JSON, accessors, buffers and images."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from instant3d.mesh.gltf_budget import Budget
from instant3d.mesh.untrusted import ImageDecoder, TooLarge, content, path_inside

Json = dict[str, Any]

# Extensions that do not change the diffuse colour, or that `gltf_reader` implements.
KNOWN_EXTENSIONS = {
    "KHR_texture_transform",
    "KHR_mesh_quantization",
    "KHR_lights_punctual",
    "EXT_texture_webp",
    "EXT_mesh_gpu_instancing",
}
COMPRESSIONS = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")
KNOWN_PREFIX = "KHR_materials_"
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
MAX_ELEMENTS = 15_000_000  # of one accessor: what `MAX_FACES` separate triangles need
JSON_CHUNK = 0x4E4F534A
READING = 2**12  # bytes charged for reading any accessor, however short, because it takes time
VALUE = 8  # bytes of a number during processing


class GltfDocument:
    """JSON of one file with its buffers and images, each loaded once."""

    def __init__(self, path: Path) -> None:
        data = content(path)
        self.budget = Budget()
        self.budget.grow(len(data))
        self.json, self.binary = _open(data)
        self.folder, self.decoder = path.parent, ImageDecoder()
        self.files: dict[Path, bytes] = {}
        self.buffers: dict[int, memoryview] = {}
        self.images: dict[int, np.ndarray] = {}

    @property
    def roots(self) -> list[int]:
        """Node indices of the default scene; without scenes, of all nodes that are not a child of another."""
        scenes, nodes = self.json.get("scenes"), self.json.get("nodes", [])
        if scenes:
            return list(scenes[self.json.get("scene", 0)].get("nodes", []))
        children = {child for node in nodes for child in node.get("children", [])}
        return [index for index in range(len(nodes)) if index not in children]

    @property
    def compressed(self) -> str:
        """The extension by which the file compresses geometry, which is not decoded; "" if none is used."""
        used = self.json.get("extensionsUsed", [])
        return next((str(name) for name in used if name in COMPRESSIONS), "")

    def image(self, index: int) -> np.ndarray:
        """Return the pixels (H, W, 4) uint8 of an image; repeated calls return the same array."""
        if index not in self.images:
            self.images[index] = self.decoder.decode(self.encoded_image(index))
        return self.images[index]

    def encoded_image(self, index: int) -> bytes:
        """Return the encoded file of an image."""
        image = self.json["images"][index]
        return bytes(self._view(image["bufferView"])) if "bufferView" in image else self._fetch(image["uri"])

    def accessor(self, index: int, *, raw: bool = False) -> np.ndarray:
        """Read an accessor.

        Args:
            index: Index of the accessor.
            raw: Keep normalised integers; by default they become floats in [0, 1] or [-1, 1].

        Returns:
            (count, width).
        """
        accessor = self.json["accessors"][index]
        kind, count = np.dtype(COMPONENTS[accessor["componentType"]]), accessor["count"]
        shape = (count, WIDTHS[accessor["type"]])
        self._allow(index, count, shape[1])
        if "bufferView" not in accessor and "sparse" not in accessor and self.compressed:
            raise ValueError(f"its geometry is compressed ({self.compressed}) without a fallback; export it without")
        value = self._read(accessor, kind, shape) if "bufferView" in accessor else np.zeros(shape, kind)
        if "sparse" in accessor:
            self._allow(index, accessor["sparse"]["count"], shape[1] + 1)
            value = self._sparse(value.copy(), accessor["sparse"])
        if accessor.get("normalized") and not raw and kind.kind in "iu":
            return np.maximum(value.astype(np.float32) / (2 ** (8 * kind.itemsize - (kind.kind == "i")) - 1), -1)
        return value

    def _allow(self, index: int, count: int, width: int) -> None:
        if not 0 <= count <= MAX_ELEMENTS:
            raise TooLarge(f"accessor {index} has {count} elements; at most {MAX_ELEMENTS} are read")
        self.budget.spend(READING + VALUE * count * width)

    def _sparse(self, value: np.ndarray, sparse: Json) -> np.ndarray:
        """Return a copy in which the sparse accessor's rows are replaced."""
        count, where = sparse["count"], sparse["indices"]
        index = self._read(where, np.dtype(COMPONENTS[where["componentType"]]), (count, 1))[:, 0]
        value[index] = self._read(sparse["values"], value.dtype, (count, value.shape[1]))
        return value

    def _read(self, place: Json, kind: np.dtype, shape: tuple[int, int]) -> np.ndarray:
        """Return a view into a buffer; `place` names the buffer view and an offset in it."""
        data, start = self._view(place["bufferView"]), place.get("byteOffset", 0)
        item = kind.itemsize * shape[1]
        stride = self.json["bufferViews"][place["bufferView"]].get("byteStride", item)
        if shape[0] == 0:
            return np.zeros(shape, kind)
        if min(shape[0], start, stride) < 0 or start + stride * (shape[0] - 1) + item > len(data):
            raise ValueError("an accessor reaches beyond its buffer view")
        return np.ndarray(shape, kind, data, start, (stride, kind.itemsize))

    def _view(self, index: int) -> memoryview:
        view = self.json["bufferViews"][index]
        start, length = view.get("byteOffset", 0), view["byteLength"]
        data = self.buffer(view["buffer"])
        if start < 0 or length < 0 or start + length > len(data):
            raise ValueError(f"buffer view {index} reaches beyond its buffer")
        return data[start : start + length]

    def buffer(self, index: int) -> memoryview:
        """Return the bytes of a buffer, which may come from a file beside this one."""
        if index not in self.buffers:
            buffer = self.json["buffers"][index]
            data = self._fetch(buffer["uri"]) if "uri" in buffer else self.binary
            if len(data) < buffer["byteLength"]:
                raise ValueError(
                    f"buffer {index} is cut short: {len(data)} bytes of {buffer['byteLength']}; copy it again"
                )
            self.buffers[index] = memoryview(data)
        return self.buffers[index]

    def _fetch(self, uri: str) -> bytes:
        if not uri.startswith("data:"):
            return self._beside(path_inside(self.folder, uri))
        try:
            return base64.b64decode(uri.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ValueError("data inside it is not valid base64; export it again") from error

    def _beside(self, path: Path) -> bytes:
        """Read a file once, however often it is referenced."""
        if path not in self.files:
            self.files[path] = content(path)
            self.budget.grow(len(self.files[path]))
        return self.files[path]


def _open(data: bytes) -> tuple[Json, bytes]:
    """Split a file into the JSON document and the binary chunk of a .glb."""
    if data[:4] != b"glTF":
        return _parse(data), b""
    if len(data) < 20:
        raise ValueError("the file is cut short; copy it again")
    _, version, total, size, kind = struct.unpack_from("<4sIIII", data)
    if version != 2 or kind != JSON_CHUNK:
        raise ValueError(f"it is not glTF 2.0 (version {version}); export it as glTF 2.0")
    start = 20 + size
    if max(total, start) > len(data):
        raise ValueError(f"the file is cut short: {len(data)} bytes of {max(total, start)}; copy it again")
    length = struct.unpack_from("<I", data, start)[0] if total >= start + 8 else 0
    return _parse(data[20:start]), data[start + 8 : start + 8 + length]


def _parse(text: bytes) -> Json:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it does not hold a glTF document; export it again") from error
    if not isinstance(document, dict) or "asset" not in document:
        raise ValueError("it does not hold a glTF document; export it again")
    required = [str(name) for name in document.get("extensionsRequired", [])]
    unknown = [name for name in required if name not in KNOWN_EXTENSIONS and not name.startswith(KNOWN_PREFIX)]
    if unknown:
        raise ValueError(f"it needs the glTF extension {', '.join(unknown)}; export it again without")
    return document
