"""Compare variants of the reconstructor at equal compute.

`python -m benchmarks.study demo surface_features --train SCENES --val HELD_OUT -o out/study` trains each variant on the
same scenes in the same order for the same seconds (or FLOPs, or steps), evaluates it on the held-out scenes, and writes
table.md, study.json and figure.png. Called again it does what is missing: an interrupted training continues from its
last checkpoint, and what failed is tried again. With `--from WEIGHTS` every variant begins with those weights, and what
only it has with a branch that computes zero.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.study import report
from benchmarks.study.bands import find_bands
from benchmarks.study.trial import EXPECTED, RESULT, WEIGHTS, Trial
from instant3d.utils import shipped
from instant3d.utils.arg_types import positive_int
from instant3d.utils.errors import first_line, print_escaped

DEMO = "demo"
LOG = "log.txt"
PLANES = "planes"  # folder in the study's, of planes that are computed once
FOLDERS = ("stage2/study", "stage2")  # of shipped configs that are found by their names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study.

    Returns:
        0, or 1 if a trial failed, or 2 after bad input.
    """
    options = parsed(arguments)
    try:
        planned = plan(options)
        for trial in planned:
            trial.write(options.output / trial.name)
        if options.frozen_planes:
            from benchmarks.study import frozen

            frozen.prepare(planned[0].options, options.output / PLANES)
        failed = run_all(planned, options.output, options.workers)
        finish(planned, failed, options.output)
    except EXPECTED as error:
        print_escaped(f"benchmarks.study: error: {first_line(error)}", sys.stderr)
        return 2
    return int(bool(failed))


def plan(options: argparse.Namespace) -> list[Trial]:
    """The trials of a study, seed by seed, so that an early end leaves all variants compared."""
    base = options.base or default_base(options.trainer, warm=options.weights is not None)
    if options.frozen_planes:
        if not options.weights:
            raise ValueError("--frozen-planes trains the decoder of trained weights; name them by --from")
        base = [*base, "stage2/frozen_planes"]
    length = {name: getattr(options, name) for name in ("seconds", "steps", "flops")}
    if all(value is None for value in length.values()):
        length["seconds"] = 1200.0
    configs = {Path(name).stem: [] if name == DEMO else [name] for name in options.configs}
    if len(configs) < len(options.configs):
        raise ValueError("two variants have the same name; name each config once")
    return [
        Trial(
            variant,
            seed,
            options=[
                *_config_options([*base, *more]),
                f"--data.train={json.dumps(options.train)}",
                f"--data.seed={seed}",
                *([f"--model.start={options.weights}"] if options.weights else []),
            ],
            evaluated=options.val,
            size=options.size,
            mesh=options.mesh,
            device="cpu" if options.trainer == "cpu" else "cuda",
            planes=str(options.output / PLANES) if options.frozen_planes else None,
            **length,
        )
        for seed in range(options.seeds)
        for variant, more in configs.items()
    ]


def default_base(trainer: str, warm: bool = False) -> list[str]:
    """The configs of `demo` for a trainer, which `make demo-weights` uses too; `warm` is for trained weights."""
    return [
        f"trainer/{trainer}",
        *(f"stage2/{name}" for name in (DEMO, f"{DEMO}_{trainer}")),
        *([f"stage2/warm_start_{trainer}"] if warm else []),
    ]


def _config_options(configs: Sequence[str]) -> list[str]:
    return [word for name in configs for word in ("-c", str(shipped.find(name, FOLDERS).resolve()))]


def run_all(trials: Sequence[Trial], output: Path, workers: int) -> dict[str, str]:
    """Run the trials that have no result, some at a time.

    Args:
        trials: The trials.
        output: Folder of the study.
        workers: Trials at a time.

    Returns:
        The last line of the log of each trial that failed.
    """
    missing = [trial for trial in trials if not (output / trial.name / RESULT).is_file()]
    print_escaped(f"{len(trials) - len(missing)} of {len(trials)} trials are finished")
    with ThreadPoolExecutor(workers) as pool:
        lines = pool.map(lambda trial: _run(trial, output), missing)
        return {trial.name: line for trial, line in zip(missing, lines, strict=True) if line is not None}


def _run(trial: Trial, output: Path) -> str | None:
    """Run a trial in a process of its own, with one thread; the last line of its log if it failed."""
    folder = output / trial.name
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if trial.device == "cpu" else {})
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.study.trial", str(folder)],
            stdin=subprocess.PIPE,  # its end ends the trial, however the study ends
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        code = process.wait()
    print_escaped(f"{trial.name} {'finished' if code == 0 else f'failed, see {folder / LOG}'}")
    lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
    return None if code == 0 else lines[-1] if lines else f"exit code {code}"


def finish(trials: Sequence[Trial], failed: Mapping[str, str], output: Path) -> None:
    """Write and print the comparison of the finished trials.

    Raises:
        ValueError: No trial is finished.
    """
    from benchmarks.study.cost import seconds_to_mesh, seconds_to_planes
    from instant3d.evaluation.reconstruction import find_scenes

    results: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        if (file := output / trial.name / RESULT).is_file():
            results.setdefault(trial.variant, []).append({"seed": trial.seed, **json.loads(file.read_text())})
    if not results:
        raise ValueError(f"no trial finished; {next(iter(failed.values()))}")
    found = find_scenes(trials[0].evaluated)
    bands = find_bands(found, trials[0].size)
    # one after another, while nothing else of the study runs
    weights = {name: output / f"{name}-{some[0]['seed']}" / WEIGHTS for name, some in results.items()}
    seconds = {name: {"planes_seconds": seconds_to_planes(folder)} for name, folder in weights.items()}
    if trials[0].mesh:
        scene = next(iter(found.values()))
        for name, folder in weights.items():
            seconds[name]["mesh_seconds"] = seconds_to_mesh(folder, scene)
    rows = report.compare(results, bands, seconds, trials[0].variant)
    print_escaped(report.write(rows, results, bands, failed, output))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "configs", nargs="+", metavar="CONFIG", help="variants: configs on top of demo, or their names; `demo` itself"
    )
    parser.add_argument("--train", nargs="+", required=True, help="folders of scenes or shards to train on")
    parser.add_argument("--val", nargs="+", required=True, help="folders of held-out scenes")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, help="training time of each trial (default: 1200)")
    length.add_argument("--flops", type=float, help="floating-point operations of each trial instead")
    length.add_argument("--steps", type=positive_int, help="training steps of each trial instead")
    parser.add_argument("--seeds", type=positive_int, default=2, help="trials of each variant (default: %(default)s)")
    parser.add_argument("--size", type=positive_int, default=128, help="pixels a side of the images that are compared")
    parser.add_argument("--mesh", action="store_true", help="evaluate meshes too")
    parser.add_argument("--trainer", choices=("cpu", "one_gpu"), default="cpu", help="default: %(default)s")
    parser.add_argument("--base", nargs="+", help="configs below the variants (default: demo for the trainer)")
    parser.add_argument(
        "--from", dest="weights", metavar="WEIGHTS", help="trained weights that every variant begins with"
    )
    parser.add_argument(
        "--frozen-planes",
        action="store_true",
        help="train the decoder alone, on planes that the weights of --from make once",
    )
    parser.add_argument("--workers", type=positive_int, help="trials at a time (default: one a core; one on a GPU)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of trials, table and figure")
    options = parser.parse_args(arguments)
    options.workers = options.workers or ((os.cpu_count() or 1) if options.trainer == "cpu" else 1)
    return options


if __name__ == "__main__":
    sys.exit(main())
