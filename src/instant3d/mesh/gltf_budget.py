"""Memory limit for reading one file, proportional to its length: a few bytes must not become gigabytes."""

from __future__ import annotations

from instant3d.mesh.untrusted import TooLarge

BASE = 2**28  # bytes that any file may take: two million vertices that are all copies of a few
FACTOR = 64  # further bytes for each byte of the file; a mesh without repetition takes up to 40


class Budget:
    """Number of bytes that may still be allocated; spent before anything is allocated."""

    def __init__(self) -> None:
        self.left = BASE

    def grow(self, length: int) -> None:
        """Add to the budget for `length` further bytes of input."""
        self.left += FACTOR * length

    def spend(self, amount: int) -> None:
        """Subtract `amount` bytes.

        Raises:
            TooLarge: There are not as many left.
        """
        self.left -= amount
        if self.left < 0:
            raise TooLarge(
                f"it repeats its content into more than {BASE // 2**20} MiB and {FACTOR} times its length; "
                "export it with fewer copies, joints or morph targets"
            )
