"""Files and folders that appear whole or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside `path` under a hidden name, then move into place in one step."""
    with partial_file(path) as partial:
        partial.write_bytes(data)


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write several files, none of which appears before all are written; the first appears last."""
    with ExitStack() as stack:
        for path, data in files.items():
            stack.enter_context(partial_file(path)).write_bytes(data)


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`; what is written there moves into its place if all goes well."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def merged(target: str | Path, seal: str | None = None) -> Iterator[Path]:
    """A new folder beside `target`; what it holds at the end moves into `target`, whose other files stay.

    If the block fails or is interrupted, nothing of it is left and `target` is as it was.

    seal  a file that tells that the rest is whole: an older one goes before the others come, the new one comes last
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, but a folder is to be written there; name another place")
    with _partial(target) as partial:
        yield partial
        if seal is not None:
            (target / seal).unlink(missing_ok=True)
        _move_into(partial, target, last=seal)


@contextmanager
def replaced(target: str | Path, sign: str) -> Iterator[Path]:
    """A new folder that takes the place of `target` as a whole at the end.

    An existing `target` is given up only if it is empty or holds a file named `sign`, which tells that it is ours.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, but a folder is to be written there; name another place")
    if target.is_dir() and any(target.iterdir()) and not (target / sign).is_file():
        raise ValueError(f"{target} holds files but no {sign}, so it is not overwritten; name an empty or a new folder")
    with _partial(target) as partial:
        yield partial
        old = _beside(target, "old")
        if target.is_dir():
            os.replace(target, old)
        os.replace(partial, target)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(target, "partial")
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _beside(target: Path, word: str) -> Path:
    """A hidden name in the same folder, hence on the same disk, so that moving is one step."""
    return target.resolve().parent / f".{target.resolve().name}.{uuid.uuid4().hex[:8]}.{word}"


def _move_into(source: Path, target: Path, last: str | None = None) -> None:
    target.mkdir(exist_ok=True)
    for item in sorted(source.iterdir(), key=lambda item: (item.name == last, item.name)):
        if item.is_dir():
            _move_into(item, target / item.name)
        else:
            os.replace(item, target / item.name)
