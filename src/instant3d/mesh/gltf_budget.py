"""How much memory one file may take, bounded by its own length: a few bytes must not become gigabytes."""

from __future__ import annotations

from instant3d.mesh.untrusted import TooLarge

BASE = 2**28  # bytes that any file may take: two million vertices that are all copies of a few
FACTOR = 64  # further bytes for each byte of the file; a mesh without repetition takes up to 40


class Budget:
    """Bytes that may still be taken. Spent before anything is made of them."""

    def __init__(self) -> None:
        self.left = BASE

    def grow(self, length: int) -> None:
        """`length` more bytes of input were read."""
        self.left += FACTOR * length

    def spend(self, amount: int) -> None:
        """Take `amount` bytes.

        Raises:
            TooLarge: There are not as many left.
        """
        self.left -= amount
        if self.left < 0:
            raise TooLarge(
                f"it repeats its content into more than {BASE // 2**20} MiB and {FACTOR} times its length; "
                "export it with fewer copies, joints or morph targets"
            )
