"""Container formats taken apart into named parts and put together again, with lengths and checksums made right.

So what is mutated is a field of a header or the content of a member, and the reader gets past the outer shell.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

Part = tuple[str, bytes]  # a name, whose suffix tells how the content is mutated, and the content
Parts = list[Part]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TAR_FIELDS = (  # name, length; of a ustar header
    ("name", 100),
    ("mode", 8),
    ("uid", 8),
    ("gid", 8),
    ("size", 12),
    ("mtime", 12),
    ("checksum", 8),
    ("type", 1),
    ("link", 100),
    ("magic", 8),
    ("owner", 32),
    ("group", 32),
    ("major", 8),
    ("minor", 8),
    ("prefix", 155),
)
TAR_BLOCK = 512


@dataclass(frozen=True)
class Codec:
    """How a format is taken apart.

    Attributes:
        split: A file's parts; raises ValueError, struct.error, KeyError or a library's error on what is no such file.
        join: The file of some parts.
        names: What a part may be renamed to, where names matter.
    """

    split: Callable[[bytes], Parts]
    join: Callable[[Parts], bytes]
    names: tuple[str, ...] = ()


def _split_glb(data: bytes) -> Parts:
    if data[:4] != b"glTF":
        raise ValueError("no GLB")
    parts, at = [("version.bin", data[4:8])], 12
    while at < len(data):
        length, kind = struct.unpack_from("<I4s", data, at)
        parts.append(("chunk.json" if kind == b"JSON" else "chunk.bin", data[at + 8 : at + 8 + length]))
        at += 8 + length
    return parts


def _join_glb(parts: Parts) -> bytes:
    version = next((content for name, content in parts if name == "version.bin"), b"\2\0\0\0")
    body = b""
    for name, content in parts:
        if name != "version.bin":
            json_too = name.endswith(".json")
            content += (b" " if json_too else b"\0") * (-len(content) % 4)
            body += struct.pack("<I4s", len(content), b"JSON" if json_too else b"BIN\0") + content
    return b"glTF" + version[:4].ljust(4, b"\0") + struct.pack("<I", 12 + len(body)) + body


def _split_safetensors(data: bytes) -> Parts:
    (length,) = struct.unpack_from("<Q", data)
    json.loads(data[8 : 8 + length])
    return [("header.json", data[8 : 8 + length]), ("tensors.bin", data[8 + length :])]


def _join_safetensors(parts: Parts) -> bytes:
    header = b"".join(content for name, content in parts if name == "header.json")
    return struct.pack("<Q", len(header)) + header + b"".join(c for name, c in parts if name != "header.json")


def _split_npy(data: bytes) -> Parts:
    if data[:6] != b"\x93NUMPY":
        raise ValueError("no .npy")
    size = 2 if data[6] == 1 else 4
    end = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    return [("version.bin", data[6:8]), ("header.txt", data[8 + size : end]), ("numbers.bin", data[end:])]


def _join_npy(parts: Parts) -> bytes:
    named = dict(parts)
    version, header = named.get("version.bin", b"\1\0")[:2].ljust(2, b"\0"), named.get("header.txt", b"")
    size = 2 if version[0] == 1 else 4
    length = min(len(header), 256**size - 1).to_bytes(size, "little")
    return b"\x93NUMPY" + version + length + header + named.get("numbers.bin", b"")


def _split_png(data: bytes) -> Parts:
    if data[:8] != PNG_SIGNATURE:
        raise ValueError("no PNG")
    parts, at = Parts(), 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        parts.append((kind.decode("latin-1"), data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def _join_png(parts: Parts) -> bytes:
    chunks = [(name.encode("latin-1", "replace")[:4].ljust(4), content) for name, content in parts]
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _split_tar(data: bytes) -> Parts:
    parts, at = Parts(), 0
    while at + TAR_BLOCK <= len(data) and any(data[at : at + TAR_BLOCK]):
        header, begin = {}, at
        for name, length in TAR_FIELDS:
            header[name] = data[begin : begin + length].rstrip(b"\0").decode("latin-1")
            begin += length
        size = int(header.pop("size") or "0", 8)
        del header["checksum"]
        name = header["name"].rpartition("/")[2]
        parts += [("member.json", json.dumps(header).encode()), (name, data[at + 512 : at + 512 + size])]
        at += TAR_BLOCK + size + -size % TAR_BLOCK
    return parts


def _join_tar(parts: Parts) -> bytes:
    """Of each pair of a header and its content; a `size` in the header goes before the content's own."""
    blocks, header = [], b"{}"
    for name, content in parts:
        if name == "member.json":
            header = content
        else:
            blocks.append(_tar_header(header, len(content)) + content + bytes(-len(content) % TAR_BLOCK))
    return b"".join(blocks) + bytes(2 * TAR_BLOCK)


def _tar_header(fields: bytes, size: int) -> bytes:
    try:
        header = json.loads(fields)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        return fields[:TAR_BLOCK].ljust(TAR_BLOCK, b"\0")
    header = {"size": f"{size:011o}", **header, "checksum": " " * 8}
    block = b"".join(
        str(header.get(name, "")).encode("utf-8", "surrogatepass")[:length].ljust(length, b"\0")
        for name, length in TAR_FIELDS
    ).ljust(TAR_BLOCK, b"\0")
    return block[:148] + f"{sum(block):06o}\0 ".encode() + block[156:]


def _split_zip(data: bytes) -> Parts:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _join_zip(parts: Parts) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that comes twice is meant
        for name, content in parts:
            archive.writestr(zipfile.ZipInfo(name or "_"), content)
    return stream.getvalue()


def _split_ply(data: bytes) -> Parts:
    header, mark, body = data.partition(b"end_header\n")
    if not mark:
        raise ValueError("no PLY")
    return [("header.txt", header), ("body.txt" if b"format ascii" in header else "body.bin", body)]


def _join_ply(parts: Parts) -> bytes:
    named = dict(parts)
    body = next((content for name, content in parts if name.startswith("body")), b"")
    return named.get("header.txt", b"") + b"end_header\n" + body


def _split_lines(data: bytes) -> Parts:
    return [("row.json", line) for line in data.split(b"\n")]


def _join_lines(parts: Parts) -> bytes:
    return b"\n".join(content for _, content in parts)


PNG_CHUNKS = ("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "cHRM", "iCCP", "zTXt", "iTXt", "tEXt", "eXIf", "acTL",
              "fcTL", "fdAT", "sRGB", "pHYs", "XXXX")  # fmt: skip

CODECS = {
    ".glb": Codec(_split_glb, _join_glb, ("chunk.json", "chunk.bin")),
    ".safetensors": Codec(_split_safetensors, _join_safetensors),
    ".npy": Codec(_split_npy, _join_npy),
    ".png": Codec(_split_png, _join_png, PNG_CHUNKS),
    ".tar": Codec(_split_tar, _join_tar),
    ".npz": Codec(_split_zip, _join_zip, ("cam_poses.npy", "../x.npy", "/x")),
    ".ckpt": Codec(
        _split_zip, _join_zip, ("archive/data.pkl", "archive/data/0", "archive/version", "archive/byteorder")
    ),
    ".ply": Codec(_split_ply, _join_ply),
    ".jsonl": Codec(_split_lines, _join_lines),
}
