"""Stateless, resumable data order: example i is a pure function of (seed, i), so a restarted run sees the same data."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

PREFETCH = 1024  # examples: how far ahead of their use remote files are requested


def generator_from_key(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a random generator on `device` seeded by a key of integers; different keys give independent streams."""
    mixed = 0
    for part in key:
        mixed = (mixed * 1_000_003 + part + 1) % (2**63 - 1)
    return torch.Generator(device).manual_seed(mixed)


class ResumableBatchSampler(Sampler[list[int]]):
    """Endless batches of consecutive example numbers, split between processes and starting at any batch.

    Args:
        batch_size: Examples per batch and process.
        start: Number of batches already used.
        rank: Index of this process.
        world: Number of processes.
    """

    def __init__(self, batch_size: int, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.batch_size, self.start, self.rank, self.world = batch_size, start, rank, world

    @classmethod
    def at(cls, trainer: Any, batch_size: int) -> ResumableBatchSampler:
        """This process's next batches in the run of a Lightning trainer; from the first on if that is None."""
        if trainer is None:
            return cls(batch_size)
        start = trainer.global_step * trainer.accumulate_grad_batches
        return cls(batch_size, start, trainer.global_rank, trainer.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.start
        while True:
            first = (batch * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            batch += 1


def shuffled(count: int, files: Sequence[range], window: int, *key: int) -> torch.Tensor:
    """Return the numbers below `count` in a random order that needs few files at a time.

    Args:
        count: Number of items.
        files: For each file, the range of items stored in it. Items in no file are spread evenly over the windows.
        window: How many files may be open at once; the order goes through the files one window after the other.
        *key: Key of the random generator, see `generator_from_key`.

    Returns:
        (count,) int64, a permutation.
    """
    generator = generator_from_key(*key)
    if len(files) <= window:
        return torch.randperm(count, generator=generator)
    loose = torch.ones(count, dtype=torch.bool)
    for file in files:
        loose[file.start : file.stop] = False
    single = loose.nonzero()[:, 0]
    single = single[torch.randperm(len(single), generator=generator)]
    file_order = torch.randperm(len(files), generator=generator).tolist()
    rounds, order = -(-len(files) // window), []
    for k in range(rounds):
        chosen = [files[n] for n in file_order[k * len(files) // rounds : (k + 1) * len(files) // rounds]]
        together = [torch.arange(file.start, file.stop) for file in chosen]
        numbers = torch.cat([*together, single[k * len(single) // rounds : (k + 1) * len(single) // rounds]])
        order.append(numbers[torch.randperm(len(numbers), generator=generator)])
    return torch.cat(order)


class _RecentEpochs:
    """Cache of the orders of the last few epochs: dataloader workers read a little ahead, also into the next epoch."""

    def __init__(self, kept: int = 2) -> None:
        self.kept, self.made = kept, OrderedDict[int, torch.Tensor]()

    def get(self, epoch: int, make: Callable[[int], torch.Tensor]) -> torch.Tensor:
        if epoch not in self.made:
            self.made[epoch] = make(epoch)
            while len(self.made) > self.kept:
                self.made.popitem(last=False)
        return self.made[epoch]


class EpochShuffle:
    """Map from example number to item for one source; every epoch shows each item once, reshuffled by `shuffled`.

    Args:
        count: Number of items.
        files: Ranges of items that are stored in one file each.
        window: How many files may be needed at a time.
        seed: Random seed.
    """

    def __init__(self, count: int, files: Sequence[range] = (), window: int = 8, seed: int = 0) -> None:
        self.count, self.files, self.window, self.seed = count, list(files), window, seed
        self._recent = _RecentEpochs()

    def __call__(self, number: int) -> int:
        epoch, position = divmod(number, self.count)
        return int(self._recent.get(epoch, self._draw)[position])

    def _draw(self, epoch: int) -> torch.Tensor:
        return shuffled(self.count, self.files, self.window, self.seed, epoch, 0)


class WeightedMixture:
    """Map from example number to (source, item) for a weighted mixture of sources; every epoch is reshuffled.

    Args:
        sizes: Number of items of each source.
        weights: How often an epoch shows each item of a source: 1 is once, 2 is twice, 0.5 is every other epoch.
            1 for all sources by default.
        seed: Random seed.
        files: For each source, ranges of items that are stored in one file each.
        window: How many files of each source may be needed at a time.

    Raises:
        ValueError: The weights do not fit the sources, or leave no item to show.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        files: Sequence[Sequence[range]] | None = None,
        window: int = 8,
    ) -> None:
        weights = [1.0] * len(sizes) if weights is None else weights
        if len(weights) != len(sizes) or min(weights) < 0:
            raise ValueError(f"{len(sizes)} sources need as many weights, none below 0; got {list(weights)}")
        self.sizes, self.seed = list(sizes), seed
        self.files, self.window = list(files or [()] * len(sizes)), window
        self.shares = [round(weight * size) for weight, size in zip(weights, sizes, strict=True)]
        if not sum(self.shares):
            raise ValueError(f"sources of {list(sizes)} items with weights {list(weights)} show nothing at all")
        self._recent = _RecentEpochs()

    def __call__(self, number: int) -> tuple[int, int]:
        """Return the source and the item in it for example `number`."""
        epoch, position = divmod(number, sum(self.shares))
        source, index = self._recent.get(epoch, self._draw)[position].tolist()
        return source, index

    def _draw(self, epoch: int) -> torch.Tensor:
        streams = [self._next(source, epoch) for source in range(len(self.sizes))]
        examples = torch.tensor([(source, index) for source, stream in enumerate(streams) for index in stream])
        order = examples[torch.randperm(len(examples), generator=generator_from_key(self.seed, epoch, 0))]
        for source, stream in enumerate(streams):
            if len(self.files[source]) > self.window:  # its own order stays: few of its files at a time
                order[order[:, 0] == source, 1] = torch.tensor(stream, dtype=torch.long)
        return order

    def _next(self, source: int, epoch: int) -> list[int]:
        """Return this epoch's part of the source's endless stream, in which every item comes before any repeats."""
        size, share = self.sizes[source], self.shares[source]
        found: list[int] = []
        for lap in range(epoch * share // size, -(-(epoch + 1) * share // size) if share else 0):
            order = shuffled(size, self.files[source], self.window, self.seed, lap, source, 1).tolist()
            found += order[max(0, epoch * share - lap * size) : (epoch + 1) * share - lap * size]
        return found
