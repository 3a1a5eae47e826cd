"""Atomic writing of files and folders: each appears complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PARTIAL_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
FOLDER = os.O_RDONLY | os.O_DIRECTORY
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some network disks have none


class DiskFull(OSError):
    """There is no room for an output, which the message names."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a hidden name beside `path`, then move it into place in one step."""
    with partial_file(path) as partial:
        partial.write_bytes(data)


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write several files, none of which appears before all are written; the first appears last."""
    with ExitStack() as stack:
        for path, data in files.items():
            stack.enter_context(partial_file(path)).write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def is_partial(name: str) -> bool:
    """Whether a file or folder of that name is being written here, or was left by a process that was killed."""
    return PARTIAL_NAME.fullmatch(name) is not None


@contextmanager
def partial_file(path: Path, *, one_writer: bool = False) -> Iterator[Path]:
    """Yield a hidden path beside `path`; the file written there replaces `path` if the block ends without an error.

    Args:
        path: The file.
        one_writer: No two processes write this file at a time. The hidden name is then always the same, so that what
            a killed process left is overwritten by the next: for large files.
    """
    middle = "" if one_writer else f".{uuid.uuid4().hex[:8]}"
    partial = path.with_name(f".{path.name}{middle}.partial")
    locked = _lock(partial, os.O_RDWR | os.O_CREAT) if one_writer else _created(partial.touch, partial, os.O_RDWR)
    with _named_if_full(path), locked:
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def merged(target: str | Path, seal: str | None = None) -> Iterator[Path]:
    """Yield a new folder beside `target`; its files move into `target` at the end, whose other files stay.

    If the block fails or is interrupted, nothing of it is left and `target` is unchanged.

    Args:
        target: The folder to add to; created if it does not exist.
        seal: Name of the file whose presence marks the folder as complete. An older one is deleted before the other
            files move, the new one moves last.

    Raises:
        ValueError: `target` is a file.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, but a folder will be written there; name another path")
    with _partial(target) as partial:
        yield partial
        if seal is not None:
            (target / seal).unlink(missing_ok=True)
        _move_into(partial, target, last=seal)


@contextmanager
def replaced(target: str | Path, sign: str) -> Iterator[Path]:
    """Yield a new folder that takes the place of `target` as a whole at the end.

    Args:
        target: The folder to replace or create.
        sign: Name of a file that marks a folder as written by this project. An existing `target` is replaced only if it
            is empty or holds this file.

    Raises:
        ValueError: `target` is a file, or a non-empty folder without `sign`.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, but a folder will be written there; name another path")
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
    try:
        with _named_if_full(target), _created(partial.mkdir, partial, FOLDER):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _named_if_full(target: Path) -> Iterator[None]:
    """Name the output in errors of a full disk, which the system reports without a name."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        reason = error.__cause__ if isinstance(error, DiskFull) else error  # that of a file within is about a part
        what = f"{target} cannot be written ({getattr(reason, 'strerror', error.strerror)})"
        raise DiskFull(error.errno, f"{what}; free some space, or name another place") from reason


def check_writable(target: str | Path) -> None:
    """Check that something can be written at `target` before the work, by a nameless file in its place.

    Args:
        target: File or folder to write; it need not exist.

    Raises:
        OSError: Nothing can be written there.
        ValueError: It lies below a file.
    """
    target = Path(target).absolute()
    folder = next(path for path in (target, *target.parents) if path.is_dir() or (path.exists() and path != target))
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, so {target} cannot be written; name another path")
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        raise OSError(error.errno, f"nothing can be written to {target} ({error.strerror})") from error


def prepare_output(target: str | Path, *, is_file: bool | None = False) -> list[Path]:
    """Check before the work that an output can be written, and remove what killed runs left there; returns its paths.

    Args:
        target: File or folder to write; it need not exist.
        is_file: Whether it is a file; None: it may be either.

    Raises:
        OSError: Nothing can be written there.
        ValueError: A file is where the folder will be, or the other way round, or it lies below a file.
    """
    target = Path(target)
    if target.is_file() and is_file is False:
        raise ValueError(f"{target} is a file, but a folder will be written there; name another path")
    if target.is_dir() and is_file:
        raise ValueError(f"{target} is a folder, but a file will be written there; name another path")
    check_writable(target)
    return remove_leftovers(target)


def remove_leftovers(target: str | Path) -> list[Path]:
    """Remove what killed writers left unfinished beside and directly in `target`; return the paths.

    Each is locked while it is written, and the lock ends with its process.
    """
    target = Path(target).absolute()
    beside = [path for path in target.parent.glob(".*.partial") if path.name.startswith(f".{target.name}.")]
    found = [path for path in (*beside, *target.glob(".*.partial")) if is_partial(path.name)]
    return [path for path in found if _remove_stale(path)]


def _remove_stale(path: Path) -> bool:
    is_folder = path.is_dir()
    with contextlib.suppress(OSError), _lock(path, FOLDER if is_folder else os.O_RDWR, needed=True):
        shutil.rmtree(path) if is_folder else path.unlink()
        return True
    return False  # locked: its writer lives


@contextmanager
def _created(create: Callable[[], None], path: Path, flags: int) -> Iterator[None]:
    """Create a file or folder and hold its lock, anew if another process swept it away before it was locked."""
    with ExitStack() as stack:
        while True:
            create()
            with contextlib.suppress(FileNotFoundError):
                descriptor = stack.enter_context(_lock(path, flags, wait=True))
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    break
        yield


@contextmanager
def _lock(path: Path, flags: int, *, wait: bool = False, needed: bool = False) -> Iterator[int]:
    """Hold the lock of a file or folder, opened as a descriptor; without locks on this disk, raise only if needed."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                raise OSError(error.errno, f"{path} is being written by another process; wait for it") from error
            if needed or error.errno not in NO_LOCKS:
                raise
        yield descriptor
    finally:
        os.close(descriptor)


def _beside(target: Path, word: str) -> Path:
    """A hidden name on the same disk, so that moving is one step: in the same folder, or in a disk's own folder."""
    path = target.resolve()
    folder = path if os.path.ismount(path) else path.parent
    return folder / f".{path.name}.{uuid.uuid4().hex[:8]}.{word}"


def _move_into(source: Path, target: Path, last: str | None = None) -> None:
    target.mkdir(exist_ok=True)
    for item in sorted(source.iterdir(), key=lambda item: (item.name == last, item.name)):
        if item.is_dir():
            _move_into(item, target / item.name)
        else:
            os.replace(item, target / item.name)
