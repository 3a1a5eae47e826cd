"""Dataset-level checks: near-duplicate scenes, inconsistent frame counts, majority vote on the camera convention."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from instant3d.scenes.checks.camera_hypotheses import SURE
from instant3d.scenes.checks.finding import Finding, SceneReport

ALIKE = 0.012  # root mean square difference between the mosaics of two renderings of one object, on a scale of 1
COMMON = 0.8  # share of a folder's scenes that must have one length before others are reported
LEAST_SCENES = 5
AXES = 24  # principal axes of the fingerprints; neighbours along these are compared in full


def frame_counts(reports: Sequence[SceneReport], expected: int | None) -> Iterator[Finding]:
    """Yield a finding for each scene whose number of frames is not `expected`, or not that of most scenes beside it."""
    groups: dict[Path, list[SceneReport]] = defaultdict(list)
    for report in reports:
        if report.frames:
            groups[Path(report.scene).parent].append(report)
    for group in groups.values():
        usual, times = Counter(report.frames for report in group).most_common(1)[0]
        if expected is None and (len(group) < LEAST_SCENES or times < COMMON * len(group)):
            continue
        right, sure = (usual, times / len(group)) if expected is None else (expected, 1.0)
        why = f"{times} of {len(group)} scenes beside it have {usual}"
        why = why if expected is None else f"{expected} were expected"
        for report in group:
            if report.frames != right:
                advice = "render the scene again, or drop it; `--frames N` names the right number"
                yield Finding("frame count", report.scene, sure, f"{report.frames} frames, but {why}", advice)


def majority_convention(findings: Sequence[Finding]) -> list[Finding]:
    """Complete ambiguous camera-convention findings by the convention of the scenes in the same folder.

    They were presumably written by one program: after n scenes of one certain convention, the next one differs with
    probability 1 / (n + 2) (Laplace's rule of succession).
    """
    known: dict[Path, Counter[str]] = defaultdict(Counter)
    for finding in findings:
        if finding.fix is not None:
            known[Path(finding.scene).parent][finding.fix] += 1
    return [_with_majority(finding, known[Path(finding.scene).parent]) for finding in findings]


def _with_majority(finding: Finding, beside: Counter[str]) -> Finding:
    times = beside.total()
    chance = (times + 1) / (times + 2)
    if len(beside) != 1 or chance < SURE or not set(beside) <= set(finding.fits):
        return finding
    (convention,) = beside
    evidence = f"{finding.evidence}; {times} scenes beside it are {convention} for sure"
    advice = f"the matrices are {convention}; `--fix` writes them in the format's convention"
    return dataclasses.replace(
        finding, sure=min(finding.sure, chance), evidence=evidence, advice=advice, fix=convention
    )


def near_duplicates(reports: Sequence[SceneReport]) -> Iterator[Finding]:
    """Yield a finding for each scene that shows the same object as an earlier one, or has its id."""
    first: dict[str, str] = {}
    reported = set()
    for report in reports:
        if report.id and first.setdefault(report.id, report.scene) != report.scene:
            reported.add(report.scene)
            evidence = f"its id {report.id!r} is also that of {first[report.id]}"
            yield Finding("duplicate", report.scene, 1.0, evidence, "drop one, or give each scene its own id")
    for earlier, later, difference in _neighbours([report for report in reports if report.fingerprint]):
        if later.scene not in reported:
            reported.add(later.scene)
            evidence = f"its first images are within {255 * difference:.1f} of 255 levels of {earlier.scene}'s"
            sure = 1 - 0.5 * difference / ALIKE
            yield Finding("duplicate", later.scene, sure, evidence, "keep one of the two, or keep both in one split")


def _neighbours(reports: list[SceneReport]) -> Iterator[tuple[SceneReport, SceneReport, float]]:
    if len(reports) < 2:
        return
    from scipy.spatial import cKDTree

    prints = np.stack([np.frombuffer(report.fingerprint, np.float32) for report in reports])
    centred = prints - prints.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    reach = ALIKE * prints.shape[1] ** 0.5
    for a, b in sorted(cKDTree(centred @ axes[:, -AXES:]).query_pairs(reach)):
        difference = float(np.sqrt(np.square(prints[a] - prints[b]).mean()))
        if difference <= ALIKE:
            yield reports[a], reports[b], difference
