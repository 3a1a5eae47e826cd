"""Limits of the memory of a command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryLimits:
    """The limits that the option `--max-memory` sets, in bytes: one number limits both.

    Attributes:
        weights: What weights on a GPU may take together; the others wait on the CPU. None for six tenths of the memory
            that is free.
        scratch: What rendering and meshing may take for themselves.
    """

    weights: int | None = None
    scratch: int = 2**30

    @classmethod
    def of(cls, max_memory: int | None) -> MemoryLimits:
        """Both limits from one number; None for the defaults."""
        return cls(max_memory, max_memory) if max_memory else cls()
