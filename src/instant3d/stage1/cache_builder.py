"""Encoding of scenes into a cache of training grids; an interrupted call is continued."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.text import encode, truncation_message
from instant3d.stage1.cache import FORMAT, INDEX, PARTS, open_shard, posterior
from instant3d.stage1.grid_dataset import Grid, GridScenes, read_ahead, read_keep
from instant3d.utils import atomic
from instant3d.utils.progress import Progress
from instant3d.utils.prompts import drop_words

MAX_SHARD_BYTES = 2**30
MAX_SHARD_ITEMS = 2048  # most items that an interruption loses
Report = Callable[[str], None]


def build_cache(
    sources: Sequence[str | Path],
    model: str | Path,
    folder: str | Path,
    *,
    keep: str | Path | None = None,
    batch: int = 16,
    templates: Sequence[str] = ("{}",),
    word_dropout: float = 0.0,
    device: str | torch.device = "cpu",
    workers: int = 0,
    report: Report = print,
    progress: Progress = Progress(),  # noqa: B008
) -> None:
    """Encode scenes with a model's VAE and text encoders into a cache; an interrupted call is continued.

    Args:
        sources: Folders of scene folders or of shards.
        model: Folder, Hub id or file of an SDXL.
        folder: Folder of the cache.
        keep: Text file with the ids of the scenes to take; all by default.
        batch: Grids, or prompts, that are encoded together.
        templates: Prompts made of each caption, which takes the place of {}; training draws one of them.
        word_dropout: Probability that a word of a prompt is left out, in a second prompt beside each; 0 makes none.
        device: Where the encoders run.
        workers: Processes that read scenes ahead; 0 reads them in this one.
        report: Called with a line for each shard.
        progress: Shows how many grids and prompts are encoded.

    Raises:
        FileNotFoundError: There is no scene to encode.
        ValueError: A scene has no caption or other views, or the folder holds grids of other scenes or another model.
    """
    folder = Path(folder)
    size = Components.load(model, parts=("unet", "vae"), dtype=torch.float16).grid_size
    components = Components.load(model, parts=PARTS).to(device)
    scenes = GridScenes(sources, size, None if keep is None else read_keep(keep))
    made_with = {"model": str(model), "fingerprint": fingerprint(components), "size": str(size)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    grids = _grids(scenes, components, folder, made_with, batch, workers, report, progress)
    of_grid = [_prompts(grid, templates, word_dropout) for grid in grids]
    prompts = list(dict.fromkeys(prompt for some in of_grid for prompt in some))
    if cut := truncation_message(components, prompts):
        report(f"note: {cut}")
    _texts(prompts, components, folder, made_with, batch, report, progress)
    row = {prompt: k for k, prompt in enumerate(prompts)}
    for grid, some in zip(grids, of_grid, strict=True):
        grid["texts"] = [row[prompt] for prompt in some]
    index = {
        "format": FORMAT,
        **made_with,
        "size": size,
        "prediction_type": components.scheduler.config.prediction_type,
        "grids": grids,
        "prompts": prompts,
    }
    atomic.write_text(folder / INDEX, json.dumps(index))
    report(f"{folder}: {len(grids)} grids of {size} pixels, {len(prompts)} prompts")


def _prompts(grid: dict[str, Any], templates: Sequence[str], word_dropout: float) -> list[str]:
    """The prompts of a grid's index entry, of which training draws one."""
    whole = [template.replace("{}", grid["caption"]) for template in templates]
    if word_dropout == 0:
        return whole
    return whole + [drop_words(prompt, word_dropout, f"{grid['id']} {number}") for number, prompt in enumerate(whole)]


def _grids(
    scenes: GridScenes,
    components: Components,
    folder: Path,
    made_with: dict[str, str],
    batch: int,
    workers: int,
    report: Report,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Encode the grids that no finished shard holds; returns the index entries of all, in the order of the shards."""
    done = _finished(folder, "grids", made_with)
    encoded_names = {entry["from"] for entry in done}
    left = [k for k in range(len(scenes)) if scenes.name(k) not in encoded_names]
    unknown = encoded_names - {scenes.name(k) for k in range(len(scenes))}
    if unknown:
        raise ValueError(
            f"{folder} already holds grids of other scenes, such as {min(unknown)}; give those too, or another folder"
        )

    def encoded() -> Iterator[tuple[dict[str, Tensor], list[dict[str, Any]]]]:
        ahead = read_ahead(scenes, left, workers)
        for first in range(0, len(left), batch):
            some = [(scenes.name(k), next(ahead)) for k in left[first : first + batch]]
            images = torch.stack([grid.image for _, grid in some]).to(components.vae.device)
            mean, std = posterior(components.vae, images)
            entries = [_entry(grid, name) for name, grid in some]
            yield {"mean": mean, "std": std}, entries

    return done + _write(encoded(), folder, "grids", len(left), made_with, report, progress)


def _entry(grid: Grid, name: str) -> dict[str, Any]:
    """Index entry of a grid; with a credit only where its scene has one."""
    entry: dict[str, Any] = {"id": grid.id, "caption": grid.caption, "from": name}
    return entry | {"credit": dict(grid.credit)} if grid.credit else entry


def _texts(
    prompts: Sequence[str],
    components: Components,
    folder: Path,
    made_with: dict[str, str],
    batch: int,
    report: Report,
    progress: Progress,
) -> None:
    """Embed the prompts that follow those in finished shards; shards of other prompts are replaced."""
    done = _finished(folder, "texts", made_with)
    if done != list(prompts[: len(done)]):
        for path in folder.glob("texts-*.safetensors"):
            path.unlink()
        done = []
    left = list(prompts[len(done) :])

    def encoded() -> Iterator[tuple[dict[str, Tensor], list[str]]]:
        for first in range(0, len(left), batch):
            some = left[first : first + batch]
            text = encode(components, some)
            yield {"tokens": text.tokens, "pooled": text.pooled}, some

    _write(encoded(), folder, "texts", len(left), made_with, report, progress)


def _write(
    batches: Iterator[tuple[dict[str, Tensor], list[Any]]],
    folder: Path,
    kind: str,
    total: int,
    made_with: dict[str, str],
    report: Report,
    progress: Progress,
) -> list[Any]:
    """Write batches into shards, each whole or not at all; returns the entries written."""
    number = len(list(folder.glob(f"{kind}-*.safetensors")))
    written: list[Any] = []
    parts: list[dict[str, Tensor]] = []
    entries: list[Any] = []
    begin = time.monotonic()
    with progress.task(kind) as on_step:
        for tensors, some in batches:
            parts.append({name: tensor.to("cpu", torch.float16) for name, tensor in tensors.items()})
            entries += some
            count = len(written) + len(entries)
            on_step(count, total)
            taken = sum(tensor.nbytes for part in parts for tensor in part.values())
            full = taken * (1 + len(some) / len(entries)) > MAX_SHARD_BYTES or len(entries) >= MAX_SHARD_ITEMS
            if full or count == total:
                _shard(folder / f"{kind}-{number:05d}.safetensors", parts, entries, made_with)
                report(f"{kind}: {count} of {total} ({count / (time.monotonic() - begin + 1e-9):.1f} a second)")
                written, number, parts, entries = written + entries, number + 1, [], []
    return written


def _shard(path: Path, parts: list[dict[str, Tensor]], entries: list[Any], made_with: dict[str, str]) -> None:
    tensors = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(
            f"{' and '.join(broken)} of {path.name} overflow float16; give a model whose VAE and text encoders do not"
        )
    with atomic.partial_file(path, one_writer=True) as partial:
        save_file(tensors, partial, metadata={**made_with, "entries": json.dumps(entries)})


def _finished(folder: Path, kind: str, made_with: dict[str, str]) -> list[Any]:
    """Entries in the shards of an earlier call, which must have been made with the same model."""

    entries: list[Any] = []
    for path in sorted(folder.glob(f"{kind}-*.safetensors")):
        with open_shard(path) as shard:
            metadata = shard.metadata() or {}
        if any(metadata.get(key) != made_with[key] for key in ("fingerprint", "size")):
            raise ValueError(f"{path} was made with another model, {metadata.get('model')}; give another folder")
        entries += json.loads(metadata["entries"])
    return entries


def fingerprint(components: Components) -> str:
    """Hash of the weights of VAE and text encoders, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in (components.vae, components.text_encoder, components.text_encoder_2):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
