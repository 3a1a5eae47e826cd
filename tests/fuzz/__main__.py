"""Mutated files of all kinds to all that reads them: `python -m tests.fuzz --seconds 600 --targets glb,obj`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz import fuzz
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing was found, 1 otherwise."""
    options = _parser().parse_args(arguments)
    names = options.targets.split(",") if options.targets else list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        print(f"there is no target {unknown[0]}; choose among {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    report = fuzz.run(
        names,
        seed=options.seed,
        seconds=options.seconds,
        inputs=options.inputs,
        say=lambda text: print(text, flush=True),
    )
    for finding in report.findings.values():
        times = report.times[finding.target, finding.what]
        print(f"\n{finding.target}: {finding.what} ({times} times; {finding.keep(options.corpus)})\n{finding.detail}")
    print(f"\n{report.table()}")
    return 1 if report.findings else 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long (default 600)")
    parser.add_argument("--inputs", type=int, help="at most so many inputs of each target")
    parser.add_argument("--targets", help=f"some of {','.join(TARGETS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs: the same seed makes the same (default 0)")
    parser.add_argument(
        "--corpus", type=Path, default=CORPUS, help="where inputs of findings go (default tests/fuzz/corpus)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
