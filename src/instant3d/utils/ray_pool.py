"""Connection to a Ray cluster, and a pool of actors on it that share a list of jobs.

The jobs of a lost actor are done by others. All machines need this package, the same Python and a shared disk.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from instant3d.utils.signals import handlers_kept

LOSSES = 3  # of the actors that did a job, after which it is given up


@dataclass(frozen=True)
class LostJob:
    """A job that is given up because too many actors were lost while they did it.

    Attributes:
        job: The job.
        reason: What happened, in one line.
    """

    job: Any
    reason: str


@contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[Any]:
    """Connect to a Ray cluster, or start Ray on this machine; yield the module `ray`.

    Args:
        address: "auto" or "ray://host:10001" of the cluster; None starts Ray on this machine.
        workers: Number of processors that Ray on this machine offers; None: all.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # GPUs stay visible to the workers
        import ray
    except ImportError as error:
        raise ValueError("Ray is not installed: pip install 'instant3d[ray]', or leave --ray away") from error
    own = {"num_cpus": workers, "include_dashboard": False} if address is None else {"address": address}
    try:
        with handlers_kept():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at {address} ({' '.join(str(error).split())[:200]})") from error
    try:
        yield ray
    finally:
        ray.shutdown()  # and with it all that was started here


def seats(ray: Any, address: str | None, workers: int | None, gpus_each: float = 0) -> int:
    """Return how many actors the cluster has room for, at most `workers`.

    Args:
        ray: The module.
        address: Of the cluster, for the message.
        workers: At most so many; None: no limit.
        gpus_each: GPUs that each actor takes; it takes one processor, too.

    Raises:
        ValueError: There is no room for a single one.
    """
    offered = ray.cluster_resources()
    room = min(workers or math.inf, int(offered.get("CPU", 0)))
    if not room:
        raise ValueError(f"the Ray cluster at {address} offers no processor")
    if gpus_each:
        room = min(room, int(offered.get("GPU", 0) / gpus_each))
        if not room:
            raise ValueError(f"the Ray cluster at {address} does not offer {gpus_each:g} GPU for a worker")
    return int(room)


class RayPool:
    """The actors and the waiting jobs.

    Args:
        ray: The module.
        new_actor: Starts an actor with the methods `begin(jobs)` and `answer()`, which returns the answer to the next
            of its jobs, None after the last, or a message (str) that ends the whole run. An answer is no str.
        jobs: The jobs.
        jobs_each: An actor gets at most so many at a time.
    """

    def __init__(self, ray: Any, new_actor: Callable[[], Any], jobs: Sequence[Any], jobs_each: int) -> None:
        self.ray, self.new_actor, self.jobs, self.jobs_each = ray, new_actor, jobs, jobs_each
        self.waiting = list(range(len(jobs)))[::-1]
        self.shifts: dict[Any, list[int]] = {}  # of each seat: the jobs that it has not answered for, in order
        self.calls: dict[Any, Any] = {}  # the seat that an answer will come from
        self.losses = Counter[int]()

    def answers(self, actors: int) -> Iterator[Any]:
        """Yield the answer to each job as it comes, or a `LostJob`.

        Raises:
            ChildProcessError: An actor ended the run by a message, or none starts.
        """
        for _ in range(min(actors, len(self.jobs))):
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
        seat = self.new_actor()
        self.shifts[seat] = []
        self.calls[seat.answer.remote()] = seat

    def _begin(self, seat: Any, seats: int) -> None:
        size = min(self.jobs_each, math.ceil(len(self.waiting) / (2 * seats)))  # smaller and smaller: all end together
        shift = [self.waiting.pop() for _ in range(size)]
        self.shifts[seat] = shift
        seat.begin.remote([self.jobs[k] for k in shift])
        self.calls[seat.answer.remote()] = seat

    def _replace(self, seat: Any, error: Exception) -> Iterator[LostJob]:
        """After the loss of an actor its jobs wait again, unless the first of them has lost too many actors."""
        shift = self.shifts.pop(seat)
        reason = next(iter(str(error).split("\n")), type(error).__name__)
        if not shift:
            raise ChildProcessError(f"no worker of Ray comes up: {reason}")
        self.losses[shift[0]] += 1
        if self.losses[shift[0]] >= LOSSES:
            yield LostJob(
                self.jobs[shift.pop(0)], f"{LOSSES} of Ray's workers were lost with it, the last by: {reason}"
            )
        self.waiting += shift[::-1]
        if self.waiting:
            self._open()
