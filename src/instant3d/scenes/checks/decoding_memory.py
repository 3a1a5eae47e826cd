"""A bound of the memory that decoding images takes in all processes of a check together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from instant3d.utils.images import MAX_PIXELS, Check, TooManyPixels

ENOUGH = 512  # pixels per side: images of twice that are reduced while they are decoded
DEFAULT = 2**32  # bytes, of all processes together
PER_PIXEL = 8  # bytes while an image is decoded: its pixels, and its file
PER_REDUCED_PIXEL = 96  # bytes while the reduced image is cut out


@dataclass
class DecodingMemory:
    """The memory that one process may take for decoding one image.

    Images that need more than `share` are decoded by one process at a time, so that all processes together stay within
    their shares plus `most`.

    Attributes:
        share: Bytes that this process may take at any time.
        most: Bytes of the largest image that is decoded.
        turn: Held while an image larger than `share` is decoded; the same lock in all processes.
    """

    share: int
    most: int
    turn: AbstractContextManager[object] = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, total: int, jobs: int, turn: AbstractContextManager[object]) -> DecodingMemory:
        """Divide memory among processes: one half in equal shares, the other for one large image at a time.

        Args:
            total: Bytes of all processes together.
            jobs: Number of processes; a single one gets everything.
            turn: The same lock in all processes, held while a large image is decoded.
        """
        return cls(total, total) if jobs <= 1 else cls(total // 2 // jobs, total // 2, turn)

    @contextmanager
    def reserved(self) -> Iterator[Check]:
        """Yield a check of an image's size, which waits until there is memory for it; released at the end.

        The check raises `TooManyPixels` for an image that is never decoded.
        """
        held = contextlib.ExitStack()
        waited = False

        def check(width: int, height: int) -> None:
            nonlocal waited
            self._refuse(width, height)
            if needed(width, height) > self.share and not waited:
                held.enter_context(self.turn)
                waited = True

        with held:
            yield check

    def _refuse(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise TooManyPixels(f"an image of {width} x {height} pixels is larger than {MAX_PIXELS}; make it smaller")
        if needed(width, height) > self.most:
            takes, limit = (round(size / 2**20) for size in (needed(width, height), self.most))
            raise TooManyPixels(
                f"an image of {width} x {height} pixels needs {takes} MiB, which is more than the {limit} MiB for one "
                "image; make it smaller, or choose fewer --jobs or a larger --max-memory"
            )


def needed(width: int, height: int) -> int:
    """Return the bytes for decoding an image of that size and cutting it out, with its mask and maps."""
    few = max(1, max(width, height) // ENOUGH)
    return PER_PIXEL * width * height + PER_REDUCED_PIXEL * width * height // few**2
