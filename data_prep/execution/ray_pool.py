"""`process_pool.run` on the machines of a Ray cluster; the only module that imports ray.

Each of Ray's workers supervises one process like `process_pool`, so that a job can only crash that process; the jobs of
a lost machine run elsewhere. All machines need this package, the same Python and a shared disk.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from . import process_pool
from .process_limits import JobLimits
from .process_pool import JobResult

Job = TypeVar("Job")
LOSSES = 3  # of the machine under it, after which a job is given up
JOBS_EACH = 200


def run(
    work: Callable[[Job], Any],
    jobs: Sequence[Job],
    *,
    address: str | None = None,
    workers: int | None = None,
    limits: JobLimits,
    jobs_each: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Generator[JobResult[Job], None, None]:
    """Run jobs and yield their results as they come.

    Args:
        work: Importable function of one job.
        jobs: The jobs.
        address: "auto" or "ray://host:10001" of the cluster; None starts Ray on this machine.
        workers: Number of workers; all processors of the cluster by default.
        jobs_each: As in `process_pool.run`.
        terms: The other arguments of `process_pool.run`.
    """
    if not jobs:
        return
    ray = _connected(address, workers)
    try:
        seats = min(workers or math.inf, int(ray.cluster_resources().get("CPU", 0)))
        if not seats:
            raise ValueError(f"the Ray cluster at {address} offers no processor")
        yield from _RayPool(ray, work, jobs, jobs_each or JOBS_EACH, limits, prepare).results(int(seats))
    finally:
        ray.shutdown()  # and with it all that we started there


def _connected(address: str | None, workers: int | None) -> Any:
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # GPUs stay visible to the workers
        import ray
    except ImportError as error:
        raise ValueError("Ray is not installed: pip install 'instant3d[ray]', or leave --ray away") from error
    own = {"num_cpus": workers, "include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at {address} ({' '.join(str(error).split())[:200]})") from error
    return ray


class _RayWorker:
    """An actor in one of Ray's workers, which returns the results of a batch of jobs, one per call."""

    def __init__(self, work: Callable[[Any], Any], limits: JobLimits, prepare: Callable[[], None] | None) -> None:
        self.work, self.limits, self.prepare = work, limits, prepare
        self.results: Iterator[JobResult[Any]] = iter(())

    def begin(self, jobs: Sequence[Any]) -> None:
        self.results = process_pool.run(self.work, jobs, workers=1, limits=self.limits, prepare=self.prepare)

    def answer(self) -> JobResult[Any] | str | None:
        """The next result; None after the last; a message if no process starts."""
        try:
            return next(self.results, None)
        except ChildProcessError as error:
            return str(error)


class _RayPool:
    """The actors and the waiting jobs."""

    def __init__(
        self,
        ray: Any,
        work: Callable[[Any], Any],
        jobs: Sequence[Any],
        jobs_each: int,
        limits: JobLimits,
        prepare: Callable[[], None] | None,
    ) -> None:
        self.ray, self.jobs_each, self.jobs = ray, jobs_each, jobs
        self.new_worker = lambda: ray.remote(num_cpus=1, max_restarts=0)(_RayWorker).remote(work, limits, prepare)
        self.waiting = list(range(len(jobs)))[::-1]
        self.shifts: dict[Any, list[int]] = {}  # of each seat: the jobs that it has not answered for, in order
        self.calls: dict[Any, Any] = {}  # the seat that an answer will come from
        self.losses = Counter[int]()

    def results(self, workers: int) -> Iterator[JobResult[Any]]:
        for _ in range(min(workers, len(self.jobs))):
            self._open()
        while self.calls:
            (call,), _ = self.ray.wait(list(self.calls), num_returns=1)
            seat = self.calls.pop(call)
            try:
                answer = self.ray.get(call)
            except self.ray.exceptions.RayError as error:
                yield from self._replace(seat, error)
                continue
            if isinstance(answer, str):
                raise ChildProcessError(answer)
            if answer is not None:
                self.shifts[seat].pop(0)
                self.calls[seat.answer.remote()] = seat
                yield answer
            elif self.waiting:
                self._begin(seat, len(self.calls) + 1)
            else:
                self.ray.kill(seat)

    def _open(self) -> None:
        """Start an actor without jobs: it is not known when the cluster has room for it."""
        seat = self.new_worker()
        self.shifts[seat] = []
        self.calls[seat.answer.remote()] = seat

    def _begin(self, seat: Any, seats: int) -> None:
        size = min(self.jobs_each, math.ceil(len(self.waiting) / (2 * seats)))  # smaller and smaller: all end together
        shift = [self.waiting.pop() for _ in range(size)]
        self.shifts[seat] = shift
        seat.begin.remote([self.jobs[k] for k in shift])
        self.calls[seat.answer.remote()] = seat

    def _replace(self, seat: Any, error: Exception) -> Iterator[JobResult[Any]]:
        """After the loss of an actor its jobs wait again, unless the first of them has lost too many actors."""
        shift = self.shifts.pop(seat)
        reason = next(iter(str(error).split("\n")), type(error).__name__)
        if not shift:
            raise ChildProcessError(f"no worker of Ray comes up: {reason}")
        self.losses[shift[0]] += 1
        if self.losses[shift[0]] >= LOSSES:
            failure = f"{LOSSES} of Ray's workers were lost with it, the last by: {reason}"
            yield JobResult(self.jobs[shift.pop(0)], None, failure, 0.0, "crash")
        self.waiting += shift[::-1]
        if self.waiting:
            self._open()
