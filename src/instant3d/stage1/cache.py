"""Cache of encoded training grids and captions, in safetensors shards.

index.json                   what the cache holds, written last: without it the cache is incomplete
grids-00000.safetensors ...  mean, std  (N, C, h, w)  of the latents, times the VAE's scaling factor, float16
texts-00000.safetensors ...  tokens (M, L, D), pooled (M, P), float16; a prompt that many grids share is kept once
"""

from __future__ import annotations

import bisect
from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.text import TextEmbedding
from instant3d.utils import tensor_files
from instant3d.utils.data_order import generator_from_key
from instant3d.utils.tensor_dataclass import TensorDataclass

INDEX, FORMAT = "index.json", "instant3d-stage1-cache-1"
PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "vae", "scheduler")


@dataclass(frozen=True)
class LatentBatch(TensorDataclass):
    """Encoded training grids.

    Attributes:
        mean: (B, C, h, w), mean of the VAE's posterior, times its scaling factor.
        std: (B, C, h, w), its standard deviation, times the scaling factor.
        text: Embedded prompts.
        size: (B,), pixels a side of the grid.
        example_index: (B,), index of the example in the run, of which its random draws are a function.
    """

    mean: Tensor
    std: Tensor
    text: TextEmbedding
    size: Tensor
    example_index: Tensor


@torch.no_grad()
def posterior(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode images (B, 3, H, W) in [0, 1] with a VAE.

    Returns:
        Mean and standard deviation of the posterior, (B, C, h, w) float32, times the VAE's scaling factor.
    """
    with torch.autocast(images.device.type, enabled=False):
        distribution = vae.encode(images.to(vae.dtype) * 2 - 1).latent_dist
    scale = vae.config.scaling_factor
    return distribution.mean.float() * scale, distribution.std.float() * scale


def check_fits(grids: LatentBatch, config: Any) -> None:
    """Check that latents and embeddings were made by the VAE and text encoders of a UNet's own model.

    Args:
        grids: The latents and embeddings.
        config: Of the UNet.

    Raises:
        ValueError: Their sizes are not those of the UNet.
    """
    expected = (config.in_channels, config.sample_size, config.sample_size)
    got, width = tuple(grids.mean.shape[1:]), grids.text.tokens.shape[-1]
    if got != expected:
        raise ValueError(
            f"the UNet generates latents {expected}, but the grids have {got}; make the cache with the same model, or "
            "set data.size to its grid's"
        )
    if width != config.cross_attention_dim:
        raise ValueError(
            f"the UNet reads text embeddings of {config.cross_attention_dim} numbers, but they have {width}; make the "
            "cache with the same model"
        )


def open_shard(path: Path) -> Any:
    """Open a shard with safetensors, after checking that it is complete.

    Raises:
        ValueError: It is cut short.
    """
    return tensor_files.open_safetensors(path, "delete it and run `instant3d cache-stage1` again")


class LatentCache:
    """A finished cache; tensors are read from disk when an item is requested.

    Args:
        folder: Folder of the cache.
        keep: Ids of the grids to take; all by default.

    Attributes:
        size: Pixels a side of a grid.

    Raises:
        FileNotFoundError: There is no finished cache.
        ValueError: The cache has another format, lacks shards, or has none of the ids.
    """

    def __init__(self, folder: str | Path, keep: Collection[str] | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise FileNotFoundError(
                f"{folder} has no {INDEX}, so it is no finished cache; `instant3d cache-stage1` writes one, and "
                "continues one that was interrupted"
            )
        index = tensor_files.load_json(self.folder / INDEX)
        if index.get("format") != FORMAT:
            raise ValueError(
                f"{self.folder / INDEX} is of format {index.get('format')}, not {FORMAT}; make the cache again"
            )
        self.index: dict[str, Any] = index
        self.grids: list[dict[str, Any]] = index["grids"]
        self.rows = [row for row, grid in enumerate(self.grids) if keep is None or grid["id"] in keep]
        if not self.rows:
            raise ValueError(
                f"{folder} holds none of the {len(keep or ())} ids to keep, out of {len(self.grids)} grids"
            )
        self.size: int = index["size"]
        self._grids, self._texts = _Shards(self.folder, "grids"), _Shards(self.folder, "texts")
        held, listed = (len(self._grids), len(self._texts)), (len(self.grids), len(index["prompts"]))
        if held != listed:
            raise ValueError(
                f"the shards in {folder} hold {held[0]} grids and {held[1]} prompts, but its {INDEX} lists "
                f"{listed[0]} and {listed[1]}; run `instant3d cache-stage1` again"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int, example_index: int) -> LatentBatch:
        """Grid number `index` as an example without batch dimension.

        Args:
            index: Row of the cache.
            example_index: Index of the example in the run; it decides which of several prompts the grid gets.
        """
        grid, texts = self._grids[self.rows[index]], self.grids[self.rows[index]]["texts"]
        choice = int(torch.randint(len(texts), (), generator=generator_from_key(example_index, 2)))
        text = self._texts[texts[choice]]
        embedding = TextEmbedding(text["tokens"], text["pooled"])
        return LatentBatch(grid["mean"], grid["std"], embedding, torch.tensor(self.size), torch.tensor(example_index))

    @property
    def shape(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one example's latents, text tokens and pooled text embedding."""
        item = self.item(0, 0)
        return {"latents": item.mean.shape, "tokens": item.text.tokens.shape, "pooled": item.text.pooled.shape}


class _Shards:
    """Rows of all shards of one kind, in float32."""

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
        return {**self.__dict__, "_open": {}}  # open files cannot be sent to worker processes
