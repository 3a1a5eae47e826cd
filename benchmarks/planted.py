"""Malicious and broken object files, written by hand from the glTF and PNG specifications."""

from __future__ import annotations

import json
import struct
import zlib

HUGE_PX = 30_000


def glb(document: dict, binary: bytes = b"") -> bytes:
    """A GLB container (glTF 2.0, section 4.4)."""
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    chunks += struct.pack("<II", len(binary), 0x004E4942) + binary if binary else b""
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def triangle(**more: object) -> dict:
    """One triangle whose corners are the first 36 bytes of the binary chunk; `more` goes into the document."""
    return {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36}],
    } | more


CORNERS = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)


def cut_short() -> bytes:
    return glb(triangle(), CORNERS)[:-20]


def endless(targets: int = 1_000_000) -> bytes:
    """Well-formed and small, but the same long row of zeros is added ever again, which a reader must refuse."""
    document = triangle(
        meshes=[
            {
                "primitives": [{"attributes": {"POSITION": 0}, "targets": [{"POSITION": 0}] * targets}],
                "weights": [1] * targets,
            }
        ],
        accessors=[{"componentType": 5126, "count": 3_000_000, "type": "VEC3"}],
    )
    return glb(document)


def bomb(side: int = HUGE_PX) -> bytes:
    """A textured triangle whose image takes a few MB as a file, and 4 bytes x side x side once decoded."""
    image = _blank_png(side)
    document = triangle(
        meshes=[{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}]}],
        accessors=[
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC2"},
        ],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        textures=[{"source": 0}],
        images=[{"bufferView": 1, "mimeType": "image/png"}],
        bufferViews=[
            {"buffer": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": len(image)},
        ],
        buffers=[{"byteLength": 36 + len(image)}],
    )
    return glb(document, CORNERS + image)


def _blank_png(side: int) -> bytes:
    """A real PNG of side x side black pixels, one bit each."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def crowd(faces: int = 6_000_000) -> bytes:
    """Millions of triangles in a few hundred bytes: an accessor without data is all zeros (glTF 2.0, 3.6.2.1)."""
    return glb(triangle(accessors=[{"componentType": 5126, "count": 3 * faces, "type": "VEC3"}]))


def prowler() -> bytes:
    """Refers to a file outside of its folder."""
    return glb(triangle(buffers=[{"byteLength": 36, "uri": "../../../../../../etc/passwd"}]))
