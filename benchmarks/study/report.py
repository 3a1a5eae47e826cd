"""Table, numbers and figure of a study."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.bands import BANDS
from instant3d.utils import atomic
from instant3d.utils.line_chart import Line, line_chart

Result = Mapping[str, Any]
COLUMNS = {
    "psnr": ("PSNR, dB", ".2f"),
    "spread": ("between seeds", ".2f"),
    "gain": ("gain", "+.2f"),
    "ssim": ("SSIM", ".3f"),
    "mask_iou": ("mask IoU", ".3f"),
    "mesh_psnr": ("mesh PSNR", ".2f"),
    **{f"psnr_{band}": (band, ".2f") for band in BANDS},
    "seeds": ("seeds", ".0f"),
    "steps": ("steps", ".0f"),
    "parameters": ("parameters, M", ".2f"),
    "flops_per_step": ("TFLOP a step", ".4f"),
    "planes_seconds": ("CPU s to planes", ".3f"),
    "mesh_seconds": ("from planes to mesh", ".1f"),
    "peak_memory": ("peak GiB", ".2f"),
}
SCALES = {"parameters": 1e6, "flops_per_step": 1e12, "peak_memory": 2.0**30}


def mean(scenes: Mapping[str, Mapping[str, float | None]], metric: str, names: Sequence[str] | None = None) -> float:
    """Mean of a metric over scenes, or over the `names` among them; NaN if there is none with a number."""
    values = [scene.get(metric) for name, scene in scenes.items() if names is None or name in names]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else math.nan


def summarize(results: Sequence[Result], bands: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Numbers of a variant: means over its seeds, and the difference between the best and the worst seed.

    Args:
        results: A result for each seed, as `trial.run` returns it.
        bands: Names of the scenes of each band.
    """

    def over_seeds(method: str, metric: str, names: Sequence[str] | None = None) -> float:
        return statistics.fmean(mean(result["metrics"][method], metric, names) for result in results)

    psnrs = [mean(result["metrics"]["volume"], "psnr") for result in results]
    return {
        "psnr": statistics.fmean(psnrs),
        "spread": max(psnrs) - min(psnrs) if len(psnrs) > 1 else math.nan,
        **{metric: over_seeds("volume", metric) for metric in ("ssim", "mask_iou")},
        "mesh_psnr": over_seeds("mesh", "psnr"),
        **{f"psnr_{band}": over_seeds("volume", "psnr", names) for band, names in bands.items()},
        "seeds": len(results),
        "steps": statistics.fmean(result["training"]["steps"] for result in results),
        "parameters": results[0]["cost"]["parameters"],
        "flops_per_step": results[0]["cost"]["flops_per_step"],
        "peak_memory": max(result["training"]["peak_memory"] for result in results),
    }


def compare(
    results: Mapping[str, Sequence[Result]],
    bands: Mapping[str, Sequence[str]],
    seconds: Mapping[str, Mapping[str, float]],
    first: str,
) -> dict[str, dict[str, float]]:
    """Numbers of all variants, the best first.

    Args:
        results: Results of the finished trials by variant.
        bands: Names of the scenes of each band.
        seconds: `planes_seconds`, and `mesh_seconds` if meshes are compared, by variant.
        first: The variant that gains are measured against.

    Raises:
        ValueError: Variants were trained on different data, so that they cannot be compared.
    """
    _check_data(results)
    rows = {name: summarize(some, bands) | dict(seconds[name]) for name, some in results.items()}
    base = rows[first]["psnr"] if first in rows else math.nan
    for row in rows.values():
        row["gain"] = row["psnr"] - base
    return dict(sorted(rows.items(), key=lambda item: -item[1]["psnr"]))


def _check_data(results: Mapping[str, Sequence[Result]]) -> None:
    orders: dict[int, tuple[str, str]] = {}
    for variant, some in results.items():
        for result in some:
            order = result["cost"]["data_order"]
            known, other = orders.setdefault(result["seed"], (order, variant))
            if known != order:
                raise ValueError(
                    f"{variant} was trained on other data than {other}, in seed {result['seed']}; "
                    "a study compares variants on the same scenes in the same order"
                )


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each variant, as Markdown; columns without any number are left out."""
    used = [key for key in COLUMNS if any(math.isfinite(row.get(key, math.nan)) for row in rows.values())]
    lines = ["| variant | " + " | ".join(COLUMNS[key][0] for key in used) + " |", "|---" * (len(used) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(_cell(row, key) for key in used) + " |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, float], key: str) -> str:
    value = row.get(key, math.nan)
    return format(value / SCALES.get(key, 1), COLUMNS[key][1]) if math.isfinite(value) else ""


def write(
    rows: Mapping[str, Mapping[str, float]],
    results: Mapping[str, Sequence[Result]],
    bands: Mapping[str, Sequence[str]],
    failed: Mapping[str, str],
    output: Path,
) -> str:
    """Write `table.md`, `study.json` and `figure.png`, whole or not at all.

    Args:
        rows: Numbers by variant.
        results: Results of the finished trials by variant.
        bands: Names of the scenes of each band.
        failed: The last line of the log of each failed trial.
        output: Folder to write into.

    Returns:
        The table.
    """
    counts = ", ".join(f"{len(names)} {band}" for band, names in bands.items())
    text = table(rows) + f"\nPSNR of the bands: {counts} objects.\n"
    text += "".join(f"\n{name} failed: {line}\n" for name, line in failed.items())
    numbers = {name: {key: _plain(value) for key, value in row.items()} for name, row in rows.items()}
    content = {"variants": numbers, "bands": bands, "failed": failed, "trials": results}
    with atomic.merged(output) as partial:
        (partial / "table.md").write_text(text)
        (partial / "study.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        line_chart(
            lines(rows, results), partial / "figure.png", across="CPU seconds to planes", up="PSNR of each seed, dB"
        )
    return text


def lines(rows: Mapping[str, Mapping[str, float]], results: Mapping[str, Sequence[Result]]) -> list[Line]:
    """PSNR of each seed over the seconds to planes, a vertical line for each variant."""
    return [
        Line(
            name,
            [
                (float(f"{row['planes_seconds']:.2g}"), mean(result["metrics"]["volume"], "psnr"))
                for result in results[name]
            ],
        )
        for name, row in rows.items()
    ]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
