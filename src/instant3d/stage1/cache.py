"""Grids and captions as stage 1's UNet is taught with them, encoded once and kept in files. Knows no training.

index.json                   what the cache holds, written last: without it the cache is not whole
grids-00000.safetensors ...  mean, std  (N, C, h, w)  of the latents, times the VAE's scaling factor, float16
texts-00000.safetensors ...  tokens (M, L, D), pooled (M, P), float16; a prompt that many grids share is kept once
"""

from __future__ import annotations

import bisect
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.text import TextEmbedding, encode
from instant3d.stage1.grid_dataset import Grid, GridScenes, read_ahead, read_keep
from instant3d.utils import atomic, tensor_files
from instant3d.utils.data_order import generator_from_key
from instant3d.utils.tensor_dataclass import TensorDataclass

INDEX, FORMAT = "index.json", "instant3d-stage1-cache-1"
PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "vae", "scheduler")
MAX_SHARD_BYTES = 2**30
MAX_SHARD_ITEMS = 2048  # what an interruption may cost

Report = Callable[[str], None]


@dataclass(frozen=True)
class LatentBatch(TensorDataclass):
    """Grids as the UNet is taught with them.

    mean, std   (B, C, h, w)  of the VAE's posterior, times its scaling factor
    text        the prompts
    size        (B,)  pixels a side of the picture
    number      (B,)  the example's number, of which all chance is a function
    """

    mean: Tensor
    std: Tensor
    text: TextEmbedding
    size: Tensor
    example_index: Tensor


@torch.no_grad()
def posterior(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, C, h, w) of the latents of pictures (B, 3, H, W) in [0, 1], scaled."""
    with torch.autocast(images.device.type, enabled=False):
        found = vae.encode(images.to(vae.dtype) * 2 - 1).latent_dist
    scale = vae.config.scaling_factor
    return found.mean.float() * scale, found.std.float() * scale


def build_cache(
    sources: Sequence[str | Path],
    model: str | Path,
    folder: str | Path,
    *,
    keep: str | Path | None = None,
    batch: int = 16,
    templates: Sequence[str] = ("{}",),
    device: str | torch.device = "cpu",
    workers: int = 0,
    report: Report = print,
) -> None:
    """Encode the scenes below `sources` with the VAE and text encoders of `model`; goes on where it was interrupted.

    templates   prompts made of each caption, which takes the place of {}; training draws one of them
    workers     processes that read scenes ahead; 0 reads them in this one
    """
    folder = Path(folder)
    size = Components.load(model, parts=("unet", "vae"), dtype=torch.float16).grid_size
    components = Components.load(model, parts=PARTS).to(device)
    scenes = GridScenes(sources, size, None if keep is None else read_keep(keep))
    made_with = {"model": str(model), "fingerprint": fingerprint(components), "size": str(size)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    grids = _grids(scenes, components, folder, made_with, batch, workers, report)
    prompts = list(dict.fromkeys(template.replace("{}", grid["caption"]) for grid in grids for template in templates))
    _texts(prompts, components, folder, made_with, batch, report)
    row = {prompt: k for k, prompt in enumerate(prompts)}
    for grid in grids:
        grid["texts"] = [row[template.replace("{}", grid["caption"])] for template in templates]
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


def _grids(
    scenes: GridScenes,
    components: Components,
    folder: Path,
    made_with: dict[str, str],
    batch: int,
    workers: int,
    report: Report,
) -> list[dict[str, Any]]:
    """Encode what no finished shard holds; id, caption, origin and credit of every grid, in the order of the shards."""
    done = _finished(folder, "grids", made_with)
    at_hand = {entry["from"] for entry in done}
    left = [k for k in range(len(scenes)) if scenes.name(k) not in at_hand]
    strange = at_hand - {scenes.name(k) for k in range(len(scenes))}
    if strange:
        raise ValueError(
            f"{folder} already holds grids of other scenes, such as {min(strange)}; name those too, or another folder"
        )

    def encoded() -> Iterator[tuple[dict[str, Tensor], list[dict[str, Any]]]]:
        ahead = read_ahead(scenes, left, workers)
        for first in range(0, len(left), batch):
            some = [(scenes.name(k), next(ahead)) for k in left[first : first + batch]]
            pictures = torch.stack([grid.image for _, grid in some]).to(components.vae.device)
            mean, std = posterior(components.vae, pictures)
            entries = [_entry(grid, name) for name, grid in some]
            yield {"mean": mean, "std": std}, entries

    return done + _write(encoded(), folder, "grids", len(left), made_with, report)


def _entry(grid: Grid, name: str) -> dict[str, Any]:
    """What the index holds of a grid; whose work it shows only where its scene names that."""
    entry: dict[str, Any] = {"id": grid.id, "caption": grid.caption, "from": name}
    return entry | {"credit": dict(grid.credit)} if grid.credit else entry


def _texts(
    prompts: Sequence[str], components: Components, folder: Path, made_with: dict[str, str], batch: int, report: Report
) -> None:
    """Embed the prompts that follow those in finished shards; shards that hold others are made anew."""
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

    _write(encoded(), folder, "texts", len(left), made_with, report)


def _write(
    batches: Iterator[tuple[dict[str, Tensor], list[Any]]],
    folder: Path,
    kind: str,
    total: int,
    made_with: dict[str, str],
    report: Report,
) -> list[Any]:
    """Gather batches into shards, each of which appears whole or not at all; the entries written."""
    number = len(list(folder.glob(f"{kind}-*.safetensors")))
    written: list[Any] = []
    parts: list[dict[str, Tensor]] = []
    entries: list[Any] = []
    begin = time.monotonic()
    for tensors, some in batches:
        parts.append({name: tensor.to("cpu", torch.float16) for name, tensor in tensors.items()})
        entries += some
        count = len(written) + len(entries)
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
        raise ValueError(f"{' and '.join(broken)} of {path.name} would hold numbers that are not finite in float16")
    with atomic.partial_file(path, one_writer=True) as partial:
        save_file(tensors, partial, metadata={**made_with, "entries": json.dumps(entries)})


def _finished(folder: Path, kind: str, made_with: dict[str, str]) -> list[Any]:
    """The entries of an earlier call's shards; they must have been made by the same model."""
    found: list[Any] = []
    for path in sorted(folder.glob(f"{kind}-*.safetensors")):
        with open_shard(path) as shard:
            metadata = shard.metadata() or {}
        if any(metadata.get(key) != made_with[key] for key in ("fingerprint", "size")):
            raise ValueError(f"{path} was made with another model, {metadata.get('model')}; name another folder")
        found += json.loads(metadata["entries"])
    return found


def open_shard(path: Path) -> Any:
    """A shard that is whole, as safetensors opens it."""
    return tensor_files.open_safetensors(path, "delete it and run `instant3d cache-stage1` again")


def fingerprint(components: Components) -> str:
    """A hash of the weights that encode grids and prompts."""
    digest = hashlib.sha256()
    for part in (components.vae, components.text_encoder, components.text_encoder_2):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class LatentCache:
    """A finished cache; its tensors stay on disk until they are asked for.

    keep   ids of the grids to take; all by default
    """

    def __init__(self, folder: str | Path, keep: Collection[str] | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise FileNotFoundError(
                f"{folder} has no {INDEX}; is it a cache, and whole? `instant3d cache-stage1` writes one, and goes on "
                "with one that was interrupted"
            )
        index = tensor_files.load_json(self.folder / INDEX)
        if index.get("format") != FORMAT:
            raise ValueError(f"{self.folder / INDEX} is of format {index.get('format')}, not {FORMAT}; cache anew")
        self.index: dict[str, Any] = index
        self.grids: list[dict[str, Any]] = index["grids"]
        self.rows = [row for row, grid in enumerate(self.grids) if keep is None or grid["id"] in keep]
        if not self.rows:
            raise ValueError(
                f"{folder} holds none of the {len(keep or ())} ids to keep, out of {len(self.grids)} grids"
            )
        self.size: int = index["size"]
        self._grids, self._texts = _Shards(self.folder, "grids"), _Shards(self.folder, "texts")
        held, told = (len(self._grids), len(self._texts)), (len(self.grids), len(index["prompts"]))
        if held != told:
            raise ValueError(
                f"the shards in {folder} hold {held[0]} grids and {held[1]} prompts, but its {INDEX} tells of "
                f"{told[0]} and {told[1]}; run `instant3d cache-stage1` again"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int, example_index: int) -> LatentBatch:
        """Grid `index` as example `number`, of shape (); which of several prompts it gets is drawn by the number."""
        grid, texts = self._grids[self.rows[index]], self.grids[self.rows[index]]["texts"]
        drawn = int(torch.randint(len(texts), (), generator=generator_from_key(example_index, 2)))
        text = self._texts[texts[drawn]]
        embedding = TextEmbedding(text["tokens"], text["pooled"])
        return LatentBatch(grid["mean"], grid["std"], embedding, torch.tensor(self.size), torch.tensor(example_index))

    @property
    def shape(self) -> dict[str, tuple[int, ...]]:
        """Of the latents and of the text's tokens and summary."""
        item = self.item(0, 0)
        return {"latents": item.mean.shape, "tokens": item.text.tokens.shape, "pooled": item.text.pooled.shape}


class _Shards:
    """Rows of a folder's shards of one kind, in float32."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.paths = sorted(folder.glob(f"{kind}-*.safetensors"))
        self._open: dict[int, Any] = {}
        counts = []
        for path in self.paths:
            with open_shard(path) as shard:
                counts.append(shard.get_slice(next(iter(shard.keys()))).get_shape()[0])
        self.ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        which = bisect.bisect_right(self.ends, row)
        if which not in self._open:
            self._open[which] = open_shard(self.paths[which])
        shard, place = self._open[which], row - (self.ends[which - 1] if which else 0)
        return {name: shard.get_slice(name)[place].float() for name in shard.keys()}  # noqa: SIM118

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # open files do not travel to worker processes
