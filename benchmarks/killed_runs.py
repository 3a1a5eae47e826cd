"""What runs that were killed and started again have made: which results are whole, and which were written twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

Finished = dict[str, tuple[int, int]]  # when each result was written, and where on the disk


def finished(out: Path, seal: str) -> Finished:
    """Each result folder that is whole, as `seal` is the last file of one; hidden ones are half-written."""
    found = [(path, path.stat()) for path in out.glob(f"[!.]*/{seal}")]
    return {path.parent.name: (status.st_mtime_ns, status.st_ino) for path, status in found}


@dataclass
class Rewrites:
    """Counts results that a later run has written again or removed.

    Attributes:
        out: The folder of results.
        seal: Name of the last file of a result.
        before: The results after the last run.
        count: Results that changed since.
    """

    out: Path
    seal: str
    before: Finished = field(default_factory=dict)
    count: int = 0

    def after_a_run(self) -> int:
        """Compare with what was there before the run; return the number of new results."""
        now, before = finished(self.out, self.seal), self.before
        self.count += sum(now.get(name) != written for name, written in before.items())
        self.before = now
        return len(now) - len(before)
