"""How far long work is and how long its parts took: a bar on a terminal, plain lines in a log. Knows not what is done.

What is told goes to standard error, so that standard output holds results alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

OnStep = Callable[[int, int], object]  # told how many steps are done, of how many
EVERY_SECONDS = 10.0  # between two lines in a log


class Stopwatch:
    """`with watch("mesh"):` adds to `watch.seconds["mesh"]`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        """Milliseconds are enough."""
        return {name: round(value, 3) for name, value in self.seconds.items()}


class Progress:
    """Tells of one task after the other; silent if `stream` is None."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    @classmethod
    def to_user(cls) -> Progress:
        return cls(sys.stderr)

    @contextmanager
    def task(self, name: str) -> Iterator[OnStep]:
        """Yields what is to be called after each step of the task."""
        if self.stream is None:
            yield lambda done, total: None
        elif self.stream.isatty():
            yield from self._bar(name, self.stream)
        else:
            yield self._lines(name, self.stream)

    def _bar(self, name: str, stream: TextIO) -> Iterator[OnStep]:
        from tqdm import tqdm

        with tqdm(desc=name, file=stream, leave=False, dynamic_ncols=True) as bar:

            def on_step(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield on_step

    def _lines(self, name: str, stream: TextIO) -> OnStep:
        print(f"instant3d: {name}", file=stream, flush=True)
        told = time.monotonic()

        def on_step(done: int, total: int) -> None:
            nonlocal told
            if done < total and time.monotonic() - told >= EVERY_SECONDS:
                told = time.monotonic()
                print(f"instant3d: {name}: {done} of {total}", file=stream, flush=True)

        return on_step
