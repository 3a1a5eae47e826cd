"""Temporary folders that the next run removes if their owner was killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "instant3d-work-"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some network disks have none


@contextmanager
def temporary() -> Iterator[Path]:
    """A temporary folder for a block. Folders of killed processes are removed first."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), locked(folder):  # held: its owner lives; else: not ours
            shutil.rmtree(folder, ignore_errors=True)
    unnamed = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}"))
    folder = unnamed.with_name(unnamed.name.removeprefix("new-"))
    try:
        with locked(unnamed):
            unnamed.rename(folder)  # from now on it is visible, and locked
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder until the process ends; BlockingIOError if another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
