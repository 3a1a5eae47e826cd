"""Time of each part from a prompt to its asset: `python -m benchmarks.split`.

Runs `instant3d generate` as a user does, each time in a process of its own, and reads the timings that the command
writes into result.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instant3d.utils import bundled
from instant3d.utils.arg_types import positive_int

PROMPT = "a red fire hydrant"
START = "start"  # of Python and of its libraries, and the end: all that the record does not tell of


@dataclass(frozen=True)
class Round:
    """One command: its record, seconds on the clock and of the processor, all threads together."""

    record: dict[str, Any]
    wall: float
    cpu: float

    @property
    def seconds(self) -> dict[str, float]:
        """By part; together they are the whole command."""
        parts = self.record["seconds"]
        return {START: self.wall - sum(parts.values()), **parts}


def command(folder: Path, options: argparse.Namespace) -> list[str]:
    stages = ["--stage1", str(options.stage1), "--stage2", str(options.stage2)]
    sampling = ["--device", options.device, *(["--steps", str(options.steps)] if options.steps else [])]
    return [
        sys.executable,
        "-m",
        "instant3d.cli.main",
        "generate",
        "-o",
        str(folder),
        *stages,
        *sampling,
        "--",
        options.prompt,
    ]


def measured(options: argparse.Namespace) -> Round:
    """Make the asset once, and throw it away."""
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        before, start = _processor(), time.perf_counter()
        subprocess.run(
            command(Path(folder, "out"), options), env=os.environ | threads, stdout=subprocess.DEVNULL, check=True
        )
        wall, cpu = time.perf_counter() - start, _processor() - before
        return Round(json.loads(Path(folder, "out", "result.json").read_text(encoding="utf-8")), wall, cpu)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak() -> float:
    """MiB of resident memory of the largest command so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 2**20


def table(rounds: Sequence[Round]) -> Iterator[str]:
    """One line a part; `share` is of the fastest command, whose parts add up to its whole."""
    fastest = min(rounds, key=lambda each: each.wall)
    yield f"{'':14}{'best s':>8}{'median s':>10}{'share':>7}"
    for name in fastest.seconds:
        each = [one.seconds[name] for one in rounds]
        share = f"{100 * fastest.seconds[name] / fastest.wall:.0f} %"
        yield f"{name:14}{min(each):8.2f}{statistics.median(each):10.2f}{share:>7}"
    for name, each in (("whole command", [one.wall for one in rounds]), ("of processor", [one.cpu for one in rounds])):
        yield f"{name:14}{min(each):8.2f}{statistics.median(each):10.2f}"


def heading(options: argparse.Namespace, rounds: Sequence[Round]) -> str:
    record = rounds[0].record
    sampling, mesh = record["sampling"], record["mesh"]
    return (
        f"{options.prompt!r} by {options.stage1} and {options.stage2} on {record['device']}, "
        f"threads: {options.threads}, runs: {len(rounds)}; {sampling['steps']} steps of {sampling['sampler']}, "
        f"guidance {sampling['guidance']:g}, {mesh['faces']} triangles"
    )


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompt", default=PROMPT, help="what to make (default %(default)r)")
    parser.add_argument("--stage1", help=f"folder or Hub id (default {bundled.STAGE1})")
    parser.add_argument("--stage2", help=f"folder or Hub id (default {bundled.STAGE2})")
    parser.add_argument("--steps", type=positive_int, help="of denoising (default: as stage 1's folder says)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or auto")
    parser.add_argument("--rounds", type=int, default=3, help="commands that are run (default %(default)s)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="(default %(default)s)")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads) < 1:
        parser.error("--rounds and --threads are at least 1")
    return options


def main() -> int:
    options = parsed()
    try:
        options.stage1 = bundled.weights_folder(bundled.STAGE1, options.stage1, option="--stage1")
        options.stage2 = bundled.weights_folder(bundled.STAGE2, options.stage2, option="--stage2")
        rounds = [measured(options) for _ in range(options.rounds)]
    except FileNotFoundError as error:
        print(f"nothing measured: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"nothing measured: `instant3d generate` ended with exit code {error.returncode}", file=sys.stderr)
        return 2
    print(heading(options, rounds), *table(rounds), f"peak memory {_peak():.0f} MiB", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
