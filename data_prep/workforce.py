"""Runs jobs in processes that may hang, crash or be killed, one job at a time each. Knows nothing of the jobs."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
START_S = 120.0  # for a process to come up, however short the jobs


@dataclass(frozen=True)
class Outcome(Generic[Job]):
    """What became of a job: `failure` says in words why it has no result."""

    job: Job
    result: Any
    failure: str | None
    seconds: float


@dataclass
class _Worker(Generic[Job]):
    """A process and the job in its hands."""

    process: Any
    pipe: Connection
    job: Job
    since: float = 0.0
    ready: bool = False  # the process is up; until then its time does not count as the job's

    def start(self, job: Job) -> None:
        self.job, self.since = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it is dead, as the next look will tell
            self.pipe.send(job)

    def deadline(self, timeout_s: float) -> float:
        return self.since + (timeout_s if self.ready else max(timeout_s, START_S))

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(
    work: Callable[[Job], Any],
    jobs: Sequence[Job],
    *,
    workers: int,
    timeout_s: float,
    prepare: Callable[[], None] | None = None,
) -> Iterator[Outcome[Job]]:
    """Outcomes as they come. A job that fails with ValueError or OSError gives its message; one that takes longer
    than `timeout_s` or takes its process down is reported and a new process goes on with the rest.

    work, prepare  importable functions; `prepare` runs once in each new process
    """
    waiting = list(reversed(jobs))
    crew: list[_Worker[Job]] = []
    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                crew.append(_hire(work, prepare, waiting.pop()))
            patience = min(worker.deadline(timeout_s) for worker in crew) - time.monotonic()
            ready = wait([worker.pipe for worker in crew], timeout=max(patience, 0))
            for worker in list(crew):
                outcome = _look(worker, worker.pipe in ready, timeout_s)
                if outcome is None:
                    continue
                if worker.process.is_alive() and waiting:
                    worker.start(waiting.pop())
                else:
                    worker.kill()
                    crew.remove(worker)
                yield outcome
    finally:
        for worker in crew:
            worker.kill()


def _hire(work: Callable[[Job], Any], prepare: Callable[[], None] | None, job: Job) -> _Worker[Job]:
    context = multiprocessing.get_context("spawn")  # a forked process would share a driver that was never made for it
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, prepare), daemon=True)
    process.start()
    theirs.close()
    worker = _Worker(process, ours, job)
    worker.start(job)
    return worker


def _look(worker: _Worker[Job], ready: bool, timeout_s: float) -> Outcome[Job] | None:
    """What became of a worker's job, or None while it is at work. A worker that failed us is dead afterwards."""
    seconds = time.monotonic() - worker.since
    if ready:
        try:
            answer = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            return Outcome(worker.job, None, f"the process died (exit code {worker.process.exitcode})", seconds)
        if worker.ready:
            result, failure = answer
            return Outcome(worker.job, result, failure, seconds)
        worker.ready, worker.since = True, time.monotonic()
    if time.monotonic() < worker.deadline(timeout_s):
        return None
    worker.process.kill()
    worker.process.join()
    return Outcome(worker.job, None, f"it took longer than {timeout_s:g} s", seconds)


def _serve(pipe: Connection, work: Callable[[Any], Any], prepare: Callable[[], None] | None) -> None:
    """In the worker: take jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if prepare is not None:
        prepare()
    pipe.send((None, None))  # ready
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((work(job), None))
        except (ValueError, OSError, MemoryError) as error:
            pipe.send((None, str(error) or type(error).__name__))
