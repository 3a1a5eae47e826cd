"""How well a few views of an object foretell its others, beside two honest baselines. Knows nothing of training.

Nothing here is random. Pictures are compared over white; a number is the mean over an object's target views, and the
final one the mean over objects. The baselines need no network: the input view nearest to the wanted one, and the
visual hull coloured from the inputs (`instant3d.nerf.hull`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d import atomic, metrics, scenes
from instant3d.cameras import Cameras
from instant3d.losses import Perceptual
from instant3d.nerf.field import Field
from instant3d.nerf.hull import Hull
from instant3d.nerf.triplane import TriplaneField
from instant3d.nerf.volume import render
from instant3d.stage2.network import Reconstructor
from instant3d.views import Views

Numbers = dict[str, float]


@dataclass(frozen=True)
class Task:
    """One object: the views that are given and those to be foretold."""

    name: str
    given: Views  # (V,)
    wanted: Views  # (T,)


def reconstruction(
    folders: Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    views: Sequence[int] = (0, 1, 2, 3),
    resolution: int | None = None,
    output: str | Path | None = None,
    perceptual: str | None = None,
    device: str | torch.device | None = None,
    network: Reconstructor | None = None,
) -> dict[str, Any]:
    """Measure a reconstructor and both baselines on scene folders, or on folders of them; print a table.

    weights     a checkpoint of the reconstructor, if `network` is not given; with neither, only baselines are measured
    views       frames that are given to it; all others of a scene are targets
    resolution  pixels a side to which both are resized; as they are by default
    output      folder for `metrics.json`
    perceptual  VGG-16 weights for LPIPS (see `losses.Perceptual`); without, it is left out
    """
    tasks = find(folders)
    if network is None and weights is not None:
        network = Reconstructor.from_pretrained(weights)
    network = network and network.to(device or "cpu").eval()
    similarity = Perceptual(perceptual).to(device or "cpu") if perceptual else None
    rows: dict[str, dict[str, Numbers]] = {"network": {}, "nearest_view": {}, "visual_hull": {}}
    width = max(len(name) for name in tasks)
    print(_line("", ["PSNR", "SSIM", "mask IoU", "depth error", "nearest view", "visual hull"], width), flush=True)
    for name, folder in tasks.items():
        task = read(name, folder, views, resolution).to(device)
        for method, numbers in measure_all(task, network, similarity).items():
            rows[method][name] = numbers
        print(_row(name, {method: row.get(name, {}) for method, row in rows.items()}, width), flush=True)
    means = {method: mean(list(row.values())) for method, row in rows.items()}
    print(_row("mean", means, width), flush=True)
    settings = {"weights": str(weights) if weights else None, "views": list(views), "resolution": resolution}
    report = {
        "scenes": rows["network"] or {name: {} for name in tasks},
        "mean": means["network"],
        "baselines": {name: means[name] for name in ("nearest_view", "visual_hull")},
        "baseline_scenes": {name: rows[name] for name in ("nearest_view", "visual_hull")},
        "settings": settings,
    }
    if output is not None:
        write(report, output)
    return report
