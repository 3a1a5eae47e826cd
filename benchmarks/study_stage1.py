"""Compare variants of stage 1's training at equal time from the same base.

`python -m benchmarks.study_stage1 demo min_snr consistency words=CACHE2 --base STAGE1 --cache CACHE -o OUT` trains
each variant for the same seconds (or steps), exports it, and measures its views and assets as `benchmarks.steps` does,
at the steps of `--sampled`, with the sampler, guidance and start that its config names. A variant is the name of a
config on top of `demo`, or NAME=CACHE for `demo` itself on another cache, such as one of `cache-stage1
--word-dropout`. Writes a folder for each variant and table.md; called again, it does what is missing and continues
interrupted trainings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instant3d.stage1.recommended_sampling import recommended_sampling
from instant3d.utils import atomic, shipped
from instant3d.utils.arg_types import comma_separated, positive_int
from instant3d.utils.errors import first_line, print_escaped

DEMO = "demo"
FOLDERS = ("stage1/study", "stage1")  # of shipped configs that are found by their names
HEADINGS = ("variant", "steps", "colour", "object", "both", "both, generated views", "agreement, dB")
EXPECTED = (ValueError, FileNotFoundError)  # bad input, told in one sentence


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: Of the variant.
        configs: On top of `demo`.
        cache: Folder of the training grids.
    """

    name: str
    configs: tuple[str, ...]
    cache: str

    @classmethod
    def parse(cls, text: str, cache: str) -> Variant:
        """Parse `CONFIG`, `demo` or `NAME=CACHE`; `cache` is that of variants without one."""
        name, given, own = text.partition("=")
        if given or name == DEMO:
            return cls(name, (), own or cache)
        return cls(Path(name).stem, (str(shipped.find(name, FOLDERS).resolve()),), cache)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, export and measure all variants.

    Returns:
        0, or 1 if a variant failed, or 2 after bad input.
    """
    options = parsed(arguments)
    try:
        variants = [Variant.parse(text, options.cache) for text in options.variants]
        if len({variant.name for variant in variants}) < len(variants):
            raise ValueError("two variants have the same name; name each once")
    except EXPECTED as error:
        print_escaped(f"benchmarks.study_stage1: error: {first_line(error)}", sys.stderr)
        return 2
    failed = [variant.name for variant in variants if not done(variant, options)]
    results = {variant.name: found for variant in variants if (found := result(options.output / variant.name))}
    text = table(results) + "".join(f"\n{name} failed.\n" for name in failed)
    atomic.write_text(options.output / "table.md", text)
    print_escaped(text)
    return int(bool(failed))


def done(variant: Variant, options: argparse.Namespace) -> bool:
    """Do what is missing of a variant; whether all of it succeeded."""
    folder = options.output / variant.name
    trained = (folder / "weights" / "model_index.json").is_file()
    trained = trained or (_run(fit_words(variant, options, folder)) and _run(export_words(folder)))
    return trained and _run(measure_words(options, folder))


def fit_words(variant: Variant, options: argparse.Namespace, folder: Path) -> list[str]:
    """The command that trains a variant."""
    below = [f"trainer/{options.trainer}", f"stage1/{DEMO}", f"stage1/{DEMO}_{options.trainer}"]
    names = [*below, *variant.configs, f"stage1/warm_start_{options.trainer}"]
    paths = [str(shipped.find(name, FOLDERS).resolve()) for name in names]
    seconds = options.seconds
    clock = f"{seconds // 86400:02d}:{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    length = [f"--trainer.max_steps={options.steps or -1}"]
    length += [] if options.steps else [f"--trainer.max_time={clock}"]
    run = folder / "run"
    return [
        *("instant3d.cli.main", "fit", "stage1"),
        *(word for path in paths for word in ("-c", path)),
        f"--model.base={options.base}",
        f"--data.train={json.dumps([variant.cache])}",
        f"--trainer.default_root_dir={run}",
        *("--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={run}", "--trainer.logger.name=log"),
        "--trainer.limit_val_batches=0",
        *length,
        *(["--ckpt_path=last"] if any(run.glob("**/last*.ckpt")) else []),
    ]


def export_words(folder: Path) -> list[str]:
    """The command that exports a variant's weights."""
    return ["instant3d.cli.main", "export", str(folder / "run"), "-o", str(folder / "weights")]


def measure_words(options: argparse.Namespace, folder: Path) -> list[str]:
    """The command that measures a variant's weights, with the settings that its folder states."""
    sampling = recommended_sampling(folder / "weights")
    return [
        *("benchmarks.steps", "--stage1", str(folder / "weights"), "--every", str(options.every)),
        *("--steps", ",".join(options.sampled), "--samplers", sampling.sampler, "--guidance", f"{sampling.guidance:g}"),
        *("--guidance-stops", f"{sampling.guidance_stop:g}", "--start", sampling.start, "-o", str(folder / "steps")),
    ]


def _run(words: Sequence[str]) -> bool:
    return subprocess.run([sys.executable, "-m", *words], check=False).returncode == 0


def result(folder: Path) -> dict[str, Any] | None:
    """What `benchmarks.steps` measured of a variant, by setting; None if nothing."""
    file = folder / "steps" / "steps.json"
    return json.loads(file.read_text()) if file.is_file() else None


def table(results: dict[str, dict[str, Any]]) -> str:
    """One line for each variant and number of steps, as Markdown; shares in percent."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    for variant, settings in results.items():
        for name, numbers in settings.items():
            sampler, steps, _ = name.split()
            shares = [*(numbers["renders"][key] for key in ("colour", "object", "both")), numbers["views"]["both"]]
            cells = [variant, f"{steps} of {sampler}", *(f"{100 * share:.0f}" for share in shares)]
            lines.append("| " + " | ".join([*cells, f"{numbers['agreement']:.2f}"]) + " |")
    return "\n".join(lines) + "\n"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study_stage1", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("variants", nargs="+", metavar="VARIANT", help="a config on top of demo, `demo`, or NAME=CACHE")
    parser.add_argument("--base", required=True, help="folder of the stage 1 that every variant begins with")
    parser.add_argument("--cache", required=True, help="folder of training grids (`instant3d cache-stage1`)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=positive_int, default=600, help="of each training (default: %(default)s)")
    length.add_argument("--steps", type=positive_int, help="of each training instead")
    parser.add_argument(
        "--sampled", type=comma_separated, default=["4", "20"], help="steps of sampling (default: 4,20)"
    )
    parser.add_argument(
        "--every", type=positive_int, default=5, help="only each so-manieth prompt (default: %(default)s)"
    )
    parser.add_argument("--trainer", choices=("cpu", "one_gpu"), default="cpu", help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the variants and table.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
