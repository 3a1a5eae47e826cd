"""Draft model cards of a run: weights, data, duration and measurements, from the run's files."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instant3d import __version__
from instant3d.utils import atomic

from ..manifests import attribution
from .recipe import Recipe
from .running import Record

CARD = "README.md"
SHOWS = {
    "stage1": "A generator of four views from a sentence: a small SDXL, in diffusers' layout.",
    "few_steps": "LoRA weights for the generator of views: four steps without guidance (`--lora`).",
    "stage2": "A reconstructor: four posed views to a triplane.",
    "direct": "Text tokens to a triplane in one pass.",
    "judge": "A classifier of ten colours and twenty objects for `instant3d evaluate text`.",
}
SETS = {"stage1": ("painted",), "few_steps": ("painted",), "direct": ("direct",), "judge": ("judge",)}
STAGE2_SETS = ("real", "real_painted", "added")
OWN_STEPS = {
    "stage1": ("base", "cache", "paint-painted"),
    "stage2": ("variants", "procedural", "render-added", "paint-real_painted"),
}
RECONSTRUCTION = {"psnr": "PSNR", "ssim": "SSIM", "mask_iou": "mask IoU", "depth_error": "depth error"}
ALIGNMENT = ("colour", "object", "both")
LOGGED = ("train/loss", "val/psnr", "val/mask_iou", "val/loss")


def write(recipe: Recipe, record: Record) -> list[Path]:
    """Write a card beside the weights of each part; the paths of the cards."""
    cards = []
    for part in recipe.parts:
        with atomic.merged(recipe.weights(part)) as partial:
            (partial / CARD).write_text(card(recipe, record, part))
        cards.append(recipe.weights(part) / CARD)
    return cards


def card(recipe: Recipe, record: Record, part: str) -> str:
    """The text of a part's card, as Markdown.

    Args:
        recipe: The run's recipe: its data sets, folders and command.
        record: Seconds of the run's steps.
        part: "stage1", "few_steps", "stage2", "direct" or "judge".
    """
    folder, scenes = recipe.weights(part), [Path(recipe.scenes(name)) for name in _sets(recipe, part)]
    facts = {
        "command": f"`{_command(recipe)}`",
        "hardware": hardware(recipe.trainer != "cpu"),
        "software": f"instant3d {__version__}, Python {platform.python_version()}, {_torch()}",
        "data": "; ".join(f"{place.name}: {_count(place):,} scenes" for place in scenes),
        "time": "; ".join(f"{name} {known['seconds']:.0f} s" for name, known in _steps_of(record, part)),
        **_training(recipe, part),
    }
    return "\n".join(
        [
            f"# {folder.name}",
            "",
            f"{SHOWS[part]} A draft, written by the run: complete it before the weights are given away.",
            "",
            *_table(["", ""], facts.items()),
            "",
            "## Files",
            "",
            *_table(["file", "numbers", "bytes", "sha256"], _files(folder)),
            "",
            *_measured(recipe, part),
            attribution.markdown(attribution.gather(scenes)).strip(),
            "",
        ]
    )


def hardware(gpu: bool) -> str:
    """Processor, cores and GPU of this machine."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a processor")
    graphics = [torch.cuda.get_device_name(0)] if gpu and torch.cuda.is_available() else []
    return ", ".join([*graphics, f"{os.cpu_count()} cores of {model or platform.machine()}"])


def last_values(log: Path) -> dict[str, float]:
    """The last number of each column of a CSV log, and of the newest one below a folder of logs."""
    files = sorted(log.glob("**/metrics.csv"), key=lambda path: path.stat().st_mtime)
    found: dict[str, float] = {}
    for file in files[-1:]:
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                found |= {name: float(value) for name, value in row.items() if value}
    return found


def _training(recipe: Recipe, part: str) -> dict[str, str]:
    values = last_values(recipe.out / "runs" / part)
    if not values:
        return {}
    logged = ", ".join(f"{name} {values[name]:.4g}" for name in LOGGED if name in values)
    return {"training": f"{int(values['step']) + 1:,} steps; at the end {logged}"}


def _files(folder: Path) -> Iterator[Sequence[str]]:
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        yield str(file.relative_to(folder)), f"{_numbers(file):,}", f"{file.stat().st_size:,}", f"`{digest}`"


def _numbers(file: Path) -> int:
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def _measured(recipe: Recipe, part: str) -> Iterator[str]:
    """Tables of what the run's evaluations measured of this part."""
    reconstruction, texts = _metrics(recipe, "reconstruction"), _texts(recipe, part)
    if part == "stage2" and reconstruction:
        (report,) = reconstruction
        rows = {**report["baselines"], recipe.weights(part).name: report["mean"]}
        yield from (
            "## Measured",
            "",
            f"`instant3d evaluate reconstruction`, {len(report['scenes'])} held-out objects:",
            "",
        )
        cells = ([name, *(_number(values.get(key)) for key in RECONSTRUCTION)] for name, values in rows.items())
        yield from (*_table(["", *RECONSTRUCTION.values()], cells), "")
    if part in ("stage1", "few_steps", "direct") and texts:
        lists = [next(iter(report["lists"].values())) for report in texts]
        yield from ("## Measured", "", f"`instant3d evaluate text --prompts {recipe.prompts}`, {len(texts)} seeds:", "")
        looks = [look for look in ("renders", "views") if look in lists[0]]
        cells = (
            [look, *(" / ".join(f"{100 * one[look][key]:.0f}" for one in lists) + " %" for key in ALIGNMENT)]
            for look in looks
        )
        yield from (*_table(["", *ALIGNMENT], cells), "")


def _texts(recipe: Recipe, part: str) -> list[dict[str, Any]]:
    return _metrics(recipe, f"text-{part if part in ('direct', 'few_steps') else 'two-stage'}-*")


def _metrics(recipe: Recipe, pattern: str) -> list[dict[str, Any]]:
    return [
        json.loads(file.read_text()) for file in sorted((recipe.out / "evaluation").glob(f"{pattern}/metrics.json"))
    ]


def _sets(recipe: Recipe, part: str) -> Sequence[str]:
    return SETS.get(part, [name for name in STAGE2_SETS if Path(recipe.scenes(name)).is_dir()])


def _count(scenes: Path) -> int:
    return sum(1 for _ in scenes.glob("*/transforms.json"))


def _steps_of(record: Record, part: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The steps that a part's weights come from."""
    others = OWN_STEPS.get(part, ())
    for name, known in record.steps.items():
        if name.endswith(f"-{part}") or name in others or name == "render-real":
            yield name, known


def _command(recipe: Recipe) -> str:
    names = ("parts", "trainer", "seconds", "licences", "variants", "procedural")
    values = {name: getattr(recipe, name) for name in names} | {"parts": ",".join(recipe.parts)}
    values["seconds"] = f"{recipe.seconds:g}"
    return "python -m data_prep.demo_weights OBJECTS -o OUT " + " ".join(f"--{name} {values[name]}" for name in names)


def _torch() -> str:
    import torch

    return f"torch {torch.__version__}"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(heading: Sequence[str], rows: Any) -> Iterator[str]:
    yield "| " + " | ".join(heading) + " |"
    yield "|---" * len(heading) + "|"
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
