"""Objects on disk to scene folders, by a plan: `python -m data_prep.render OBJECTS -o OUT`. Knows no pixel itself.

Scenes that are already in OUT are left as they are, so an interrupted run is continued by the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep import catalogue, plan, workforce
from data_prep.catalogue import Item
from data_prep.plan import Plan

FAINTEST = 2e-4  # mean alpha of the structured views below which an object counts as not visible


@dataclass(frozen=True)
class Job:
    """One object to be rendered into one folder."""

    item: Item
    folder: Path
    plan: Plan
    backend: str


def render_object(job: Job) -> int:
    """Write the scene of one object; the number of its views."""
    from data_prep.fast_render import render_views
    from instant3d import scenes
    from instant3d.mesh import load, normalized

    cameras = job.plan.cameras(job.item.id)
    meshes = normalized(load(job.item.path))
    views = render_views(
        meshes,
        cameras,
        job.plan.size,
        lighting=job.plan.lighting,
        supersample=job.plan.supersample,
        backend=job.backend,
    )
    if views.alpha[:4].mean() < FAINTEST:
        raise ValueError(f"{job.item.path} shows almost nothing: a few far vertices make the rest of it too small")
    if not job.plan.geometry:
        views = replace(views, depth=None, normals=None)
    facts = job.item.facts | {"lighting": job.plan.lighting}
    scenes.write(job.folder, views, caption=job.item.caption, object_id=job.item.id, extra=facts)
    return len(views.rgb)


def one_thread() -> None:
    """Make this process keep to one core: there are as many processes as cores."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software driver then draws in the calling thread
    import torch

    torch.set_num_threads(1)


def render_all(items: Sequence[Item], out: Path, what: Plan, *, workers: int, backend: str, timeout_s: float) -> Tally:
    """Render every item that has no scene in `out` yet; failures go to out/failures.jsonl."""
    _claim(out, what)
    missing = [item for item in items if not (out / item.id / "transforms.json").is_file()]
    jobs = [Job(item, out / item.id, what, backend) for item in missing]
    tally = Tally(total=len(jobs), there_already=len(items) - len(jobs))
    with (out / "failures.jsonl").open("w") as failures:
        for outcome in workforce.run(render_object, jobs, workers=workers, timeout_s=timeout_s, prepare=one_thread):
            if outcome.failure is not None:
                row = {"id": outcome.job.item.id, "file": str(outcome.job.item.path), "reason": outcome.failure}
                failures.write(json.dumps(row) + "\n")
                failures.flush()
            tally.count(outcome)
    if not tally.failed:
        (out / "failures.jsonl").unlink()
    return tally


def _claim(out: Path, what: Plan) -> None:
    """Note the plan in `out`, so that one folder never mixes two."""
    note = out / "plan.yaml"
    if note.is_file() and plan.read(note) != what:
        raise ValueError(f"{out} holds scenes of another plan (see {note}); name another folder or remove it")
    out.mkdir(parents=True, exist_ok=True)
    plan.write(what, note)


@dataclass
class Tally:
    """What has been done so far, and the line that says so."""

    total: int
    there_already: int
    done: int = 0
    failed: int = 0
    views: int = 0
    since: float = 0.0
    said: float = 0.0

    def __post_init__(self) -> None:
        self.since = self.said = time.monotonic()

    def count(self, outcome: workforce.Outcome[Job]) -> None:
        self.done += outcome.failure is None
        self.failed += outcome.failure is not None
        self.views += outcome.result or 0
        if time.monotonic() - self.said > 5:
            self.said = time.monotonic()
            print(f"{self.done + self.failed} of {self.total} objects, {self._rate()}", file=sys.stderr, flush=True)

    def _rate(self) -> str:
        seconds = time.monotonic() - self.since
        return f"{self.failed} failed, {seconds:.0f} s, {self.views / max(seconds, 1e-9):.0f} views/s"

    def closing_line(self, out: Path) -> str:
        already = f"; {self.there_already} were there already" if self.there_already else ""
        reasons = f"; reasons in {out / 'failures.jsonl'}" if self.failed else ""
        return f"{self.done} objects rendered into {out} ({self.views} views, {self._rate()}){already}{reasons}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when something was rendered or nothing was left to do, 1 when every object failed, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        what = plan.read(options.plan) if options.plan else Plan()
        items = _gather(options)
        settings: dict[str, Any] = {"workers": options.workers, "backend": options.backend}
        tally = render_all(items, options.out, what, timeout_s=options.timeout, **settings)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(tally.closing_line(options.out))
    return 1 if tally.failed and not tally.done + tally.there_already else 0


def _gather(options: argparse.Namespace) -> list[Item]:
    if options.workers < 1 or options.timeout <= 0:
        got = f"{options.workers} and {options.timeout:g} s"
        raise ValueError(f"at least one worker and some time are needed, got {got}")
    licenses = options.licenses.split(",") if options.licenses else None
    found = (catalogue.find(source, split=options.split, licenses=licenses) for source in options.objects)
    items = [item for part in found for item in part]
    name, times = Counter(item.id for item in items).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} objects have the id {name!r}; each needs its own")
    return items[: options.limit]


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m data_prep.render", description=__doc__.splitlines()[0])
    parser.add_argument("objects", nargs="+", help="folders of .glb, .gltf, .obj or .ply files, or .jsonl manifests")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for one scene folder per object")
    parser.add_argument("--plan", help="what to render (default: 128 px, 4 structured and 20 random views)")
    parser.add_argument("--split", help="only objects of this split of the manifest")
    parser.add_argument("--licenses", help="only objects under these licences, such as CC0-1.0,MIT")
    parser.add_argument("--limit", type=int, help="only the first so many objects")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--backend", choices=("auto", "gl", "embree"), default="auto")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one object (default 300)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
