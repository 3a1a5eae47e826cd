"""Is anything lost when generating a list is killed, does memory grow? `python -m benchmarks.load_test --count 200`.

Makes assets of many prompts with `instant3d generate --prompts`, kills it with SIGKILL at random moments, starts it
again, and compares what is there in the end with what should be. The last run is left alone, and its memory watched.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.killed_runs import Rewrites, finished
from data_prep.execution import process_limits

SEAL = "result.json"  # the last file of an asset
WARM = 10  # assets after which memory should stay as it is
FLAT = 1.05  # times as much memory as after the first `WARM` assets: what still counts as flat
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple", "orange", "brown", "pink")
# images of a few pixels: with weights that mean nothing, they would take nearly all of the time
SMALL = """
import sys
from instant3d.cli.main import main
from instant3d.pipelines import results
results.SMALLEST = results.LARGEST = 16
results.FRAMES = 4
sys.exit(main())
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing was lost, made twice or left behind, and memory stayed flat."""
    options = _parser().parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-test-")))
        folder.mkdir(parents=True, exist_ok=True)
        report = measure(folder, options)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["as it should be"] else 1


def measure(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run, kill and run again; what was found."""
    rng, out = random.Random(options.seed), work / "out"
    prompts = [f"a {COLOURS[k % len(COLOURS)]} thing number {k}" for k in range(options.count)]
    (work / "prompts.txt").write_text("\n".join(prompts) + "\n")
    command = _command(work, out, options)
    legs, assets = [], Rewrites(out, SEAL)
    assets.after_a_run()  # of an earlier call with the same --work
    for kill in range(options.kills):
        until = options.count // 2 * (kill + 1) // options.kills  # half of the assets are left for the last run
        if len(assets.before) >= until:
            continue
        legs.append(_leg(command, out, until, rng.uniform(0, options.after)))
        assets.after_a_run()
    legs.append(_leg(command, out, None, 0))
    assets.after_a_run()
    now = assets.before
    found = [json.loads((out / name / "result.json").read_text())["prompt"] for name in now]
    hidden = sorted(path.name for path in out.rglob(".*"))
    memory = legs[-1]["MiB after each asset"]
    flat = len(memory) <= WARM or max(memory[WARM:]) <= FLAT * max(memory[:WARM])
    facts = {
        "assets": len(now),
        "lost": sorted(set(prompts) - set(found)),
        "made twice": assets.count + len(found) - len(set(found)),
        "left behind": hidden,
        "memory flat": flat,
        "legs": legs,
    }
    sound = legs[-1]["exit code"] == 0 and not (facts["lost"] or facts["made twice"] or hidden)
    return facts | {"as it should be": sound and flat}


def _leg(command: Sequence[str], out: Path, until: int | None, after: float) -> dict[str, Any]:
    """Run until there are so many assets and then some seconds more, and kill; without a number, to the end."""
    start, memory, first = time.monotonic(), list[int](), len(finished(out, SEAL))
    with (out.parent / "log").open("ab") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log)
    while run.poll() is None:
        count = len(finished(out, SEAL)) - first
        if count > len(memory):
            memory += [process_limits.resident_bytes(run.pid) // 2**20] * (count - len(memory))
        if until is not None and first + count >= until:
            time.sleep(after)
            run.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    code = run.wait()
    if until is None and code:
        print((out.parent / "log").read_text(errors="replace")[-2000:], file=sys.stderr)
    assets = len(finished(out, SEAL)) - first
    seconds = round(time.monotonic() - start, 1)
    return {"assets": assets, "seconds": seconds, "exit code": code, "MiB after each asset": memory}


def _command(work: Path, out: Path, options: argparse.Namespace) -> list[str]:
    usual = ["generate", "--prompts", str(work / "prompts.txt"), "-o", str(out), "--device", "cpu"]
    if options.demo_weights:
        return [sys.executable, "-m", "instant3d.cli.main", *usual, "--steps", "2"]
    stage1, stage2 = toys(work)
    small = ["--steps", "1", "--resolution", "16", "--texture", "none"]
    return [sys.executable, "-c", SMALL, *usual, "--stage1", str(stage1), "--stage2", str(stage2), *small]


def toys(work: Path) -> tuple[Path, Path]:
    """Folders of weights that mean nothing, each of a few thousand parameters."""
    from tests.fixtures.sphere_network import sphere_network
    from tests.fixtures.tiny_sdxl import tiny_sdxl_folder

    stage1, stage2 = work / "stage1", work / "stage2"
    if not stage2.is_dir():  # others would make other assets
        tiny_sdxl_folder(stage1)
        sphere_network().save_pretrained(stage2)
    return stage1, stage2


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_test", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="prompts (default 200)")
    parser.add_argument("--kills", type=int, default=5, help="so often (default 5)")
    parser.add_argument("--after", type=float, default=3.0, help="at most so long after an asset (default 3 seconds)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--work", type=Path, help="folder that is kept; the next call with it goes on where this ended")
    parser.add_argument("--demo-weights", action="store_true", help="the bundled weights instead of toys, two steps")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
