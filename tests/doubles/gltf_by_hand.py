"""Builds glTF documents field by field, so that tests know what is in them without the code under test."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

CODES = {"float32": 5126, "uint8": 5121, "uint16": 5123, "uint32": 5125, "int16": 5122}
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}

# One triangle with no symmetry, in a file's axes (+y up).
TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 3]], np.float32)
TRIANGLE_IN_WORLD = np.array([[0, 0, 0], [1, 0, 0], [0, -3, 2]], np.float32)


class ByHand:
    """A growing document with one buffer held in a data URI."""

    def __init__(self) -> None:
        self.data = b""
        self.json: dict[str, Any] = {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": []}

    def view(self, data: bytes, **more: Any) -> int:
        self.json["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data), **more})
        self.data += data + bytes(-len(data) % 4)
        return len(self.json["bufferViews"]) - 1

    def values(self, values: np.ndarray, **more: Any) -> int:
        values = np.asarray(values)
        rows = values.reshape(len(values), -1)
        kind = {"componentType": CODES[values.dtype.name], "count": len(rows), "type": KINDS[rows.shape[1]]}
        self.json["accessors"].append({"bufferView": self.view(rows.tobytes()), **kind, **more})
        return len(self.json["accessors"]) - 1

    def picture(self, data: bytes) -> int:
        """A texture made of an encoded picture."""
        self.json.setdefault("images", []).append({"bufferView": self.view(data), "mimeType": "image/png"})
        self.json.setdefault("textures", []).append({"source": len(self.json["images"]) - 1})
        return len(self.json["textures"]) - 1

    def save(self, path: Path, **changes: Any) -> Path:
        uri = "data:application/octet-stream;base64," + base64.b64encode(self.data).decode()
        document = self.json | {"buffers": [{"uri": uri, "byteLength": len(self.data)}]} | changes
        path.write_text(json.dumps(document))
        return path


def triangle(attributes: dict[str, int] | None = None, document: ByHand | None = None, **primitive: Any) -> ByHand:
    """A document whose one node shows `TRIANGLE`, with further attributes and fields of the primitive."""
    document = document or ByHand()
    position = {"POSITION": document.values(TRIANGLE)}
    document.json["meshes"] = [{"primitives": [{"attributes": position | (attributes or {}), **primitive}]}]
    document.json["nodes"] = [{"mesh": 0}]
    return document


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares its size and holds no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
