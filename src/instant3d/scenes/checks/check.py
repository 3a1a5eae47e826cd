"""Check of many scene folders in parallel, repair of certain faults, and the report."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from instant3d import scenes
from instant3d.scenes.checks import conventions, cross_scene, decoding_memory
from instant3d.scenes.checks.decoding_memory import DecodingMemory
from instant3d.scenes.checks.finding import FAULT, Finding, SceneReport
from instant3d.scenes.checks.scene_checks import check_scene_quietly
from instant3d.utils import file_listing
from instant3d.utils.progress import OnStep, Progress

SHOWN = 3  # examples of each kind of finding on the terminal; the report has all
AT_ONCE = 8  # scenes per task of a process

_memory: DecodingMemory  # of a process of the pool


def check_scenes(
    folders: Sequence[str | Path],
    *,
    jobs: int | None = None,
    frames: int | None = None,
    max_memory: int = decoding_memory.DEFAULT,
    progress: Progress | None = None,
) -> tuple[list[SceneReport], list[Finding]]:
    """Check all scenes in `folders`.

    Args:
        folders: Scene folders, or folders of scene folders.
        jobs: Number of processes with one thread each; by default one per core.
        frames: Expected number of frames per scene; by default that of most scenes in the same folder.
        max_memory: Bytes for decoding images, in all processes together, beside what each process takes for itself.
        progress: Where to report progress.

    Returns:
        A report per scene, and all findings, also those from comparing scenes.
    """
    places = find_scenes(folders)
    with (progress or Progress()).task(f"checking {len(places)} scenes") as on_step:
        reports = list(_examined(places, jobs or _cores(), max_memory, on_step))
    findings = cross_scene.majority_convention([finding for report in reports for finding in report.findings])
    return reports, [*findings, *cross_scene.frame_counts(reports, frames), *cross_scene.near_duplicates(reports)]


def find_scenes(folders: Sequence[str | Path]) -> list[Path]:
    """Find all scenes at or below each path; folders of images without cameras count as scenes too.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: There is no scene.
    """
    found: dict[Path, None] = {}
    for path in map(Path, folders):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; name scene folders, or folders of them")
        alone = path.is_file() or file_listing.any_visible_files(path, "transforms*.json")
        found |= dict.fromkeys([path] if alone else _inside(path))
    if not found:
        raise ValueError(f"there is no scene in {folders[0]}; name scene folders, or folders of them")
    return list(found)


def fix_scenes(findings: Sequence[Finding]) -> list[Finding]:
    """Repair the findings that are certain enough, and return all findings with those repaired marked as fixed."""
    result = []
    for finding in findings:
        if finding.fix is not None:
            place = Path(finding.scene)
            kept = conventions.repair(place if place.is_file() else place / scenes.DOCUMENT, finding.fix)
            finding = dataclasses.replace(finding, fixed=True, advice=f"repaired; the old file is {kept.name}")
        result.append(finding)
    return result


def report(reports: Sequence[SceneReport], findings: Sequence[Finding]) -> dict[str, Any]:
    """Summarise the check as JSON data."""
    kinds: dict[str, int] = defaultdict(int)
    for finding in findings:
        kinds[finding.kind] += 1
    faulty = {finding.scene for finding in findings if finding.level == FAULT and not finding.fixed}
    counts = {"scenes": len(reports), "healthy": len(reports) - len(faulty), "kinds": dict(sorted(kinds.items()))}
    return {**counts, "findings": [finding.record() for finding in findings]}


def lines(reports: Sequence[SceneReport], findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines for the terminal: kinds of findings, most frequent first, with examples."""
    kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.level, finding.kind].append(finding)
    for (level, kind), group in sorted(kinds.items(), key=lambda item: (item[0][0], -len(item[1]))):
        fixed = sum(finding.fixed for finding in group)
        remarks = [f"{fixed} repaired"] * bool(fixed) + ["a note"] * (level != FAULT)
        yield f"{kind}: {', '.join([f'{len(group)} findings', *remarks])}"
        for finding in group[:SHOWN]:
            yield f"  {finding.scene}: {finding.evidence} ({finding.sure:.0%} sure): {finding.advice}"
        if len(group) > SHOWN:
            yield f"  and {len(group) - SHOWN} more; -o report.json lists all"
    healthy = report(reports, findings)["healthy"]
    yield f"{healthy} of {len(reports)} scenes have no fault"


def _examined(places: Sequence[Path], jobs: int, max_memory: int, on_step: OnStep) -> Iterator[SceneReport]:
    jobs = min(jobs, len(places) // AT_ONCE)  # starting a process takes longer than checking a few scenes
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    memory = DecodingMemory.of(max_memory, jobs, spawn.Lock())
    if jobs <= 1:
        for done, place in enumerate(places, 1):
            yield check_scene_quietly(place, memory)
            on_step(done, len(places))
        return
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_start, initargs=(memory,)) as pool:
        try:
            for done, report in enumerate(pool.map(_examine, places, chunksize=AT_ONCE), 1):
                yield report
                on_step(done, len(places))
        except BrokenProcessPool as error:
            text = "a process was killed, most likely for lack of memory; choose fewer --jobs, or --jobs 1 to see where"
            raise MemoryError(text) from error


def _start(memory: DecodingMemory) -> None:
    """Keep the memory of this process: a lock reaches a process only when that is started."""
    global _memory
    _memory = memory


def _examine(place: Path) -> SceneReport:
    return check_scene_quietly(place, _memory)


def _inside(folder: Path) -> list[Path]:
    known = scenes.below(folder)
    holders = {parent for place in known for parent in (place, *place.parents)}
    strays = [child for child in file_listing.visible_files(folder, "*") if child.is_dir() and child not in holders]
    shown = (
        child
        for child in strays
        if any(file_listing.any_visible_files(child, f"**/*{ending}") for ending in (".png", ".jpg"))
    )
    return sorted([*known, *shown])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
