"""A process pool for jobs that may hang, crash, exhaust memory or be killed.

Each process runs one job at a time, in its own session; it and its children are killed when this process ends for any
reason.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from . import locked_tempdir, process_limits
from .process_limits import JobLimits

Job = TypeVar("Job")
START_S = 300.0  # for a process to come up, however short the jobs
WATCH_S = 0.1  # between two looks at how much memory is held
PRINTED = "printed.log"
# Not by PYTHONPATH, which programs that a job starts would inherit.
BEGIN = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__package__}.pool_worker import main; main()"
MAX_FAILED_STARTS = 3  # processes in a row that end before they begin: then something is wrong with all of them


@dataclass(frozen=True)
class JobResult(Generic[Job]):
    """Result or failure of a job.

    Attributes:
        job: The job.
        result: What the work returned; None after a failure.
        failure: Why there is no result; None if there is one.
        seconds: Duration.
        kind: "broken" (ValueError), "unreadable" (OSError), "full" (disk), "memory", "timeout", "crash", or the
            attribute `kind` of the exception; empty if there is a result.
    """

    job: Job
    result: Any
    failure: str | None
    seconds: float
    kind: str = ""


@dataclass(frozen=True)
class _Task:
    """The work of a process, and its limits."""

    work: Callable[[Any], Any]
    prepare: Callable[[], None] | None
    limits: JobLimits
    jobs_each: float


def run(
    work: Callable[[Job], Any],
    jobs: Iterable[Job],
    *,
    workers: int,
    limits: JobLimits,
    jobs_each: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Generator[JobResult[Job], None, None]:
    """Run jobs and yield their results as they come.

    A job that fails with ValueError, OSError or MemoryError yields the message. A job that exceeds a limit or crashes
    its process is reported, and a new process continues with the rest.

    Args:
        work: Importable function of one job.
        jobs: The jobs.
        workers: Number of processes.
        limits: Limits of each job.
        jobs_each: Number of jobs after which a process is replaced.
        prepare: Importable function that runs once in each new process.

    Raises:
        ChildProcessError: If no process starts.
    """
    task = _Task(work, prepare, limits, jobs_each or math.inf)
    with locked_tempdir.temporary() as scratch:
        pool = _Pool(task, scratch, iter(jobs))
        try:
            yield from pool.results(workers)
        finally:
            pool.close()


class _Pool(Generic[Job]):
    """The processes and the waiting jobs."""

    def __init__(self, task: _Task, scratch: Path, waiting: Iterator[Job]) -> None:
        self.task, self.scratch, self.waiting = task, scratch, waiting
        self.returned = deque[Job]()  # from processes that never came up
        self.workers: list[_Worker[Job]] = []
        self.failed_starts = 0

    def results(self, workers: int) -> Iterator[JobResult[Job]]:
        while self._fill(workers):
            ready = wait([member.pipe for member in self.workers], timeout=self._wait_timeout())
            for member in list(self.workers):
                outcome = member.look(member.pipe in ready)
                if member.failed_to_start:
                    self._count_failed_start(member)
                elif outcome is not None:
                    self.failed_starts = 0
                    self._restart(member)
                    yield outcome

    def close(self) -> None:
        while self.workers:
            self.workers.pop().end()

    def _fill(self, workers: int) -> bool:
        """Give jobs to idle workers; returns whether any worker is busy."""
        while len(self.workers) < workers and (job := self._next()):
            self.workers.append(_Worker(self.task, self.scratch, job[0]))
        return bool(self.workers)

    def _next(self) -> tuple[Job] | None:
        """The next job in a tuple, since a job may be None; empty if there is none."""
        if self.returned:
            return (self.returned.popleft(),)
        return next(((job,) for job in self.waiting), None)

    def _restart(self, member: _Worker[Job]) -> None:
        job = self._next() if member.alive and member.done < self.task.jobs_each else None
        if job:
            member.start(job[0])
        else:
            self.workers.remove(member)
            member.end()

    def _count_failed_start(self, member: _Worker[Job]) -> None:
        self.failed_starts += 1
        if self.failed_starts >= MAX_FAILED_STARTS or member.refusal:
            raise ChildProcessError(f"no worker process comes up: {member.refusal or member.exit_reason()}")
        self.workers.remove(member)
        member.end()
        self.returned.append(member.job)

    def _wait_timeout(self) -> float:
        patience = min(member.deadline() for member in self.workers) - time.monotonic()
        return max(patience if self.task.limits.max_resident is None else min(patience, WATCH_S), 0)


class _Worker(Generic[Job]):
    """A process and its current job."""

    def __init__(self, task: _Task, scratch: Path, job: Job) -> None:
        self.limits, self.job = task.limits, job
        self.done, self.ready, self.failed_to_start, self.refusal = 0, False, False, ""
        self.pipe, theirs = Pipe()
        self.folder = Path(tempfile.mkdtemp(dir=scratch))
        self.process = _started(theirs, task.work, self.folder)
        self._send((task.work, task.prepare))
        self.start(job)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def start(self, job: Job) -> None:
        self.job, self.since = job, time.monotonic()
        self._send(job)

    def _send(self, what: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended, which the next `look` reports
            self.pipe.send(what)

    def deadline(self) -> float:
        return self.since + (self.limits.timeout_s if self.ready else max(self.limits.timeout_s, START_S))

    def look(self, ready: bool) -> JobResult[Job] | None:
        """The result of the job, or None while it runs. After a failure of the process, it has ended."""
        if ready:
            try:
                result, failure, kind = self.pipe.recv()
            except (EOFError, ConnectionResetError):
                return self._lost(f"the process died ({self.exit_reason()})", "crash")
            if self.ready:
                return self._outcome(result, failure, kind)
            if failure is not None:
                self.failed_to_start, self.refusal = True, failure
                return None
            self.ready, self.since = True, time.monotonic()
        if time.monotonic() >= self.deadline():
            return self._lost(f"it took longer than {self.limits.timeout_s:g} s", "timeout")
        limit = self.limits.max_resident
        if limit is not None and (held := process_limits.resident_bytes(self.process.pid)) > limit:
            return self._lost(f"it took {held / 1e9:.1f} GB of memory, more than {limit / 1e9:g}", "memory")
        return None

    def _lost(self, failure: str, kind: str) -> JobResult[Job] | None:
        process_limits.end(self.process.pid)
        self.process.wait()
        self.failed_to_start = not self.ready
        return self._outcome(None, failure, kind) if self.ready else None

    def _outcome(self, result: Any, failure: str | None, kind: str) -> JobResult[Job]:
        self.done += 1
        return JobResult(self.job, result, failure, time.monotonic() - self.since, kind)

    def exit_reason(self) -> str:
        """Reason for the end of the process: exit code or signal, and its last output."""
        code = self.process.wait()
        name = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        with contextlib.suppress(OSError), (self.folder / PRINTED).open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - 4096, 0))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            where = [line for line in lines if line.startswith("File ")]  # of a signal, the innermost call comes first
            return ": ".join([name, *(lines[-1:] if code > 0 else where[:1])])
        return name

    def end(self) -> None:
        process_limits.end(self.process.pid)
        self.process.wait()
        self.pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _started(theirs: Connection, work: Callable[[Any], Any], folder: Path) -> subprocess.Popen[bytes]:
    """A process with its own session, its own temporary folder and its own file for what it prints."""
    main = getattr(sys.modules["__main__"], "__spec__", None) if work.__module__ == "__main__" else None
    arguments = [json.dumps(sys.path), str(theirs.fileno()), str(os.getpid()), main.name if main else ""]
    with theirs, (folder / PRINTED).open("ab") as printed:
        return subprocess.Popen(
            [sys.executable, "-c", BEGIN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
