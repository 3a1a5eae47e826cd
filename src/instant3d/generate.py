"""The command `instant3d generate`: prompts in, a folder of results for each out. Knows nothing of command lines.

A folder holds grid.png, views/ (a scene), mesh.FORMAT, triplane.safetensors, turntable.mp4 and .webp, sheet.png and,
last of all, result.json: where that is, the asset is finished, and it tells by which settings. What is finished by the
same settings is not made again.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d import atomic, bundled, results, scenes, writers
from instant3d.asset import check_formats
from instant3d.diffusion import source as stage1_files
from instant3d.pipeline import Sampling, TextTo3D, check_stages, find_device, stage1_dtype
from instant3d.progress import Progress, Stopwatch
from instant3d.prompts import Prompt, cut_off, slug
from instant3d.results import RECORD, Shown
from instant3d.stage1.grid import to_views
from instant3d.stage2.network import locate

SYSTEM = "two-stage"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # after these, nothing more can be written


@dataclass(frozen=True)
class Order:
    """What is asked of every prompt; `count` assets of each, by seeds that count up from `seed`."""

    seed: int = 0
    count: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    negative: str | None = None
    resolution: int = 256
    formats: Sequence[str] = ("glb",)


@dataclass(frozen=True)
class Item:
    """One asset to be made."""

    prompt: str
    where: str
    seed: int
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a prompt or an item: one of a `record`, a `note` about it, an `error`, or nothing, if it had been
    finished before."""

    where: str
    folder: Path | None = None
    record: dict[str, Any] | None = None
    note: str = ""
    error: str | Exception = ""


def generate(
    prompts: Sequence[Prompt],
    output: Path,
    order: Order,
    *,
    stage1: str | Path | None = None,
    stage2: str | Path | None = None,
    device: str = "auto",
    max_memory: int | None = None,
    at_once: int = 4,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Make the assets of prompts, and tell of each as soon as it is there. Nothing is loaded if nothing is to be done.

    One prompt with one seed is written into `output` itself, others into folders below it.
    """
    where = find_device(device)
    stage1 = bundled.weights(bundled.STAGE1, stage1, option="--stage1")
    stage2 = bundled.weights(bundled.STAGE2, stage2, option="--stage2")
    check_formats(order.formats)
    yield from (Outcome(prompt.where, error=prompt.fault) for prompt in prompts if prompt.fault)
    watch = Stopwatch()
    with watch("load"):
        check_stages(stage1, stage2)
        weights = hashes(stage1, stage2, where)
    items, fresh = plan(prompts, output, order), []
    for item in items:
        if _finished(item, order, weights):
            yield Outcome(item.where, item.folder)
        else:
            fresh.append(item)
    if not fresh:
        return
    with watch("load"):
        model = TextTo3D.from_pretrained(stage1, stage2, device=where, max_memory=max_memory, at_once=at_once)
    yield from _notes(model, fresh)
    run = _Run(model, order, weights, watch.seconds["load"], progress or Progress())
    for k in range(0, len(fresh), at_once):
        if (yield from run.make(fresh[k : k + at_once])):
            yield from (Outcome(item.where, error="was not begun") for item in fresh[k + at_once :])
            return


def closing_line(record: dict[str, Any], folder: Path | None) -> str:
    """One line for the terminal."""
    return results.closing_line(record, folder or Path(), repr(record["prompt"]))


def plan(prompts: Sequence[Prompt], output: Path, order: Order) -> list[Item]:
    """The assets to be made. A prompt's number is its place in the list, whether the others are sound or not."""
    if order.count < 1:
        raise ValueError(f"at least one asset is made of each prompt, got {order.count}")
    seeds = range(order.seed, order.seed + order.count)
    if len(prompts) * order.count == 1:
        return [Item(prompt.text, prompt.where, order.seed, output) for prompt in prompts if not prompt.fault]
    return [
        _below(output, number, prompt, seed, several=order.count > 1)
        for number, prompt in enumerate(prompts, 1)
        if not prompt.fault
        for seed in seeds
    ]


def hashes(stage1: str | Path, stage2: str | Path, device: torch.device) -> dict[str, Any]:
    """Where the weights were found and the SHA-256 of each of their files."""
    if Path(stage1).is_file():
        first = {Path(stage1).name: Path(stage1)}
    else:
        parts = stage1_files.folders(stage1, stage1_files.NETWORKS, stage1_dtype(device))
        files = [(part, file) for part, folder in parts.items() for file in sorted(folder.glob("*.safetensors"))]
        first = {f"{part}/{file.name}": file for part, file in files}
    second = locate(stage2) / "model.safetensors"
    return {
        "stage1": {"name": str(stage1), "sha256": {name: results.sha256(file) for name, file in first.items()}},
        "stage2": {"name": str(stage2), "sha256": {second.name: results.sha256(second)} if second.is_file() else {}},
    }


@dataclass(frozen=True)
class _Run:
    """What stays the same from one batch to the next."""

    model: TextTo3D
    order: Order
    weights: dict[str, Any]
    load_seconds: float
    progress: Progress

    def make(self, items: Sequence[Item]) -> Generator[Outcome, None, bool]:
        """Draw the items' views together, then build them one by one; returns whether to stop, for lack of room."""
        drawn = Stopwatch()
        with _enough_memory():
            grids = self._draw(items, drawn)
        for item, grid in zip(items, grids, strict=True):
            watch = Stopwatch()
            watch.seconds = {"load": self.load_seconds} | {
                name: seconds / len(items) for name, seconds in drawn.seconds.items()
            }
            try:
                with _enough_memory():
                    record = self._write(item, grid, watch)
                yield Outcome(item.where, item.folder, record=record)
            except (ValueError, OSError, MemoryError) as error:
                yield Outcome(item.where, item.folder, error=error)
                if isinstance(error, OSError) and error.errno in NO_ROOM:
                    return True
        return False

    def _draw(self, items: Sequence[Item], watch: Stopwatch) -> Tensor:
        prompts, seeds = [item.prompt for item in items], [item.seed for item in items]
        with watch("text"):
            text, away = self.model.encode(prompts, self.order.negative)
        name = items[0].where if len(items) == 1 else f"{items[0].where} and {len(items) - 1} more"
        with watch("denoise"), self.progress.task(f"{name}: drawing the views") as on_step:
            latents = self.model.denoise(text, away, seeds, sampling=self.order.sampling, on_step=on_step)
        with watch("decode"):
            return self.model.decode(latents).cpu()

    def _write(self, item: Item, grid: Tensor, watch: Stopwatch) -> dict[str, Any]:
        """One asset, whole or not at all."""
        with atomic.merged(item.folder, seal=RECORD) as partial, self.progress.task(f"{item.where}: building"):
            with watch("reconstruct"):
                views = to_views(grid)
                asset = self.model.build(views, resolution=self.order.resolution)
            with watch("video"):
                writers.picture(grid, partial / "grid.png")
                scenes.write(partial / "views", views, caption=item.prompt, object_id=slug(item.prompt))
            shown = Shown(item.prompt, f"generated views (seed {item.seed})", views)
            size = results.picture_size(self.model.reconstruct.network.image_size or views.width)
            written = results.write(partial, asset, shown, size=size, formats=self.order.formats, watch=watch)
            written["files"] = ["grid.png", "views", *written["files"]]
            told = _settings(item, self.order, self.weights) | {"device": str(self.model.device)} | written
            return results.write_record(partial, **told, seconds=watch.rounded())


@contextmanager
def _enough_memory() -> Iterator[None]:
    """A GPU's lack of memory as Python's own error, with what to do about it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            "the GPU has not enough memory; say --batch 1, and --max-memory with less than now, so that fewer weights "
            "stay on it"
        ) from error


def _settings(item: Item, order: Order, weights: dict[str, Any]) -> dict[str, Any]:
    """What decides how the asset looks."""
    return {
        "system": SYSTEM,
        "prompt": item.prompt,
        "negative": order.negative,
        "seed": item.seed,
        "sampling": asdict(order.sampling),
        "resolution": order.resolution,
        "weights": weights,
    }


def _finished(item: Item, order: Order, weights: dict[str, Any]) -> bool:
    """Whether the item's folder holds what would be made again; weights are known by their content."""
    try:
        record = json.loads((item.folder / RECORD).read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(_settings(item, order, weights)))
        for each in (record, wanted):
            each["weights"] = {stage: told["sha256"] for stage, told in each["weights"].items()}
        files = [*record["files"], *(f"mesh.{name}" for name in order.formats)]
        same = all(record[name] == value for name, value in wanted.items())
        return same and all((item.folder / name).exists() for name in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # there is none, or it is another command's


def _notes(model: TextTo3D, items: Sequence[Item]) -> Iterator[Outcome]:
    """A word on prompts that are longer than what the text encoders read."""
    for item in {item.prompt: item for item in reversed(items)}.values():
        lost = cut_off(item.prompt, model.reads_all)
        if lost:
            yield Outcome(item.where, note=f"is longer than what is read; its end makes no difference: {lost!r}")


def _below(output: Path, number: int, prompt: Prompt, seed: int, several: bool) -> Item:
    """An item with its own folder below `output`, which tells the seed where it is one of several."""
    name = f"{number:03d}-{slug(prompt.text)}"
    if several:
        return Item(prompt.text, f"{prompt.where} (seed {seed})", seed, output / f"{name}-{seed}")
    return Item(prompt.text, prompt.where, seed, output / name)
