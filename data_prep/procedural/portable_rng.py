"""A random number generator with the same numbers on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Option = TypeVar("Option")


class PortableRandom:
    """Random numbers from one integer seed, built on raw 64-bit words of PCG64.

    numpy guarantees the raw words of a bit generator, but not the streams of `Generator`'s methods. Here
    every number is one word and exact arithmetic, so that no choice depends on libm.

    Args:
        seed: An integer >= 0.

    Raises:
        ValueError: If the seed is negative.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"a seed is an integer >= 0, but {seed} came")
        self._words = np.random.PCG64(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in [low, high)."""
        return low + (high - low) * float(self._words.random_raw() >> 11) * 2.0**-53

    def uniforms(self, size: int | tuple[int, ...], low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Uniform numbers in [low, high).

        Args:
            size: Shape of the result, or its length.
            low: Lower bound, included.
            high: Upper bound, excluded.
        """
        count = int(np.prod(size))
        unit = (self._words.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (low + (high - low) * unit).reshape(size)

    def below(self, count: int) -> int:
        """One integer in 0 ... count - 1."""
        return int(self.uniform() * count)

    def between(self, low: int, high: int) -> int:
        """One integer in low ... high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def pick(self, options: Sequence[Option], weights: Sequence[float] | None = None) -> Option:
        """One of the options.

        Args:
            options: What to choose from, at least one.
            weights: Weight of each option; they need not sum to one. Evenly without.
        """
        if weights is None:
            return options[self.below(len(options))]
        mark = self.uniform() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            mark -= weight
            if mark < 0:
                return option
        return options[-1]
