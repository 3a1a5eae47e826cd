"""A test that killed renderings lose nothing: `python -m benchmarks.kill_test OBJECTS --count 200 --renderer blender`.

It copies some of the objects, adds others that are truncated, garbage, full of copies, or too large, renders them,
kills the run with SIGKILL, starts it again, and compares the final result with the expected one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from benchmarks import planted
from benchmarks.killed_runs import Rewrites, finished
from data_prep.execution import process_limits
from data_prep.manifests import object_manifest

PLANTED: dict[str, tuple[Callable[[], bytes], str]] = {  # with the kind of failure that they should end as
    "planted_cut_short": (planted.cut_short, "broken"),
    "planted_garbage": (lambda: random.Random(0).randbytes(20_000), "broken"),
    "planted_endless": (planted.endless, "too_large"),
    "planted_picture": (planted.bomb, "too_large"),
    "planted_crowd": (planted.crowd, "too_large"),
}
PLAN = {"size": 64, "random_views": 2, "samples": 8}
SEAL = "transforms.json"  # the last file of a scene
GONE_S = 5.0  # for the processes of a killed run to end


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kill-test-") as folder:
        report = measure(Path(folder), options)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["as it should be"] else 1


def measure(work: Path, options: argparse.Namespace) -> dict[str, object]:
    expected = _gather(work / "objects", options.objects, options.count)
    out, plan, temporary = work / "out", work / "plan.yaml", work / "tmp"
    temporary.mkdir()
    plan.write_text(yaml.safe_dump(PLAN | {"lighting": "uniform" if options.renderer == "blender" else "flat"}))
    command = [sys.executable, "-m", "data_prep.render", str(work / "objects"), "-o", str(out), "--plan", str(plan)]
    command += ["--renderer", options.renderer, "--timeout", str(options.timeout), "--memory", "4"]
    legs, survivors, results = [], 0, Rewrites(out, SEAL)
    for kill in range(1, options.kills + 1):
        start = time.monotonic()
        survivors += _killed(command, out, len(expected) * kill // (options.kills + 1), temporary)
        legs.append({"seconds": round(time.monotonic() - start, 1), "new scenes": results.after_a_run()})
    start = time.monotonic()
    subprocess.run(command, check=True, env=_environment(temporary))
    legs.append({"seconds": round(time.monotonic() - start, 1), "new scenes": results.after_a_run()})
    now = results.before
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    kinds = {row["id"]: row["kind"] for row in failures}
    hidden = [path.name for path in [*out.iterdir(), *temporary.iterdir()] if path.name.startswith((".", "instant3d"))]
    facts: dict[str, object] = {
        "objects": len(expected),
        "scenes": len(now),
        "lost": sorted(expected - set(now) - set(kinds)),
        "done twice": results.count + len(set(now) & set(kinds)) + len(failures) - len(kinds),
        "failed otherwise than planted": {name: kind for name, kind in kinds.items() if name not in PLANTED},
        "planted": {name: {"kind": kinds.get(name), "expected": kind} for name, (_, kind) in PLANTED.items()},
        "reasons": {row["id"]: row["reason"] for row in failures},
        "processes that outlived a kill": survivors,
        "leftovers": hidden,
        "legs": legs,
    }
    right = all(kinds.get(name) == kind for name, (_, kind) in PLANTED.items())
    clean = not (facts["lost"] or facts["done twice"] or survivors or hidden)
    return facts | {"as it should be": right and clean}


def _gather(folder: Path, source: Path, count: int) -> set[str]:
    """Copies of objects from all over the source, and the planted ones; their ids."""
    folder.mkdir()
    items = object_manifest.find(source)
    for item in items[:: max(len(items) // count, 1)][:count]:
        shutil.copy(item.path, folder / f"{item.id}{item.path.suffix}")
    for name, (make, _) in PLANTED.items():
        (folder / f"{name}.glb").write_bytes(make())
    return {item.id for item in object_manifest.find(folder)}


def _killed(command: Sequence[str], out: Path, after: int, temporary: Path) -> int:
    """Run until there are so many scenes, kill, and count the processes that went on nevertheless."""
    run = subprocess.Popen(command, env=_environment(temporary))
    while len(finished(out, SEAL)) < after and run.poll() is None:
        time.sleep(0.02)
    family = process_limits.family(run.pid)
    run.send_signal(signal.SIGKILL)
    if run.wait() != -signal.SIGKILL:
        raise ValueError(f"the run ended by itself ({run.returncode}) before {after} scenes were there; add objects")
    until = time.monotonic() + GONE_S
    while time.monotonic() < until and any(map(process_limits.resident_bytes, family)):
        time.sleep(0.05)
    return sum(process_limits.resident_bytes(process) > 0 for process in family)


def _environment(temporary: Path) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(temporary)}


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_test", description=__doc__.splitlines()[0])
    parser.add_argument("objects", type=Path, help="a folder of objects, or a .jsonl manifest")
    parser.add_argument("--count", type=int, default=200, help="so many of them (default 200)")
    parser.add_argument("--kills", type=int, default=2, help="so often (default 2)")
    parser.add_argument("--renderer", choices=("fast", "blender"), default="fast")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for one object (default 20)")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
