"""Random changes of a file that keep most of its structure; the same generator makes the same changes."""

from __future__ import annotations

import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from tests.fuzz.codecs import CODECS, Codec, Parts

Files = dict[str, bytes]  # an input: files by their names in a folder

MAX_BYTES = 2**20  # of one file
RAW = 0.1  # share of mutations that pass over all structure
JSON_SUFFIXES = (".json", ".gltf")
TEXT_SUFFIXES = (".txt", ".obj", ".mtl", ".csv", ".yaml", ".jsonl", "")
SPLIT_ERRORS = (ValueError, KeyError, IndexError, struct.error, zipfile.BadZipFile, zlib.error, OverflowError,
                NotImplementedError, RuntimeError, EOFError, RecursionError)  # fmt: skip
BROKEN = "\ud800broken"  # stands for text that is no JSON until the document is written

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 255, 256, 1000, 65535, 65536, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**53,
    2**63 - 1, 2**63, 2**64, 10**30, 10**400, 0.0, -0.0, 0.5, -0.5, 1e-30, 1e-7, 1e30, 3.5e38, 1e300, 5e-324,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
WORDS = (
    "", " ", ".", "..", "/", "../x", "/etc/passwd", "a/../../x", "x" * 300, "y" * 70_000, "\0", "a\0b", "\x1b[31m",
    "\r\n", "nan", "\ufeff", "é", "\u202e", "\ud800", "#", "-", "--", "*", "%s", "{}", "NaN", "-1", "1e999", "0x10",
    "data:,", "file:///x", "http://x", "data:application/octet-stream;base64,AAAA", "data:;base64,!", "null", "true",
    "\\", "C:\\x", "._x", ".hidden",
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], [0], [None], {"": None}, [1, "a"])
REPEATS = (2, 3, 10, 100, 1000, 20_000)


def mutated(files: Files, rng: random.Random) -> Files:
    """An input made of another by a few changes."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        name = rng.choice(sorted(files))
        if len(files) > 1 and rng.random() < 0.01:
            del files[name]
            continue
        changed = mutate_file(name, files[name], rng)
        if len(changed) <= MAX_BYTES:
            files[name] = changed
    return files


def mutate_file(name: str, data: bytes, rng: random.Random) -> bytes:
    """A file's content with one change, of a kind that suits its suffix."""
    suffix = PurePosixPath(name).suffix.lower()
    if rng.random() < RAW:
        return mutate_bytes(data, rng)
    if suffix in CODECS:
        return _mutate_container(CODECS[suffix], data, rng)
    if suffix in JSON_SUFFIXES:
        return mutate_json(data, rng)
    if suffix in TEXT_SUFFIXES:
        return mutate_text(data, rng)
    return mutate_bytes(data, rng)


def _mutate_container(codec: Codec, data: bytes, rng: random.Random) -> bytes:
    try:
        parts = codec.split(data)
    except SPLIT_ERRORS:
        return mutate_bytes(data, rng)
    if not parts:
        return mutate_bytes(data, rng)
    if rng.random() < 0.85:
        at = rng.randrange(len(parts))
        if parts[at][0] in ("numbers.bin", "tensors.bin") and rng.random() < 0.8:
            at = 0  # headers matter more than what they head
        name, content = parts[at]
        parts[at] = name, mutate_file(name, content, rng)
    else:
        _shuffle(parts, codec, rng)
    try:
        return codec.join(parts)
    except SPLIT_ERRORS:
        return data


def _shuffle(parts: Parts, codec: Codec, rng: random.Random) -> None:
    """Drop, repeat, move or rename one part."""
    at = rng.randrange(len(parts))
    change = rng.randrange(4)
    if change == 0:
        del parts[at]
    elif change == 1:
        parts[at:at] = [parts[at]] * rng.choice((1, 2, 100))
    elif change == 2:
        parts.insert(rng.randrange(len(parts)), parts.pop(at))
    else:
        names = (*codec.names, *(name for name, _ in parts))
        parts[at] = rng.choice(names), parts[at][1]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One change of bytes: a bit, a number, a span."""
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 2, 4, 8, 64, 1024)))
    change = rng.randrange(7)
    if change == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if change == 1:
        return data[:at]
    if change == 2:
        return data[:at] + data[end:]
    if change == 3:
        return data[:at] + data[at:end] * rng.choice((2, 3, 16)) + data[end:]
    if change == 4:
        return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16))) + data[at:]
    if change == 5:
        number = int(rng.choice([n for n in NUMBERS if isinstance(n, int)])) % 2**32
        size = rng.choice((1, 2, 4))
        return data[:at] + (number % 256**size).to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]
    floats = struct.pack("<f", rng.choice((float("nan"), float("inf"), 0.0, 3e38, -1.0, 1e-38)))
    return data[:at] + floats + data[at + 4 :]


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """One change of text: a word, a line, or the lines' order."""
    text = data.decode("latin-1")
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    change = rng.randrange(9)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines[at:at] = [lines[at]] * _affordable(len(lines[at]) + 1, rng)
    elif change == 2:
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    elif change == 3:
        lines[at] += rng.choice((" ", "\\", "#", "\t", "\0", "\r", "'", '"', "\x1b[0m"))
    elif change == 4:
        begin = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:begin] + rng.choice(WORDS).encode(errors="replace").decode("latin-1") + lines[at][begin:]
    else:
        lines[at] = _changed_word(lines[at], rng)
    return "\n".join(lines).encode("latin-1", "replace")


def _changed_word(line: str, rng: random.Random) -> str:
    words = line.split(" ")
    at = rng.randrange(len(words))
    change = rng.randrange(5)
    if change == 0:
        words[at] = str(rng.choice(NUMBERS))
    elif change == 1:
        words[at] = rng.choice(WORDS).encode(errors="replace").decode("latin-1")
    elif change == 2:
        words[at:at] = [words[at]] * _affordable(len(words[at]) + 1, rng)
    elif change == 3:
        del words[at]
    else:
        words[at] = rng.choice(words) + rng.choice(("", "/", "-", "1", ","))
    return " ".join(words)


def _affordable(size: int, rng: random.Random) -> int:
    """A number of repetitions that stays below the greatest size."""
    return min(rng.choice(REPEATS), MAX_BYTES // 2 // max(size, 1))


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON document with one node changed; what is none is taken for text."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_text(data, rng)
    holder = [tree]
    _mutate_node(holder, rng)
    try:
        text = json.dumps(holder[0])
    except (ValueError, RecursionError):
        return data
    depth = rng.choice((10, 100_000))
    broken = rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "0" + "}" * depth, "", "1e999", "-", "9" * 5000))
    return text.replace(json.dumps(BROKEN), broken).encode()


def _mutate_node(tree: list[Any], rng: random.Random) -> None:
    """Change one node of the document that a list holds."""
    holder, key = _descend(tree, rng)
    node = holder[key]
    change: Callable[[], Any] = rng.choice(
        (
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(WORDS),
            lambda: rng.choice(VALUES),
            lambda: BROKEN,
            lambda: [node],
            lambda: _elsewhere(tree, rng),
            lambda: _elsewhere(tree, rng),
            lambda: _nudged(node, rng),
            lambda: _nudged(node, rng),
            lambda: _resized(node, rng),
            lambda: _resized(node, rng),
        )
    )
    holder[key] = change()


def _descend(tree: list[Any], rng: random.Random) -> tuple[Any, Any]:
    """A node at any depth, by what holds it and its key there; all levels are as likely."""
    holder, key = tree, 0
    path: list[tuple[Any, Any]] = [(holder, key)]
    node: Any = tree[0]
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        path.append((node, key))
        node = node[key]
    return rng.choice(path[1:] or path)


def _elsewhere(tree: list[Any], rng: random.Random) -> Any:
    """A copy of another node."""
    holder, key = _descend(tree, rng)
    return json.loads(json.dumps(holder[key]))


def _nudged(node: Any, rng: random.Random) -> Any:
    """A number that is a little different, a text with a change, or a container with less or more."""
    if isinstance(node, bool) or node is None:
        return not node
    if isinstance(node, int | float):
        return rng.choice((node + 1, node - 1, -node, node * 2, node // 2, node * 1000, str(node)))
    if isinstance(node, str):
        return mutate_text(node.encode(errors="replace"), rng).decode("latin-1")
    return _resized(node, rng)


def _resized(node: Any, rng: random.Random) -> Any:
    """A container with an entry less, or more, or renamed, or repeated."""
    if isinstance(node, str):
        return node * _affordable(len(node), rng)
    if not isinstance(node, dict | list) or not node:
        return [node] * rng.choice(REPEATS[:4])
    if isinstance(node, list):
        at = rng.randrange(len(node))
        if rng.random() < 0.5:
            return node[:at] + node[at + 1 :]
        return node[:at] + [node[at]] * _affordable(len(json.dumps(node[at])), rng) + node[at:]
    key = rng.choice(list(node))
    value = node[key]
    rest = {name: other for name, other in node.items() if name != key}
    return rng.choice((rest, rest | {rng.choice(WORDS): value}, node | {rng.choice(WORDS): value}))


def stream(seeds: list[Files], key: str) -> Iterator[Files]:
    """Endless inputs made of seeds: the same for the same key."""
    number = 0
    while True:
        rng = random.Random(f"{key}/{number}")
        yield mutated(rng.choice(seeds), rng)
        number += 1
