"""Objects on disk to scene folders, by a plan: `instant3d data render OBJECTS -o OUT`. Knows no pixel itself.

Scenes that are already in OUT are left as they are, so an interrupted run is continued by the same command.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from instant3d.utils.errors import print_escaped

from ..execution import locked_tempdir, process_pool, ray_pool
from ..execution.process_pool import JobResult
from ..manifests import object_manifest
from ..manifests.failure_log import FailureLog
from ..manifests.id_lists import read_list
from ..manifests.object_manifest import Item
from . import render_plan
from .render_object import Job, prepare, render_object
from .render_plan import RENDERERS, Plan
from .run_stats import RunStats

MAX_MEMORY = 8_000_000_000  # bytes for one object; five million triangles in Blender take 1.7e9
JOBS_EACH = 200  # objects, before a process makes room for a new one
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.partial")  # how `instant3d.utils.atomic` calls a folder that it is writing

Work = Callable[[Job], int]
Results = Generator[JobResult[Job], None, None]


@dataclass(frozen=True)
class Execution:
    """Where and within which limits objects are rendered.

    ray        on Ray: the cluster at `address`, or this machine if that is None
    workers    processes at once; None for one a core
    timeout_s  and max_memory (bytes) are one object's
    """

    workers: int | None = None
    timeout_s: float = 300.0
    max_memory: int | None = MAX_MEMORY
    backend: str = "auto"
    ray: bool = False
    address: str | None = None

    def run(self, work: Work, jobs: Sequence[Job], prepare: Callable[[], None], **terms: Any) -> Results:
        limits: dict[str, Any] = {"timeout_s": self.timeout_s, "max_memory": self.max_memory, "prepare": prepare}
        if self.ray:
            return ray_pool.run(work, jobs, address=self.address, workers=self.workers, **limits, **terms)
        return process_pool.run(work, jobs, workers=self.workers or os.cpu_count() or 1, **limits, **terms)

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

    What crashed, took too long or too much memory is tried once more at the end, in a process of its own and with
    fewer others beside it; then it counts as failed and is not tried again. Reasons go to out/failures.jsonl, the
    counts of this run to out/report.json. A full disk ends the run with an OSError.
    """
    _claim(out, what)
    with _alone(out), FailureLog(out) as failures:
        _remove_leftovers(out)
        if retry_failed:
            failures.forget([item.id for item in items])
        there = _finished(out, items)
        jobs = [
            Job(item, out.resolve() / item.id, what, execution.backend, execution.timeout_s, execution.max_memory)
            for item in items
            if item.id not in there
        ]
        fresh = [job for job in jobs if job.item.id not in failures.rows]
        again = [job for job in jobs if failures.deserves_another(job.item.id)]
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
    """Whether this was the last word on an object."""
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
    if failures.deserves_another(name):
        return False
    stats.lost(result.kind)
    return True


def _claim(out: Path, what: Plan) -> None:
    """Note the plan in `out`, so that one folder never mixes two."""
    note = out / "plan.yaml"
    if note.is_file() and render_plan.read(note) != what:
        raise ValueError(f"{out} holds scenes of another plan (see {note}); name another folder or remove it")
    out.mkdir(parents=True, exist_ok=True)
    render_plan.write(what, note)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    try:
        with locked_tempdir.locked(out):
            yield
    except BlockingIOError as error:
        raise ValueError(f"another run is rendering into {out}; wait for it, or name another folder") from error


def _remove_leftovers(out: Path) -> None:
    """What a killed run had begun to write."""
    for entry in os.scandir(out):
        if UNFINISHED.fullmatch(entry.name):
            shutil.rmtree(entry.path, ignore_errors=True)


def _finished(out: Path, items: Sequence[Item]) -> set[str]:
    """The ids of those items that have a scene."""
    folders = {entry.name for entry in os.scandir(out)}  # one look instead of a million
    return {item.id for item in items if item.id in folders and (out / item.id / "transforms.json").is_file()}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when something was rendered or nothing was left, 1 when every object failed, 2 for bad input or a full disk."""
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
        timeout_s=options.timeout,
        max_memory=round(options.memory * 1e9),
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
    parser.add_argument("--keep", type=Path, help="only the objects that a list names, an id on each line")
    parser.add_argument("--limit", type=int, help="only the first so many objects")
    parser.add_argument("--renderer", choices=RENDERERS, help="instead of the plan's")
    parser.add_argument("--backend", choices=("auto", "gl", "embree"), default="auto", help="of the fast renderer")
    parser.add_argument("--workers", type=int, help="processes (default: one per core, on Ray of all machines)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one object (default 300)")
    parser.add_argument("--memory", type=float, default=MAX_MEMORY / 1e9, help="GB for one object (default 8)")
    parser.add_argument("--retry-failed", action="store_true", help="try those again that have failed before")
    parser.add_argument("--ray", action="store_true", help="run on Ray, on this machine unless there is an address")
    parser.add_argument("--address", help="of a Ray cluster whose machines share this disk: auto or ray://host:10001")
    return parser
