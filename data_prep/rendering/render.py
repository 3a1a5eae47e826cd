"""Rendering objects to scene folders by a plan: `instant3d data render OBJECTS -o OUT`.

Existing scenes in OUT are kept, so the same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped

from ..execution import locked_tempdir, process_pool, ray_pool
from ..execution.process_limits import JobLimits
from ..execution.process_pool import JobResult
from ..manifests import object_manifest
from ..manifests.failure_log import FailureLog
from ..manifests.id_lists import read_list
from ..manifests.object_manifest import Item
from . import render_plan
from .render_object import Job, prepare, render_object
from .render_plan import RENDERERS, Plan
from .run_stats import RunStats

MAX_RESIDENT = 8_000_000_000  # bytes for one object; five million triangles in Blender take 1.7e9
LIMITS = JobLimits(300.0, MAX_RESIDENT)
JOBS_EACH = 200  # objects, before a process makes room for a new one

Work = Callable[[Job], int]
Results = Generator[JobResult[Job], None, None]


@dataclass(frozen=True)
class Execution:
    """Back end and limits of rendering.

    Attributes:
        workers: Number of processes; None for one per core, or for all of a cluster's.
        limits: Limits of one object.
        backend: Back end of the fast renderer, as in `rasterizer`.
        ray: Whether to use Ray.
        address: Address of a Ray cluster; None for this machine.
    """

    workers: int | None = None
    limits: JobLimits = LIMITS
    backend: str = "auto"
    ray: bool = False
    address: str | None = None

    def run(self, work: Work, jobs: Sequence[Job], prepare: Callable[[], None], jobs_each: int) -> Results:
        """Run jobs in processes of this machine or of a Ray cluster, and yield their results as they come.

        Args:
            work: Importable function that renders one job and returns the number of its views.
            jobs: The jobs.
            prepare: Importable function that runs once in each new process.
            jobs_each: Number of jobs after which a process is replaced.

        Raises:
            ChildProcessError: If no process starts.
        """
        if not self.ray:
            workers = self.workers or os.cpu_count() or 1
            return process_pool.run(
                work, jobs, workers=workers, limits=self.limits, prepare=prepare, jobs_each=jobs_each
            )
        return ray_pool.run(
            work,
            jobs,
            address=self.address,
            workers=self.workers,
            limits=self.limits,
            prepare=prepare,
            jobs_each=jobs_each,
        )

    def fewer(self) -> Execution:
        """A quarter of this machine's workers: more room for each. A cluster keeps all, for its size is its own."""
        if self.ray and self.workers is None:
            return self
        return replace(self, workers=max((self.workers or os.cpu_count() or 1) // 4, 1))


def render_all(
    items: Sequence[Item],
    out: Path,
    what: Plan,
    execution: Execution,
    *,
    retry_failed: bool = False,
    work: Work = render_object,
) -> RunStats:
    """Render every item that has no scene in `out` yet, and has not failed before.

    Objects that crashed, took too long or too much memory are tried once more at the end, in a new process and with
    fewer workers; then they count as failed and are not tried again. Reasons are written to out/failures.jsonl, the
    counts of this run to out/report.json.

    Args:
        items: The objects.
        out: Folder of the scene folders, which are named by id.
        what: Plan of the views and maps.
        execution: Back end, processes and limits.
        retry_failed: Whether to try items again that failed in earlier runs.
        work: Importable function that renders one job and returns the number of its views.

    Returns:
        The counts of this run.

    Raises:
        ValueError: `out` holds scenes of another plan, or another run is rendering into it.
        OSError: The disk is full.
    """
    _claim(out, what)
    with _alone(out), FailureLog(out) as failures:
        atomic.remove_leftovers(out)
        if retry_failed:
            failures.forget([item.id for item in items])
        there = _finished(out, items)
        jobs = [
            Job(item, out.resolve() / item.id, what, execution.backend, execution.limits)
            for item in items
            if item.id not in there
        ]
        fresh = [job for job in jobs if job.item.id not in failures.rows]
        again = [job for job in jobs if failures.may_retry(job.item.id)]
        passed_over = len(jobs) - len(fresh) - len(again)
        tally = RunStats(len(fresh) + len(again), there_already=len(there), passed_over=passed_over)
        ready = partial(prepare, what, execution.backend)
        with closing(execution.run(work, fresh, ready, jobs_each=JOBS_EACH)) as outcomes:
            again += [outcome.job for outcome in outcomes if not _counted(outcome, tally, failures, out)]
        with closing(execution.fewer().run(work, again, ready, jobs_each=1)) as outcomes:
            for outcome in outcomes:
                _counted(outcome, tally, failures, out)
        failures.settle(out)
    tally.write(out)
    return tally


def _counted(result: JobResult[Job], stats: RunStats, failures: FailureLog, out: Path) -> bool:
    """Record a result; returns whether it is final."""
    name = result.job.item.id
    if result.failure is None:
        stats.finished(result.result)
        return True
    if result.kind == "full":
        raise OSError(
            f"the disk of {out} is full after {stats.done} objects; make room and run the same command again "
            f"({result.failure})"
        )
    attempts = int(failures.rows.get(name, {}).get("attempts", 0)) + 1
    row = {"id": name, "file": str(result.job.item.path), "reason": result.failure, "kind": result.kind}
    failures.add(row | {"seconds": round(result.seconds, 1), "attempts": attempts})
    if failures.may_retry(name):
        return False
    stats.lost(result.kind)
    return True


def _claim(out: Path, what: Plan) -> None:
    """Write the plan into `out`, so that one folder never has scenes of two plans."""
    note = out / "plan.yaml"
    if note.is_file() and render_plan.read(note) != what:
        raise ValueError(f"{out} holds scenes of another plan (see {note}); give another folder, or remove this one")
    out.mkdir(parents=True, exist_ok=True)
    render_plan.write(what, note)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    try:
        with locked_tempdir.locked(out):
            yield
    except BlockingIOError as error:
        raise ValueError(f"another run is rendering into {out}; wait for it, or name another folder") from error


def _finished(out: Path, items: Sequence[Item]) -> set[str]:
    """The ids of those items that have a scene."""
    folders = {entry.name for entry in os.scandir(out)}  # one look instead of a million
    return {item.id for item in items if item.id in folders and (out / item.id / "transforms.json").is_file()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when something was rendered or nothing was left, 1 if all objects failed, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        what = render_plan.read(options.plan) if options.plan else Plan()
        if options.renderer:
            what = replace(what, renderer=options.renderer)
        tally = render_all(_gather(options), options.out, what, _execution(options), retry_failed=options.retry_failed)
    except (ValueError, OSError) as error:
        print_escaped(f"error: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        print_escaped("interrupted; the same command goes on from here", sys.stderr)
        return 130
    print_escaped(tally.closing_line(options.out))
    return 1 if tally.failed and not tally.done + tally.there_already else 0


def _execution(options: argparse.Namespace) -> Execution:
    if (options.workers is not None and options.workers < 1) or options.timeout <= 0 or options.memory <= 0:
        got = f"{options.workers}, {options.timeout:g} s and {options.memory:g} GB"
        raise ValueError(f"at least one worker, some time and some memory are needed, got {got}")
    return Execution(
        workers=options.workers,
        limits=JobLimits(options.timeout, round(options.memory * 1e9)),
        backend=options.backend,
        ray=options.ray or options.address is not None,
        address=options.address,
    )


def _gather(options: argparse.Namespace) -> list[Item]:
    licenses = options.licenses.split(",") if options.licenses else None
    items = object_manifest.find_all(options.objects, split=options.split, licenses=licenses)
    if options.keep is not None:
        wanted = set(read_list(options.keep))
        items = [item for item in items if item.id in wanted]
        if not items:
            raise ValueError(f"none of the {len(wanted)} ids in {options.keep} is an object's")
    if options.up is not None:
        items = [replace(item, row={"up": options.up, **item.row}) for item in items]
    return items[: options.limit]


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data render", description=__doc__.splitlines()[0])
    parser.add_argument("objects", nargs="+", help="folders of .glb, .gltf, .obj or .ply files, or .jsonl manifests")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for one scene folder per object")
    parser.add_argument(
        "--plan", help="file, or a name such as small (default: 128 px, 4 structured and 20 random views)"
    )
    parser.add_argument(
        "--up", choices=("y", "z"), help="up axis of .obj and .ply files whose manifest does not say it (default y)"
    )
    parser.add_argument("--split", help="only objects of this split of the manifest")
    parser.add_argument("--licenses", help="only objects under these licences, such as CC0-1.0,MIT")
    parser.add_argument("--keep", type=Path, help="file with the ids of the objects to render, one a line")
    parser.add_argument("--limit", type=int, help="number of objects, the first ones")
    parser.add_argument("--renderer", choices=RENDERERS, help="renderer, instead of the plan's")
    parser.add_argument(
        "--backend", choices=("auto", "gl", "embree"), default="auto", help="backend of the fast renderer"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core, on Ray of all machines)")
    parser.add_argument("--timeout", type=float, default=300.0, help="time limit of one object, seconds (default 300)")
    parser.add_argument(
        "--memory", type=float, default=MAX_RESIDENT / 1e9, help="memory limit of one object, GB (default 8)"
    )
    parser.add_argument("--retry-failed", action="store_true", help="try objects again that failed before")
    parser.add_argument("--ray", action="store_true", help="use Ray, on this machine unless there is an address")
    parser.add_argument(
        "--address", help="address of a Ray cluster whose machines share this disk: auto or ray://host:10001"
    )
    return parser
