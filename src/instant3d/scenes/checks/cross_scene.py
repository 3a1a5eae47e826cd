"""What only many scenes together show: twins, scenes of another length, a common convention. Knows nothing of files."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from instant3d.scenes.checks.camera_hypotheses import SURE
from instant3d.scenes.checks.finding import Finding, SceneReport

ALIKE = 0.012  # of 1: root mean square between the mosaics of two renderings of one object
COMMON = 0.8  # of a folder's scenes, that must have one length before another one is odd
LEAST_SCENES = 5
AXES = 24  # along which fingerprints differ most; neighbours along these are compared in full


def frame_counts(reports: Sequence[SceneReport], expected: int | None) -> Iterator[Finding]:
    """Scenes whose number of frames is not `expected`, or not that of most scenes beside them."""
    groups: dict[Path, list[SceneReport]] = defaultdict(list)
    for patient in reports:
        if patient.frames:
            groups[Path(patient.scene).parent].append(patient)
    for group in groups.values():
        usual, times = Counter(patient.frames for patient in group).most_common(1)[0]
        if expected is None and (len(group) < LEAST_SCENES or times < COMMON * len(group)):
            continue
        right, sure = (usual, times / len(group)) if expected is None else (expected, 1.0)
        why = f"{times} of {len(group)} scenes beside it have {usual}"
        why = why if expected is None else f"{expected} were asked for"
        for patient in group:
            if patient.frames != right:
                advice = "render the scene again, or drop it; `--frames N` names the right number"
                yield Finding("frame count", patient.scene, sure, f"{patient.frames} frames, but {why}", advice)


def majority_convention(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, where scenes that cannot tell their convention have it from those beside them.

    One program wrote them all: n scenes that are sure and of one mind leave a chance of 1 in n + 2 (Laplace's rule of
    succession) that the next one differs.
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
    (cure,) = beside
    evidence = f"{finding.evidence}; {times} scenes beside it are {cure} for sure"
    advice = f"the matrices are {cure}; `--fix` writes them as the format asks"
    return dataclasses.replace(finding, sure=min(finding.sure, chance), evidence=evidence, advice=advice, fix=cure)


def near_duplicates(reports: Sequence[SceneReport]) -> Iterator[Finding]:
    """Every scene that shows the same object as an earlier one, or bears its id."""
    first: dict[str, str] = {}
    told = set()
    for patient in reports:
        if patient.id and first.setdefault(patient.id, patient.scene) != patient.scene:
            told.add(patient.scene)
            evidence = f"its id {patient.id!r} is also that of {first[patient.id]}"
            yield Finding("duplicate", patient.scene, 1.0, evidence, "drop one, or give each scene its own id")
    for earlier, later, difference in _neighbours([patient for patient in reports if patient.fingerprint]):
        if later.scene not in told:
            told.add(later.scene)
            evidence = f"its first pictures are within {255 * difference:.1f} of 255 levels of {earlier.scene}'s"
            sure = 1 - 0.5 * difference / ALIKE
            yield Finding("duplicate", later.scene, sure, evidence, "keep one of the two, or keep both in one split")


def _neighbours(reports: list[SceneReport]) -> Iterator[tuple[SceneReport, SceneReport, float]]:
    if len(reports) < 2:
        return
    from scipy.spatial import cKDTree

    prints = np.stack([np.frombuffer(patient.fingerprint, np.float32) for patient in reports])
    centred = prints - prints.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    reach = ALIKE * prints.shape[1] ** 0.5
    for a, b in sorted(cKDTree(centred @ axes[:, -AXES:]).query_pairs(reach)):
        difference = float(np.sqrt(np.square(prints[a] - prints[b]).mean()))
        if difference <= ALIKE:
            yield reports[a], reports[b], difference
