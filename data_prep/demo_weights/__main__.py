"""Demo weights from objects, trained for a given time: `instant3d data demo-weights OBJECTS... -o OUT`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped

from . import card
from .recipe import CONFIGS, PARTS, PROMPTS, TRAINERS, Recipe
from .running import Record, Run
from .steps import plan_steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when the weights and their cards are there, 2 when a step failed or the input is bad.
    """
    options = _parser().parse_args(arguments)
    try:
        wanted = _recipe(options)
        _check_device(wanted)
        atomic.prepare_output(wanted.out)
        wanted.out.mkdir(parents=True, exist_ok=True)
        record = Record.open(wanted.out, wanted.settings, options.resume)
        Run(plan_steps(wanted), record, wanted.training_left, _print_line)()
        for path in card.write(wanted, record):
            _print_line(f"{path}: a draft; read it and look at the assets before you publish the weights")
    except (ValueError, OSError) as error:
        print_escaped(f"error: {' '.join(str(error).split())}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        print_escaped(
            f"interrupted; go on by the same command with --resume (the run is in {options.output})", sys.stderr
        )
        return 130
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    return Recipe(
        objects=tuple(options.objects),
        out=options.output,
        parts=tuple(dict.fromkeys(options.parts.split(","))),
        trainer=options.trainer,
        seconds=options.seconds,
        licences=options.licences,
        variants=options.variants,
        procedural=options.procedural,
        seeds=options.seeds,
        prompts=options.prompts,
        size=options.size,
        configs=options.configs,
        workers=options.workers,
    )


def _check_device(wanted: Recipe) -> None:
    import torch

    if wanted.trainer != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"the trainer {wanted.trainer} needs a CUDA device, and there is none; use --trainer cpu")


def _print_line(line: str) -> None:
    print_escaped(line)


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data demo-weights", description=__doc__.splitlines()[0])
    parser.add_argument("objects", nargs="+", help="folders of objects with a manifest, or .jsonl manifests")
    parser.add_argument("-o", "--output", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--seconds", type=float, default=1500.0, help="seconds from the start to the end of training (default 1500)"
    )
    parser.add_argument("--trainer", choices=TRAINERS, default="cpu", help="configs/trainer/NAME.yaml (default cpu)")
    parser.add_argument(
        "--parts", default="stage1,stage2", help=f"among {','.join(PARTS)} (default stage1,stage2), by commas"
    )
    parser.add_argument("--resume", action="store_true", help="resume the interrupted run in OUTPUT")
    parser.add_argument(
        "--licences",
        "--licenses",
        default="CC0-1.0,MIT,MIT-0",
        help="licences of the objects, separated by commas, or all (default %(default)s)",
    )
    parser.add_argument("--variants", type=int, default=3, help="variants of each object, for stage 2 (default 3)")
    parser.add_argument("--procedural", type=int, default=3000, help="generated objects, for stage 2 (default 3000)")
    parser.add_argument("--seeds", type=int, default=3, help="evaluations of text alignment (default 3)")
    parser.add_argument(
        "--prompts", type=Path, default=PROMPTS, help="prompts to hold out of training and to evaluate at the end"
    )
    parser.add_argument("--size", default="demo", help="configs/PART/SIZE.yaml (default demo)")
    parser.add_argument(
        "--configs", type=Path, default=CONFIGS, help="folder of the configs (default: the shipped ones)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
