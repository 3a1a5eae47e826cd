"""The report of `evaluate reconstruction`: means, the table, and the files of finished and of interrupted runs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from instant3d.evaluation.asset_metrics import Metrics
from instant3d.utils import atomic

NETWORK, MESH = "network", "mesh"
BASELINES = ("nearest_view", "visual_hull")
TITLES = {NETWORK: "volume", MESH: "mesh", "nearest_view": "nearest input view", "visual_hull": "visual hull"}
COLUMNS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips_vgg": "LPIPS (VGG)",
    "mask_iou": "mask IoU",
    "depth_error": "depth error",
    "normal_error": "normal error",
    "chamfer": "Chamfer",
    "f_score": "F-score",
}
UNFINISHED = "unfinished"  # folder of the records of a run that has not ended


class RecordCache:
    """Metrics of the scenes of a run that was interrupted, so that the same run resumes.

    Args:
        output: Folder of the run; None: nothing is kept.
        settings: What determines the metrics, as JSON takes it; other settings get other records.
    """

    def __init__(self, output: str | Path | None, settings: Mapping[str, Any]) -> None:
        self.folder = None if output is None else Path(output) / UNFINISHED
        self.settings = dict(settings)

    def get(self, name: str, compute: Callable[[], dict[str, Metrics]]) -> dict[str, Metrics]:
        """Return the record of a scene; a missing one is computed and kept."""
        if self.folder is None:
            return compute()
        key = hashlib.sha256(json.dumps([name, self.settings], sort_keys=True).encode()).hexdigest()[:16]
        file = self.folder / f"{key}.json"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic.write_text(file, json.dumps(compute()))
        return json.loads(file.read_text())

    def clear(self) -> None:
        """Delete all records."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def mean(rows: Sequence[Metrics]) -> Metrics:
    """Mean of each metric over the rows in which it is a number."""
    columns = dict.fromkeys(name for row in rows for name in row)
    known = {name: [row[name] for row in rows if not math.isnan(row.get(name, math.nan))] for name in columns}
    return {name: math.fsum(values) / len(values) if values else math.nan for name, values in known.items()}


def summarize(records: Mapping[str, Mapping[str, Metrics]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The report: metrics of each scene and their means, for the volume, the mesh if measured, and each baseline."""

    def column(method: str) -> dict[str, Metrics]:
        return {name: record.get(method, {}) for name, record in records.items()}

    meshed = any(MESH in record for record in records.values())
    return {
        "scenes": column(NETWORK),
        "mean": mean(list(column(NETWORK).values())),
        **({"mesh_scenes": column(MESH), "mesh_mean": mean(list(column(MESH).values()))} if meshed else {}),
        "baselines": {method: mean(list(column(method).values())) for method in BASELINES},
        "baseline_scenes": {method: column(method) for method in BASELINES},
        "settings": dict(settings),
    }


def means(report: Mapping[str, Any]) -> dict[str, Metrics]:
    """The means of a report by method."""
    found = {NETWORK: report["mean"], MESH: report.get("mesh_mean", {}), **report["baselines"]}
    return {method: numbers for method, numbers in found.items() if numbers}


def table(report: Mapping[str, Any]) -> str:
    """The means of a report as Markdown, a row for each method."""
    rows = means(report)
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    lines = [
        f"mean over {len(report['scenes'])} scenes",
        "",
        "| | " + " | ".join(COLUMNS[name] for name in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for method, row in rows.items():
        cells = [f"{row[name]:.3f}" if math.isfinite(row.get(name, math.nan)) else "" for name in columns]
        lines.append(f"| {TITLES[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def header(record: Mapping[str, Metrics], width: int) -> str:
    """Column titles for `line`s of records like this one, with names of `width` characters."""
    titles = [COLUMNS[name] for name in record.get(NETWORK, {})]
    return " ".join([" " * width, *(f"{title:>12}" for title in [*titles, *_beside(record)])])


def line(name: str, record: Mapping[str, Metrics], width: int) -> str:
    """Format one row of progress.

    Args:
        name: Name of the scene, or "mean".
        record: Metrics by method.
        width: Characters of the column of names.

    Returns:
        The volume's metrics, then the PSNR of the mesh and of each baseline.
    """
    values = [*record.get(NETWORK, {}).values(), *(record[method]["psnr"] for method in _beside(record))]
    return " ".join([f"{name:<{width}}", *(f"{value:12.3f}" for value in values)])


def write(report: Mapping[str, Any], output: str | Path) -> None:
    """Write `metrics.json` and `table.md` into the folder `output`, whole or not at all; NaN becomes null in JSON."""
    with atomic.merged(output) as partial:
        (partial / "metrics.json").write_text(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n")
        (partial / "table.md").write_text(table(report))


def _beside(record: Mapping[str, Metrics]) -> list[str]:
    """The methods of which a line shows the PSNR alone."""
    return [method for method in (MESH, *BASELINES) if method in record]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
