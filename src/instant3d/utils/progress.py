"""Progress messages and timing: a bar on a terminal, plain lines in a log.

Progress goes to standard error, so that standard output holds only results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from instant3d.utils.errors import print_escaped

OnStep = Callable[[int, int], object]  # called with the number of steps done and their total
EVERY_SECONDS = 10.0  # between two lines in a log


class Stopwatch:
    """Seconds spent per name: `with watch("mesh"):` adds to `watch.seconds["mesh"]`.

    Args:
        on_part: Called with each name when its part begins.
    """

    def __init__(self, on_part: Callable[[str], object] = lambda name: None) -> None:
        self.seconds: dict[str, float] = {}
        self.on_part = on_part

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.on_part(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def share(self, count: int) -> dict[str, float]:
        """Return what each of `count` items takes of the seconds that they took together."""
        return {name: seconds / count for name, seconds in self.seconds.items()}

    def rounded(self) -> dict[str, float]:
        """Return the seconds rounded to milliseconds."""
        return {name: round(value, 3) for name, value in self.seconds.items()}


class Progress:
    """Progress of one task after the other; silent if `stream` is None."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    @classmethod
    def to_user(cls) -> Progress:
        """Return a progress that is written to standard error."""
        return cls(sys.stderr)

    @contextmanager
    def task(self, name: str) -> Iterator[OnStep]:
        """Yield a function to call after each step of a task with the steps done and their total."""
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
        print_escaped(f"instant3d: {name}", stream)
        printed = time.monotonic()

        def on_step(done: int, total: int) -> None:
            nonlocal printed
            if done < total and time.monotonic() - printed >= EVERY_SECONDS:
                printed = time.monotonic()
                print_escaped(f"instant3d: {name}: {done} of {total}", stream)

        return on_step
