"""Inputs read in another process, which may take a bounded time and memory and may die."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.mutators import Files

PATIENCE = 30  # times the limit of processor time that an input may take by the clock, on a machine that is busy
STARTING_S = 300.0  # for a process to import all it needs
PAGE_BYTES = resource.getpagesize()

Read = Callable[[Path], None]  # reads an input that lies in a folder


@dataclass(frozen=True)
class Limits:
    """What reading one input may take.

    Attributes:
        seconds: Of processor time.
        bytes: Of memory beyond what the process had.
    """

    seconds: float = 10.0
    bytes: int = 2**31


LIMITS = Limits()


@dataclass(frozen=True)
class Verdict:
    """What became of an input.

    Attributes:
        finding: What is wrong, the same words for the same fault; None if the input was read or refused well.
        detail: A traceback, or the sentence that it was refused with.
    """

    finding: str | None
    detail: str = ""


class Sandbox:
    """One process that reads inputs, started again when it died. `lookup` finds the reader of a target by name."""

    def __init__(self, lookup: Callable[[str], Read], limits: Limits = LIMITS) -> None:
        self.lookup, self.limits = lookup, limits
        self.process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def try_input(self, target: str, files: Files) -> Verdict:
        """Have the input read, and judge what happened."""
        connection = self._started(target)
        connection.send((target, files))
        try:
            if connection.poll(PATIENCE * self.limits.seconds):
                return Verdict(*connection.recv())
        except (EOFError, ConnectionError):
            return self._died()
        self._end()
        return Verdict(f"slow: no end after {PATIENCE * self.limits.seconds:g} s by the clock")

    def _started(self, target: str) -> Connection:
        if self.process is None:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
            self.connection, other = context.Pipe()
            self.process = context.Process(target=_serve, args=(other, self.lookup, self.limits), daemon=True)
            self.process.start()
            other.close()
        self.connection.send((target, None))
        if not self.connection.poll(STARTING_S) or self.connection.recv() != "ready":
            raise RuntimeError(f"the process that reads {target} did not start")
        return self.connection

    def _died(self) -> Verdict:
        assert self.process is not None
        self.process.join()
        code = self.process.exitcode or 0
        self._end()
        if code == -signal.SIGPROF:
            return Verdict(f"slow: more than {self.limits.seconds:g} s")
        return Verdict(f"crash: the process ended by {signal.Signals(-code).name if code < 0 else code}")

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def _serve(connection: Connection, lookup: Callable[[str], Read], limits: Limits) -> None:
    """Read inputs until the other side is gone."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while True:
            try:
                target, files = connection.recv()
            except EOFError:
                return
            if files is None:
                lookup(target)
                connection.send("ready")
            else:
                connection.send(read_input(lookup(target), files, Path(folder) / "input", limits))


def put(files: Files, folder: Path) -> None:
    """Write an input into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read_input(read: Read, files: Files, folder: Path, limits: Limits) -> tuple[str | None, str]:
    """What is wrong with how a reader takes the files, which are put into a folder; and details."""
    from tests.fuzz.judge import complaint

    put(files, folder)
    heard = list[logging.LogRecord]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = heard.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        with _limited(limits):
            read(folder)
        for record in heard:
            if record.exc_info:
                return f"printed: a traceback that {record.name} logged", record.getMessage()
        return None, ""
    except Exception as error:  # whatever a reader raises is what is looked for
        finding = complaint(error)
        return finding, str(error) if finding is None else "".join(traceback.format_exception(error))[-4000:]
    finally:
        logging.getLogger().removeHandler(handler)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _limited(limits: Limits) -> Iterator[None]:
    """The kernel ends a process that computes too long; too large an allocation fails."""
    signal.setitimer(signal.ITIMER_PROF, limits.seconds)
    if sys.platform == "linux":
        size = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size + limits.bytes, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
