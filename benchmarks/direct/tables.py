"""The experiments' results as tables and a figure: `python -m benchmarks.direct.tables OUT -o docs/direct_results.md`.

OUT holds a folder of results for each experiment: stage_a, stage_b, janus, activation; those that are not there are
left out. A number is the mean over seeds, with the least and the most in brackets where there are several.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.direct import activation, janus, stage_a, stage_b
from instant3d.utils.line_chart import Line, line_chart

HEAD = """# What the direct system's experiments found

A number is the mean over seeds, the least and the most in brackets; a run's minutes are of one core of a server CPU.
Questions and conclusions: [direct.md](direct.md#experiments)."""
Result = dict[str, Any]
Found = dict[str, list[Result]]  # of each arm, one of each seed
PLOTTED = (
    "all",
    "no cross-attention",
    "no token-to-plane",
    "cross-attention only",
    "style text only",
    "no text",
)


def results(folder: Path, arms: Iterable[str]) -> Found:
    """Results in a folder, arms in the order in which they are defined."""
    every = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    found = {arm: sorted((one for one in every if one["arm"] == arm), key=lambda one: one["seed"]) for arm in arms}
    return {arm: some for arm, some in found.items() if some}


def spread(values: Iterable[float], digits: int = 2) -> str:
    """The mean, and in brackets the least and the most."""
    numbers = list(values)
    mean = f"{sum(numbers) / len(numbers):.{digits}f}"
    return mean if len(numbers) == 1 else f"{mean} ({min(numbers):.{digits}f} to {max(numbers):.{digits}f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def last(some: Sequence[Result], *path: str) -> list[float]:
    """A number of each seed's last test, by the names that lead to it."""
    found = []
    for one in some:
        value: Any = one["curve"][-1]
        for name in path:
            value = value[name]
        found.append(float(value))
    return found


def extent(some: Sequence[Result]) -> str:
    """Seeds and the mean time of a processor that a run took."""
    return f"{len(some)} x {sum(one['curve'][-1]['seconds'] for one in some) / len(some) / 60:.1f} min"


def of_stage_a(found: Found) -> str:
    kinds = ("recall", "body", "shape", "hat")
    rows = [
        [
            arm,
            spread(last(some, "seen", "recall")),
            *[spread(last(some, "unseen", kind)) for kind in kinds],
            spread(last(some, "unseen", "squared_error"), 4),
            extent(some),
        ]
        for arm, some in found.items()
    ]
    head = (
        "what the network has",
        "recall, shown",
        "recall, held out",
        "body",
        "shape",
        "hat",
        "squared error",
        "runs",
    )
    parts = [table(head, rows)]
    if "all" in found:
        parts.append(controls(found["all"], found.get("cross-attention only")))
    return "\n\n".join(parts)


def controls(whole: Sequence[Result], partial: Sequence[Result] | None) -> str:
    """Controls of the last test of a whole network, and how far it is ahead of one with cross-attention alone."""
    rows = [
        ("recall when each prompt is replaced by its neighbour", spread(last(whole, "shuffled", "recall"))),
        ("hats that change with their word", spread(last(whole, "swapped", "hat_flipped"))),
        ("mean change of the bodies then", spread(last(whole, "swapped", "body_moved"), 3)),
    ]
    if partial:
        ahead = _mean(last(whole, "unseen", "recall")) - _mean(last(partial, "unseen", "recall"))
        rows.append(("held-out recall ahead of cross-attention only", f"{ahead:.2f}"))
    return table(("whole network", "found"), rows)


def of_stage_b(found: Found) -> str:
    gates = {arm.split()[0]: some[0]["gate"] for arm, some in found.items()}
    painted = [
        [guidance, f"{gate['truth']['all']:.2f}"]
        + [f"{gate[name][kind]:.2f}" for name in ("seen", "unseen") for kind in ("body", "shape", "hat")]
        for guidance, gate in gates.items()
    ]
    head = [
        "guidance",
        "true images, all right",
        *[f"{kind}, {name}" for name in ("shown", "held out") for kind in ("body", "shape", "hat")],
    ]
    rows = [
        [
            arm,
            spread(last(some, "seen", "attributes", "all")),
            *[spread(last(some, "unseen", "attributes", kind)) for kind in ("all", "body", "shape", "hat")],
            spread(last(some, "unseen", "recall")),
            spread(last(some, "unseen", "judge", "first")),
            spread(last(some, "unseen", "eyes", "first")),
            extent(some),
        ]
        for arm, some in found.items()
    ]
    judged = ["network", "all right, shown", "all right, held out", "body", "shape", "hat"]
    judged += ["nearest true object", "found by the independent CLIP", "found by the CLIP used in training", "runs"]
    parts = [table(head, painted), table(judged, rows)]
    if "apart sds" in found:
        parts.append(controls(found["apart sds"], found.get("apart sds, cross-attention only")))
    return "\n\n".join(parts)


def of_janus(found: Found) -> str:
    head = [
        "negatives",
        *[f"{what}, {group}" for group in janus.LEAKS for what in ("Janus", "front kept", "dark away", "error")],
    ]
    rows = [
        [arm]
        + [
            spread(last(some, group, what), digits)
            for group in janus.LEAKS
            for what, digits in (("janus", 2), ("kept", 2), ("dark_away", 2), ("squared_error", 4))
        ]
        + [extent(some)]
        for arm, some in found.items()
    ]
    recorded = {arm: some for arm, some in found.items() if some[0]["severity"]}
    names = ("mean", "leaky", "sound", "deviation", "by_angle")
    severities = [
        [arm, *[spread([one["severity"][name] for one in some]) for name in names]] for arm, some in recorded.items()
    ]
    parts = [table([*head, "runs"], rows)]
    if severities:
        columns = ("C", "mean", "mean, leaky", "mean, sound", "deviation", "share explained by the angle alone")
        parts.append(table(columns, severities))
    return "\n\n".join(parts)


def of_activation(found: Found) -> str:
    rows = [
        [
            arm,
            ", ".join(str(one["recovered"] or "never") for one in some),
            spread((one["start"] for one in some), 3),
            f"{some[0]['bound']:.3f}",
            spread(last(some, "squared_error"), 4),
            extent(some),
        ]
        for arm, some in found.items()
    ]
    head = (
        "colours",
        "steps to recover, by seed",
        "squared error at the start",
        "recovered below",
        "at the end",
        "runs",
    )
    return table(head, rows)


EXPERIMENTS: dict[str, tuple[str, Iterable[str], Callable[[Found], str]]] = {
    "stage_a": ("Stage A: mechanisms, with exact guidance", stage_a.ARMS, of_stage_a),
    "stage_b": ("Stage B: guidance by a trained diffusion model", stage_b.ARMS, of_stage_b),
    "janus": ("Faces and negative view words", janus.ARMS, of_janus),
    "activation": ("Colours from a saturated start", activation.ARMS, of_activation),
}


def figure(found: Found, path: Path) -> None:
    """Held-out recall against views per prompt, mean over seeds."""
    lines = []
    for arm in PLOTTED:
        some = found.get(arm, [])
        curves = [
            [(round(test["views_per_prompt"]), test["unseen"]["recall"]) for test in one["curve"]] for one in some
        ]
        if curves:
            lines.append(Line(arm, [(at[0][0], _mean([y for _, y in at])) for at in zip(*curves, strict=True)]))
    line_chart(lines, path, across="views per prompt", up="recall of held-out prompts")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def page(folder: Path, image: Path | None = None) -> str:
    """All there is, in Markdown; the figure goes to `image`."""
    parts: list[str] = []
    for name, (title, arms, section) in EXPERIMENTS.items():
        found = results(folder / name, arms)
        if not found:
            continue
        parts += [f"## {title}", section(found)]
        if name == "stage_a" and image is not None and any(arm in found for arm in PLOTTED):
            figure(found, image)
            parts.append(f"![Held-out recall against views per prompt]({image.name})")
    if not parts:
        raise FileNotFoundError(
            f"{folder} has no results in any of {', '.join(EXPERIMENTS)}; run the experiments first"
        )
    return "\n\n".join([HEAD, *parts]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.direct.tables", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="OUT", help="where the experiments' folders are")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file, with a figure beside it; else it is printed")
    options = parser.parse_args(arguments)
    if options.output is None:
        print(page(options.folder), end="")
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page(options.folder, options.output.with_name("direct_recall.png")))


if __name__ == "__main__":
    main()
