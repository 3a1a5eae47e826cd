"""Statistics of a run: progress lines and report.json."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped

FILE = "report.json"
EVERY_S = 5.0


@dataclass
class RunStats:
    """Counts of objects and views, with the time they took.

    Attributes:
        total: Objects of this run.
        there_already: Objects that have a scene.
        passed_over: Objects that failed before.
        done: Objects that were rendered.
        views: Views of those objects.
        kinds: Objects that failed, by kind of failure.
        since: When the run began, in seconds of the monotonic clock.
        first_at: When the first object was over; NaN until then. What comes before is starting up.
        printed_at: When the last line of progress was printed.
    """

    total: int
    there_already: int = 0
    passed_over: int = 0
    done: int = 0
    views: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    since: float = field(default_factory=time.monotonic)
    first_at: float = math.nan
    printed_at: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> int:
        """Number of objects that failed, of all kinds."""
        return self.kinds.total()

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.since

    def finished(self, views: int) -> None:
        """Count an object of which `views` views were written, and print a line of progress if one is due."""
        self.done += 1
        self.views += views
        self._report()

    def lost(self, kind: str) -> None:
        """Count an object that failed in this way, such as "crash", and print a line of progress if one is due."""
        self.kinds[kind] += 1
        self._report()

    def _report(self) -> None:
        if self.done + self.failed == 1:
            self.first_at = time.monotonic()
        if time.monotonic() - self.printed_at > EVERY_S:
            self.printed_at = time.monotonic()
            print_escaped(self.line(), sys.stderr)

    def line(self) -> str:
        """Progress, rate and remaining time."""
        so_far = self.done + self.failed
        if so_far < 2:
            return f"{so_far} of {self.total} objects, {self._rate()}"
        left = (self.total - so_far) * (time.monotonic() - self.first_at) / (so_far - 1)
        return f"{so_far} of {self.total} objects, {self._rate()}, about {clock(left)} left"

    def _rate(self) -> str:
        views, objects = (count / max(self.seconds, 1e-9) for count in (self.views, self.done + self.failed))
        rates = f"{objects:.3g} objects/s, {views:.3g} views/s"
        return f"{self.failed} failed{self._reasons()}, {clock(self.seconds)}, {rates}"

    def _reasons(self) -> str:
        return f" ({', '.join(f'{count} {kind}' for kind, count in self.kinds.most_common())})" if self.kinds else ""

    def closing_line(self, out: Path) -> str:
        """The last line of a run: objects, views, failures with their file in `out`, rates, and what was left out."""
        already = f"; {self.there_already} were there already" if self.there_already else ""
        if self.passed_over:
            already += f"; {self.passed_over} had failed before and were not tried again (--retry-failed tries them)"
        reasons = f"; reasons in {out / 'failures.jsonl'}" if self.failed else ""
        return f"{self.done} objects rendered into {out} ({self.views} views, {self._rate()}){already}{reasons}"

    def write(self, out: Path) -> None:
        """The counts of this run as report.json."""
        report = {
            "objects": self.total,
            "done": self.done,
            "failed": dict(self.kinds),
            "there_already": self.there_already,
            "passed_over": self.passed_over,
            "views": self.views,
            "seconds": round(self.seconds, 1),
            "objects_per_s": round((self.done + self.failed) / max(self.seconds, 1e-9), 4),
            "views_per_s": round(self.views / max(self.seconds, 1e-9), 3),
        }
        atomic.write_text(out / FILE, json.dumps(report, indent=2) + "\n")


def clock(seconds: float) -> str:
    """Format a duration: 42 s, 7 min 05 s, 3 h 20 min, 5 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
