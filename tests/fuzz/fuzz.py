"""The run: inputs to targets in turn, findings kept as small inputs, a line each minute and a table at the end."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tests.fuzz import minimise, mutators, targets
from tests.fuzz.mutators import Files
from tests.fuzz.sandbox import LIMITS, Limits, Sandbox

BATCH = 20  # inputs of a target at a time
REPORT_S = 60.0


@dataclass(frozen=True)
class Finding:
    """A fault that an input led to.

    Attributes:
        target: Whose reader it is.
        what: The fault, in the same words each time.
        detail: A traceback.
        files: The smallest input found that has it.
    """

    target: str
    what: str
    detail: str
    files: Files = field(repr=False)

    @property
    def name(self) -> str:
        """What its input is called in the corpus."""
        return f"{self.what.split(':')[0]}-{hashlib.sha256(self.what.encode()).hexdigest()[:8]}"

    def keep(self, corpus: Path) -> Path:
        """Write its input as a folder of a corpus, where it becomes a test."""
        folder = corpus / self.target / self.name
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


@dataclass
class Report:
    """What was tried and found: inputs and, of them, those that were read, by target."""

    inputs: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    times: Counter[tuple[str, str]] = field(default_factory=Counter)

    def table(self) -> str:
        """Inputs, those that were read without complaint, those refused, and findings, by target."""
        rows = [("target", "inputs", "read", "refused", "findings")]
        for name, count in self.inputs.items():
            faulty = sum(times for (target, _), times in self.times.items() if target == name)
            kinds = sum(target == name for target, _ in self.findings)
            rows.append(
                (name, f"{count:,}", f"{self.read[name]:,}", f"{count - self.read[name] - faulty:,}", str(kinds))
            )
        total = (sum(self.inputs.values()), sum(self.read.values()), len(self.findings))
        refused = total[0] - total[1] - sum(self.times.values())
        rows.append(("all", f"{total[0]:,}", f"{total[1]:,}", f"{refused:,}", str(total[2])))
        return "\n".join(f"{name:22}" + "".join(f"{cell:>10}" for cell in cells) for name, *cells in rows)


def run(
    names: Sequence[str],
    *,
    seed: int = 0,
    seconds: float | None = None,
    inputs: int | None = None,
    limits: Limits = LIMITS,
    tries: int = minimise.TRIES,
    lookup: Callable[[str], Callable[[Path], None]] = targets.reader,
    seeds_of: Callable[[str], list[Files]] = targets.seeds_of,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Try inputs of each target in turn, until the time is over or each target had a number of inputs.

    Args:
        names: Targets.
        seed: Of the inputs: the same seed makes the same.
        seconds: When to end; None is never.
        inputs: Of each target; None is any number.
        limits: What reading one input may take.
        tries: Inputs that are read to make that of a finding smaller.
        lookup: A target's reader by its name; a function that another process can import.
        seeds_of: A target's sound inputs by its name.
        say: Where progress goes.

    Returns:
        What was tried and found.
    """
    report, start = Report(), time.monotonic()
    said = start
    with Sandbox(lookup, limits) as sandbox:
        for name, batch in _batches(names, seed, inputs, seeds_of):
            for files in batch:
                _try(sandbox, name, files, report, say, tries)
            now = time.monotonic()
            if now - said > REPORT_S:
                said = now
                say(f"{now - start:.0f} s: {sum(report.inputs.values()):,} inputs, {len(report.findings)} findings")
            if seconds is not None and now - start > seconds:
                break
    return report


def _batches(
    names: Sequence[str], seed: int, inputs: int | None, seeds_of: Callable[[str], list[Files]]
) -> Iterator[tuple[str, list[Files]]]:
    streams = {name: mutators.stream(seeds_of(name), f"{seed}/{name}") for name in names}
    done = 0
    while inputs is None or done < inputs:
        count = BATCH if inputs is None else min(BATCH, inputs - done)
        for name, stream in streams.items():
            yield name, list(islice(stream, count))
        done += count


def _try(sandbox: Sandbox, name: str, files: Files, report: Report, say: Callable[[str], None], tries: int) -> None:
    verdict = sandbox.try_input(name, files)
    report.inputs[name] += 1
    report.read[name] += verdict.finding is None and not verdict.detail
    if verdict.finding is None:
        return
    key = name, verdict.finding
    report.times[key] += 1
    if key not in report.findings:
        say(f"{name}: {verdict.finding}")
        small = minimise.minimised(
            files, lambda some: sandbox.try_input(name, some).finding == verdict.finding, tries=tries
        )
        report.findings[key] = Finding(name, verdict.finding, verdict.detail, small)
