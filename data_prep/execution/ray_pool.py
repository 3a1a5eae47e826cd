"""`process_pool.run` on the machines of a Ray cluster.

Each of Ray's workers supervises one process like `process_pool`, so that a job can only crash that process; the jobs of
a lost machine run elsewhere. All machines need this package, the same Python and a shared disk.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from instant3d.utils.ray_pool import LostJob, RayPool, connected, seats

from . import process_pool
from .process_limits import JobLimits
from .process_pool import JobResult

Job = TypeVar("Job")
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
        limits: As in `process_pool.run`.
        jobs_each: As in `process_pool.run`.
        prepare: As in `process_pool.run`.
    """
    if not jobs:
        return
    with connected(address, workers) as ray:

        def new_actor() -> Any:
            return ray.remote(num_cpus=1, max_restarts=0)(_RayWorker).remote(work, limits, prepare)

        room = seats(ray, address, workers)
        for answer in RayPool(ray, new_actor, jobs, jobs_each or JOBS_EACH).answers(room):
            lost = isinstance(answer, LostJob)
            yield JobResult(answer.job, None, answer.reason, 0.0, "crash") if lost else answer


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
