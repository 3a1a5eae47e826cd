"""Which example comes when: endless orders that are a function of a seed and a number alone, so that an interrupted run
goes on with the same data. Knows nothing of what an example is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


def seeded(*key: int) -> torch.Generator:
    """A generator for this key; keys that differ in any place give streams of their own."""
    mixed = 0
    for part in key:
        mixed = (mixed * 1_000_003 + part + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(mixed)


class Numbers(Sampler[list[int]]):
    """Batches of example numbers from `start` batches on, without end, each process taking its share."""

    def __init__(self, batch_size: int, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.batch_size, self.start, self.rank, self.world = batch_size, start, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.start
        while True:
            first = (batch * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            batch += 1


class Mixture:
    """Which item of which source example `number` is; every epoch is shuffled anew.

    sizes     how many items each source has
    weights   how often an epoch shows an item of each source: 1 is once, 2 is twice, 0.5 is every other epoch
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        weights = [1.0] * len(sizes) if weights is None else weights
        if len(weights) != len(sizes) or min(weights) < 0:
            raise ValueError(f"{len(sizes)} sources need as many weights, none below 0; got {list(weights)}")
        self.sizes, self.seed = list(sizes), seed
        self.shares = [round(weight * size) for weight, size in zip(weights, sizes, strict=True)]
        if not sum(self.shares):
            raise ValueError(f"sources of {list(sizes)} items with weights {list(weights)} show nothing at all")
        self._epoch, self._order = -1, torch.empty(0, 2, dtype=torch.long)

    def __call__(self, number: int) -> tuple[int, int]:
        """The source and the place in it of example `number`."""
        epoch, position = divmod(number, sum(self.shares))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw(epoch)
        source, index = self._order[position].tolist()
        return source, index

    def _draw(self, epoch: int) -> torch.Tensor:
        drawn = [(source, index) for source in range(len(self.sizes)) for index in self._next(source, epoch)]
        return torch.tensor(drawn)[torch.randperm(len(drawn), generator=seeded(self.seed, epoch, 0))]

    def _next(self, source: int, epoch: int) -> list[int]:
        """This epoch's stretch of the source's endless stream, in which every item comes before any comes again."""
        size, share = self.sizes[source], self.shares[source]
        found: list[int] = []
        for lap in range(epoch * share // size, -(-(epoch + 1) * share // size) if share else 0):
            order = torch.randperm(size, generator=seeded(self.seed, lap, source, 1)).tolist()
            found += order[max(0, epoch * share - lap * size) : (epoch + 1) * share - lap * size]
        return found
