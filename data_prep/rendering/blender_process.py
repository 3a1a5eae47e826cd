"""Blender as a child process that may hang, crash or exhaust memory.

Jobs are sent to its standard input, answers come through a named pipe, since Blender prints on standard output.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from ..execution import locked_tempdir

WORKER = Path(__file__).with_name("blender_worker.py")
START_S = 300.0  # for Blender to come up; 2 to 5 s are usual, a minute where ten others want the same core
LONGEST_HEADER = 1 << 20  # bytes
LAST_S = 5.0  # for a process to end after its last answer
LOOK_S = 0.1  # between two looks at the child's memory
Arrays = list[list[Any]]  # [name of the dtype, [sizes]] of each
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Crashed(ValueError):
    """The renderer's process ended unexpectedly, or sent an invalid answer."""

    kind = "crash"  # the word for it in lists of failures


def command() -> list[str]:
    """Command line of the program: by the user's own Blender, or by a Python that has bpy and BlenderProc.

    INSTANT3D_BLENDER         a Blender 4.2 or later, run by the `blenderproc` beside this Python
    INSTANT3D_BLENDER_PYTHON  else this Python; else .venv-render here; else the one that is running
    """
    own = os.environ.get("INSTANT3D_BLENDER")
    if own:
        return [*_launcher(), "run", "--custom-blender-path", str(_blender_folder(Path(own))), str(WORKER)]
    named = os.environ.get("INSTANT3D_BLENDER_PYTHON")
    beside = Path(".venv-render", "bin", "python")
    if named and not os.access(named, os.X_OK):
        raise FileNotFoundError(f"INSTANT3D_BLENDER_PYTHON names {named}, which is no program")
    if named or beside.is_file():
        return [named or str(beside.absolute()), "-P", str(WORKER)]
    if all(importlib.util.find_spec(name) for name in ("bpy", "blenderproc")):
        return [sys.executable, "-P", str(WORKER)]
    raise FileNotFoundError(
        "Blender is not set up here: `make render-env` builds .venv-render (1.5 GB), or name your own by "
        "INSTANT3D_BLENDER or INSTANT3D_BLENDER_PYTHON"
    )


def _launcher() -> list[str]:
    """BlenderProc's own command, from this environment or from the path."""
    beside = Path(sys.executable).with_name("blenderproc")
    found = str(beside) if beside.is_file() else shutil.which("blenderproc")
    if found is None:
        raise FileNotFoundError("INSTANT3D_BLENDER needs the `blenderproc` command: pip install blenderproc==2.8.0")
    return [found]


def _blender_folder(blender: Path) -> Path:
    """The folder with the program, which BlenderProc expects."""
    folder = blender.parent if blender.is_file() else blender
    if not folder.is_dir():
        raise FileNotFoundError(f"INSTANT3D_BLENDER names {blender}, which is neither Blender nor its folder")
    return folder.resolve()


def environment(folder: Path, threads: int) -> dict[str, str]:
    """Environment of the child: this process's, with its own temporary files and threads.

    A mark keeps BlenderProc's package bare on import (see `blender_bridge`), unless it runs in the user's own Blender.

    Args:
        folder: Folder of temporary files.
        threads: CPU threads of the numerical libraries.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    marks = {} if os.environ.get("INSTANT3D_BLENDER") else {
        "OUTSIDE_OF_THE_INTERNAL_BLENDER_PYTHON_ENVIRONMENT_BUT_IN_RUN_SCRIPT": "1"
    }  # fmt: skip
    return kept | dict.fromkeys(THREADS, str(threads)) | {"TMPDIR": str(folder), "GIT_PYTHON_REFRESH": "quiet"} | marks


class Process:
    """Blender as a child process, in a session of its own so that one signal ends all that it started.

    Args:
        threads: CPU threads of the numerical libraries.

    Raises:
        FileNotFoundError: Blender is not set up.
        Crashed: It does not start.
        TimeoutError: It does not start in time.
    """

    def __init__(self, threads: int) -> None:
        start = command()
        self._belongings = contextlib.ExitStack()
        self.folder = self._belongings.enter_context(locked_tempdir.temporary())
        self.words: deque[str] = deque(maxlen=50)
        os.mkfifo(self.folder / "answers")
        self.answers = os.open(self.folder / "answers", os.O_RDONLY | os.O_NONBLOCK)
        self.child = subprocess.Popen(
            [*start, str(self.folder), str(os.getpid())],
            env=environment(self.folder, threads),
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self.received = bytearray()
        self.pid = self.child.pid
        self.used = 0
        try:
            self.pid = int(self._header(time.monotonic() + START_S, None)["pid"])
        except BaseException:  # an interrupt, too, must leave no process behind
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether the child is running."""
        return self.child.poll() is None

    def request(
        self, job: dict[str, Any], expected: Arrays, *, timeout_s: float, max_resident: int | None
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Render one job in the child, and return the header and the arrays of its answer.

        The child has read an untrusted file: nothing in its answer is executed, and only arrays of the kinds and
        shapes in `expected` are accepted. Whatever is raised here, the process must not be used again.

        Args:
            job: The job, as `blender_worker.rendered` reads it.
            expected: Dtype's name and shape of each array.
            timeout_s: Seconds until the whole answer must be there.
            max_resident: Resident bytes that the child may take; None for no limit.

        Returns:
            The header, and one array for each in `expected`; none if the header has a `failure`, a sentence.

        Raises:
            Crashed: The child ended, or its answer is not what was expected.
            TimeoutError: It did not finish in time.
            MemoryError: It took more memory than allowed.
        """
        deadline = time.monotonic() + timeout_s
        self.used += 1
        note = self.folder / "job.json"
        note.write_text(json.dumps(job))
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is reported next
            self.child.stdin.write(f"{note}\n".encode())
            self.child.stdin.flush()
        header = self._header(deadline, max_resident)
        if "failure" in header:
            return header, []
        if header.get("arrays") != expected:
            raise Crashed(f"Blender answered with arrays {header.get('arrays')!s:.200} instead of {expected}")
        arrays = []
        for name, shape in expected:
            kind = np.dtype(name).newbyteorder("<")
            data = self._bytes(math.prod(shape) * kind.itemsize, deadline, max_resident)
            arrays.append(np.frombuffer(data, kind).reshape(shape))
        return header, arrays

    def memory(self) -> int:
        """Resident bytes of the child; 0 on systems without /proc."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End the child with all that it started, and remove its folder."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(OSError):  # what was not yet written goes nowhere
                assert stream is not None
                stream.close()
        if self.answers >= 0:
            os.close(self.answers)
            self.answers = -1
        self._belongings.close()

    def _listen(self) -> None:
        """Keep the last lines that the child prints, so that its pipe never fills."""
        assert self.child.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed by `kill`
            while line := self.child.stdout.readline(500):
                if line.strip():
                    self.words.append(line.decode(errors="replace").strip())

    def _header(self, deadline: float, max_resident: int | None) -> dict[str, Any]:
        while b"\n" not in self.received:
            self._receive(deadline, max_resident)
            if len(self.received) > LONGEST_HEADER and b"\n" not in self.received[:LONGEST_HEADER]:
                raise Crashed("Blender answered with something else than a header")
        line, _, rest = bytes(self.received).partition(b"\n")
        self.received = bytearray(rest)
        try:
            header = json.loads(line)
        except ValueError as error:
            raise Crashed("Blender answered with something else than a header") from error
        if not isinstance(header, dict):
            raise Crashed("Blender answered with something else than a header")
        return header

    def _bytes(self, count: int, deadline: float, max_resident: int | None) -> bytes:
        while len(self.received) < count:
            self._receive(deadline, max_resident)
        data = bytes(self.received[:count])
        del self.received[:count]
        return data

    def _receive(self, deadline: float, max_resident: int | None) -> None:
        """Wait a little for more of the answer, and check the child's limits."""
        ready, _, _ = select.select([self.answers], [], [], LOOK_S)
        data = os.read(self.answers, 1 << 20) if ready else b""
        self.received += data
        if data:
            return
        if ready:  # the pipe is closed at the other end, so the process is about to end or will never
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(LAST_S)
        if ready or not self.alive:
            raise Crashed(f"Blender crashed ({_ending(self.child.returncode)}){self._last_words()}")
        if max_resident is not None and self.memory() > max_resident:
            raise MemoryError(f"Blender took more than {max_resident / 2**30:.1f} GiB of memory")
        if time.monotonic() > deadline:
            raise TimeoutError("Blender did not finish in time")

    def _last_words(self) -> str:
        return f"; its last words: {self.words[-1]}" if self.words else ""


def _ending(code: int | None) -> str:
    if code is None:
        return "it fell silent"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
