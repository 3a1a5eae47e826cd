"""Accuracy of the doctor: `python -m benchmarks.doctor SCENES --count 200`.

It takes correct scenes, then inserts each camera fault into their documents (in memory: nothing is written) and counts
how many scenes have a finding, how many have the right one, and how many `--fix` would repair correctly.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instant3d import scenes
from instant3d.scenes import transforms
from instant3d.scenes.checks import blank_frames, check
from instant3d.scenes.checks.camera_checks import check_cameras
from instant3d.scenes.checks.conventions import READINGS, reread
from instant3d.scenes.checks.scene_checks import read_frames

Plant = Callable[[dict[str, Any]], dict[str, Any]]


def misread(reading: str) -> Plant:
    """Matrices written as `reading` has them: `reread`, backwards."""
    inverse, axes = READINGS[reading]

    def plant(content: dict[str, Any]) -> dict[str, Any]:
        def wrong(entry: dict[str, Any]) -> dict[str, Any]:
            matrix = np.asarray(entry["transform_matrix"]) @ axes
            return {**entry, "transform_matrix": (np.linalg.inv(matrix) if inverse else matrix).tolist()}

        return {**content, "frames": [wrong(entry) for entry in content["frames"]]}

    return plant


def zoom(factor: float) -> Plant:
    """A focal length `factor` times too long."""

    def plant(content: dict[str, Any]) -> dict[str, Any]:
        focal: dict[str, Any] = {key: content[key] * factor for key in ("fl_x", "fl_y") if key in content}
        angle = {"camera_angle_x": 2 * np.arctan(np.tan(content["camera_angle_x"] / 2) / factor)} if not focal else {}
        return {**content, **focal, **angle}

    return plant


FAULTS: dict[str, tuple[Plant, str]] = {
    "none": (lambda content: content, ""),
    **{name: (misread(name), "camera convention") for name in list(READINGS)[1:]},
    **{f"focal length x {factor}": (zoom(factor), "field of view") for factor in (0.7, 0.8, 1.25, 1.5)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--views", type=int, help="only the first so many frames of each scene")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    places = check.find_scenes(arguments.scenes)
    random.Random(0).shuffle(places)
    alarms: Counter[str] = Counter()
    named: Counter[str] = Counter()
    cured: Counter[str] = Counter()
    miscured: Counter[str] = Counter()
    start = time.process_time()
    for place in places[: arguments.count]:
        document = scenes.document(place)
        shown = read_frames(document, place.resolve())[0][: arguments.views]
        blank = blank_frames.blank(shown)
        usable = [image for image in shown if image.number not in blank and image.alpha_source != "none"]
        for fault, (plant, kind) in FAULTS.items():
            ill = transforms.Document(document.where, plant(dict(document.content)))
            found = check_cameras(str(place), ill, usable)
            alarms[fault] += bool(found)
            named[fault] += any(finding.kind == kind for finding in found)
            cures = {finding.fix for finding in found} - {None}
            right = {cure for cure in cures if same(reread(ill, str(cure)), document)}
            cured[fault] += bool(right)
            miscured[fault] += bool(cures - right)
            if not kind and found:
                print("\n".join(f"{place.name}: {finding.kind}: {finding.evidence}" for finding in found))
    count = min(arguments.count, len(places))
    print(f"{count} scenes, {time.process_time() - start:.0f} s of one core for all {len(FAULTS)} rounds")
    print("| planted | any finding | by its name | `--fix` right | `--fix` wrong |\n|---|---|---|---|---|")
    for fault in FAULTS:
        print(f"| {fault} | {alarms[fault]} | {named[fault]} | {cured[fault]} | {miscured[fault]} |")


def same(one: transforms.Document, other: transforms.Document) -> bool:
    """Whether two documents hold the same cameras."""
    pairs = [(one.frame(k).cam_to_world, other.frame(k).cam_to_world) for k in range(other.count)]
    return all(np.allclose(a, b, atol=1e-5) for a, b in pairs)


if __name__ == "__main__":
    main()
