"""A smaller input with the same fault: whatever can be left out is left out, from whole files down to bytes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

from tests.fuzz.codecs import CODECS, Codec
from tests.fuzz.mutators import JSON_SUFFIXES, SPLIT_ERRORS, Files

TRIES = 400  # inputs that are read for one finding
SECONDS = 60.0  # that it may take
Item = TypeVar("Item")
Test = Callable[[bytes], bool]  # whether a file with this content still has the fault


class Spent(Exception):
    """No more inputs may be tried."""


def minimised(files: Files, has_fault: Callable[[Files], bool], tries: int = TRIES, seconds: float = SECONDS) -> Files:
    """The input reduced as far as tries and time allow; `has_fault` says whether an input still has the fault."""
    budget = _Budget(files, has_fault, tries, time.monotonic() + seconds)
    with contextlib.suppress(Spent):
        names = _fewest(list(files), lambda some: budget.test({name: files[name] for name in some}))
        files = {name: files[name] for name in names}
        for name in names:
            files[name] = _reduced(name, files[name], lambda data, name=name: budget.test(files | {name: data}))
    return budget.faulty


class _Budget:
    """Tries inputs until there were too many; `faulty` is the last that had the fault."""

    def __init__(self, faulty: Files, has_fault: Callable[[Files], bool], tries: int, until: float) -> None:
        self.faulty, self.has_fault, self.left, self.until = faulty, has_fault, tries, until

    def test(self, files: Files) -> bool:
        self.left -= 1
        if self.left < 0 or time.monotonic() > self.until:
            raise Spent
        if not files or not self.has_fault(files):
            return False
        self.faulty = files
        return True


def _reduced(name: str, data: bytes, test: Test) -> bytes:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in CODECS:
        return _reduced_container(CODECS[suffix], data, test)
    if suffix in JSON_SUFFIXES:
        data = _reduced_json(data, test)
    lines = _fewest(data.split(b"\n"), lambda some: test(b"\n".join(some)))
    return bytes(_fewest(list(b"\n".join(lines)), lambda some: test(bytes(some))))


def _reduced_container(codec: Codec, data: bytes, test: Test) -> bytes:
    try:
        parts = codec.split(data)
        if not test(codec.join(parts)):  # what is wrong is the shell itself
            return bytes(_fewest(list(data), lambda some: test(bytes(some))))
    except SPLIT_ERRORS:
        return bytes(_fewest(list(data), lambda some: test(bytes(some))))
    parts = _fewest(parts, lambda some: test(codec.join(some)))
    for at, (name, content) in enumerate(parts):
        before, after = parts[:at], parts[at + 1 :]
        smaller = _reduced(name, content, lambda some, n=name, b=before, a=after: test(codec.join([*b, (n, some), *a])))
        parts[at] = name, smaller
    return codec.join(parts)


def _reduced_json(data: bytes, test: Test) -> bytes:
    try:
        holder = [json.loads(data)]
        if not test(json.dumps(holder[0]).encode()):
            return data
    except (ValueError, RecursionError):
        return data
    _reduce_node(holder, 0, lambda: test(json.dumps(holder[0]).encode()))
    return json.dumps(holder[0]).encode()


def _reduce_node(holder: Any, key: Any, test: Callable[[], bool]) -> None:
    """Leave out what is not needed below a node, in place."""
    node = holder[key]

    def works(value: Any) -> bool:
        holder[key] = value
        return test()

    if isinstance(node, dict):
        keys = _fewest(list(node), lambda some: works({name: node[name] for name in some}))
        holder[key] = {name: node[name] for name in keys}
    elif isinstance(node, list):
        holder[key] = node[:]
        holder[key] = _fewest(node, lambda some: works(list(some)))
    else:
        return
    for inner in holder[key] if isinstance(node, dict) else range(len(holder[key])):
        _reduce_node(holder[key], inner, test)


def _fewest(items: Sequence[Item], test: Callable[[list[Item]], bool]) -> list[Item]:
    """Some of the items, in order, that pass the test and of which no piece can be left out (Zeller's ddmin)."""
    kept, piece = list(items), len(items)
    while piece >= 1:
        at = 0
        while at < len(kept):
            fewer = kept[:at] + kept[at + piece :]
            if test(fewer):
                kept = fewer
            else:
                at += piece
        piece //= 2
    return kept
