"""Which example comes when: endless orders that are a function of a seed and a number alone, so that an interrupted run
goes on with the same data. Knows nothing of what an example is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

PREFETCH = 1024  # examples: how long before its turn a file that is far away is asked for


def generator_from_key(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` for this key; keys that differ in any place give streams of their own."""
    mixed = 0
    for part in key:
        mixed = (mixed * 1_000_003 + part + 1) % (2**63 - 1)
    return torch.Generator(device).manual_seed(mixed)


class ResumableBatchSampler(Sampler[list[int]]):
    """Batches of example numbers from `start` batches on, without end, each process taking its share."""

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
    """The numbers below `count` in an order of chance that needs `window` files at a time, one window after the other.

    files   the numbers that lie together in a file each; what lies in none is spread evenly over the windows
    """
    generator = generator_from_key(*key)
    if len(files) <= window:
        return torch.randperm(count, generator=generator)
    loose = torch.ones(count, dtype=torch.bool)
    for file in files:
        loose[file.start : file.stop] = False
    single = loose.nonzero()[:, 0]
    single = single[torch.randperm(len(single), generator=generator)]
    drawn = torch.randperm(len(files), generator=generator).tolist()
    rounds, order = -(-len(files) // window), []
    for k in range(rounds):
        chosen = [files[which] for which in drawn[k * len(drawn) // rounds : (k + 1) * len(drawn) // rounds]]
        together = [torch.arange(file.start, file.stop) for file in chosen]
        numbers = torch.cat([*together, single[k * len(single) // rounds : (k + 1) * len(single) // rounds]])
        order.append(numbers[torch.randperm(len(numbers), generator=generator)])
    return torch.cat(order)


class _RecentEpochs:
    """What was made for the last few epochs: workers look a little ahead, also into the next one."""

    def __init__(self, kept: int = 2) -> None:
        self.kept, self.made = kept, OrderedDict[int, torch.Tensor]()

    def get(self, epoch: int, make: Callable[[int], torch.Tensor]) -> torch.Tensor:
        if epoch not in self.made:
            self.made[epoch] = make(epoch)
            while len(self.made) > self.kept:
                self.made.popitem(last=False)
        return self.made[epoch]


class EpochShuffle:
    """Which of `count` items example `number` is; each epoch shows every item once, shuffled anew as by `shuffled`."""

    def __init__(self, count: int, files: Sequence[range] = (), window: int = 8, seed: int = 0) -> None:
        self.count, self.files, self.window, self.seed = count, list(files), window, seed
        self._recent = _RecentEpochs()

    def __call__(self, number: int) -> int:
        epoch, position = divmod(number, self.count)
        return int(self._recent.get(epoch, self._draw)[position])

    def _draw(self, epoch: int) -> torch.Tensor:
        return shuffled(self.count, self.files, self.window, self.seed, epoch, 0)


class WeightedMixture:
    """Which item of which source example `number` is; every epoch is shuffled anew.

    sizes     how many items each source has
    weights   how often an epoch shows an item of each source: 1 is once, 2 is twice, 0.5 is every other epoch
    files     which items of each source lie together in a file; `window` of each source are needed at a time
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
        """The source and the place in it of example `number`."""
        epoch, position = divmod(number, sum(self.shares))
        source, index = self._recent.get(epoch, self._draw)[position].tolist()
        return source, index

    def _draw(self, epoch: int) -> torch.Tensor:
        streams = [self._next(source, epoch) for source in range(len(self.sizes))]
        drawn = torch.tensor([(source, index) for source, stream in enumerate(streams) for index in stream])
        order = drawn[torch.randperm(len(drawn), generator=generator_from_key(self.seed, epoch, 0))]
        for source, stream in enumerate(streams):
            if len(self.files[source]) > self.window:  # its own order stays: few of its files at a time
                order[order[:, 0] == source, 1] = torch.tensor(stream, dtype=torch.long)
        return order

    def _next(self, source: int, epoch: int) -> list[int]:
        """This epoch's stretch of the source's endless stream, in which every item comes before any comes again."""
        size, share = self.sizes[source], self.shares[source]
        found: list[int] = []
        for lap in range(epoch * share // size, -(-(epoch + 1) * share // size) if share else 0):
            order = shuffled(size, self.files[source], self.window, self.seed, lap, source, 1).tolist()
            found += order[max(0, epoch * share - lap * size) : (epoch + 1) * share - lap * size]
        return found
