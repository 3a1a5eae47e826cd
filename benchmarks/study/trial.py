"""One trial of a study, in a process of its own: count, train, export and evaluate one variant with one seed.

`python -m benchmarks.study.trial FOLDER` does what `FOLDER/trial.json` describes and writes `FOLDER/result.json`. What
is finished is not done again, and a training continues from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instant3d.utils import atomic
from instant3d.utils.errors import first_line, print_escaped

TRIAL, RESULT, COST, TRAINING, WEIGHTS = "trial.json", "result.json", "cost.json", "training.json", "weights"
EXPECTED = (ValueError, FileNotFoundError)  # bad input, told in one sentence


@dataclass(frozen=True)
class Trial:
    """One variant with one seed.

    Attributes:
        variant: Name of the variant.
        seed: Of the initial weights, the order of the data and its augmentation.
        options: Configs and options of `instant3d fit stage2`, without those of length and place.
        evaluated: Folders of held-out scenes.
        seconds: Length of training, if it is counted in seconds.
        steps: Length of training, if it is counted in steps.
        flops: Length of training, if it is counted in floating-point operations.
        size: Side in pixels of the images that are compared.
        mesh: Whether the mesh is evaluated too.
        planes: Folder of planes that were computed once, if only the decoder is trained.
        device: Device of the evaluation.
    """

    variant: str
    seed: int
    options: Sequence[str]
    evaluated: Sequence[str]
    seconds: float | None = None
    steps: int | None = None
    flops: float | None = None
    size: int = 128
    mesh: bool = False
    device: str = "cpu"
    planes: str | None = None

    @property
    def name(self) -> str:
        """Name of the trial's folder."""
        return f"{self.variant}-{self.seed}"

    def write(self, folder: Path) -> None:
        """Write the description of the trial, once.

        Raises:
            ValueError: The folder holds a trial with other settings.
        """
        file, content = folder / TRIAL, json.loads(json.dumps(asdict(self)))
        known = json.loads(file.read_text()) if file.is_file() else content
        name = next((name for name in content if known.get(name) != content[name]), None)
        if name is not None:
            raise ValueError(
                f"{folder} holds a trial with {name} {known.get(name)!r}, not {content[name]!r}; "
                "continue it with the same settings, or name another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, json.dumps(content, indent=2) + "\n")


def run(folder: Path) -> dict[str, Any]:
    """Do what is not finished of a trial.

    Args:
        folder: Folder of the trial.

    Returns:
        The result, as `result.json` holds it: `cost`, `training`, and `metrics` by method and scene.
    """
    trial = Trial(**json.loads((folder / TRIAL).read_text()))
    cost = _once(folder / COST, lambda: _count(trial))
    training = _once(folder / TRAINING, lambda: _train(trial, folder, cost))
    return _once(folder / RESULT, lambda: {"cost": cost, "training": training, "metrics": _evaluate(trial, folder)})


def _once(file: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Content of a JSON file, computed and written if there is none."""
    if not file.is_file():
        atomic.write_text(file, json.dumps(compute(), indent=2) + "\n")
    return json.loads(file.read_text())


def _count(trial: Trial) -> dict[str, Any]:
    from benchmarks.study import cost

    return asdict(cost.measure([*trial.options, f"--seed_everything={trial.seed}"]))


def _train(trial: Trial, folder: Path, cost: dict[str, Any]) -> dict[str, Any]:
    """Train and export; resumed after an interruption, the seconds are those of the last part alone."""
    from instant3d.training import fit

    start, runs = time.monotonic(), folder / "run"
    words = [*trial.options, f"--seed_everything={trial.seed}", *_length(trial, cost), *_places(runs)]
    begun = any(runs.glob("**/last*.ckpt"))
    if trial.planes is None:
        fit.main(["fit", "stage2", *words, *(["--ckpt_path=last"] if begun else [])])
    else:
        from benchmarks.study import frozen

        frozen.train(words, Path(trial.planes), fit.newest_checkpoint(runs) if begun else None)
    checkpoint = fit.newest_checkpoint(runs)
    fit.export(checkpoint, folder / WEIGHTS)
    steps = fit.load_weights_only(checkpoint, map_location="meta")["global_step"]
    return {"steps": steps, "seconds": round(time.monotonic() - start, 1), "peak_memory": _peak_memory()}


def _length(trial: Trial, cost: dict[str, Any]) -> list[str]:
    if trial.seconds is not None:
        whole = max(1, round(trial.seconds))
        clock = f"{whole // 86400:02d}:{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        return ["--trainer.max_steps=-1", f"--trainer.max_time={clock}"]
    from benchmarks.study.cost import Cost

    return [f"--trainer.max_steps={trial.steps or Cost(**cost).steps(trial.flops or 0)}"]


def _places(runs: Path) -> list[str]:
    log = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={runs}", "--trainer.logger.name=log"]
    return [f"--trainer.default_root_dir={runs}", *log, "--trainer.limit_val_batches=0"]


def _peak_memory() -> int:
    """Bytes that training has taken at most: of the GPU if there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _evaluate(trial: Trial, folder: Path) -> dict[str, Any]:
    """Metrics of the held-out scenes, by method and scene."""
    from instant3d.evaluation.reconstruction import evaluate_reconstruction
    from instant3d.utils.mesh_options import DEFAULT

    report = evaluate_reconstruction(
        trial.evaluated,
        weights=folder / WEIGHTS,
        resolution=trial.size,
        output=folder / "evaluation",
        mesh=DEFAULT if trial.mesh else None,
        device=trial.device,
    )
    return {"volume": report["scenes"], "mesh": report.get("mesh_scenes", {}), **report["baseline_scenes"]}


def main(arguments: Sequence[str]) -> int:
    """Run the trial of a folder; it ends as soon as its standard input does, which is the life of the study."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        run(Path(arguments[0]))
    except EXPECTED as error:
        print_escaped(first_line(error))
        return 2
    return 0


def _end_with_input() -> None:
    while os.read(0, 1):  # not by sys.stdin, whose lock a forked loader of data would wait for when it closes it
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
