"""The effect of fewer denoising steps: text alignment, view agreement and seconds by steps, sampler and guidance.

`python -m benchmarks.steps -o out/steps` generates the views of all prompts with every setting, reconstructs each asset
once and renders it twice: from new cameras for the attribute classifier (`evaluate text`), and from the cameras of the
generated views for their agreement (`evaluate consistency`). Settings that were measured before are skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from instant3d.evaluation import evaluated_assets, text_alignment, view_consistency
from instant3d.evaluation.attribute_classifier import AttributeClassifier
from instant3d.evaluation.view_cache import ViewCache, ViewRequest, read_prompt_list, view_requests
from instant3d.pipelines.text_to_3d import Sampling, TextTo3D, ViewsTo3D
from instant3d.pipelines.weights import find_judge, find_stages
from instant3d.stage1.sampler import guided_steps
from instant3d.stage1.sampling_options import STARTS
from instant3d.utils import atomic
from instant3d.utils.arg_types import comma_separated, finite_floats, positive_int
from instant3d.utils.line_chart import Line, line_chart

PROMPTS = Path("configs") / "prompts" / "held_out.txt"
STEPS, SAMPLERS = (4, 6, 8, 12, 16, 20, 30), ("euler", "dpm++")
TIMED = 4  # prompts whose views are sampled one by one for the seconds, as `generate` does
HEADINGS = [
    "sampler",
    "steps",
    "guided",
    "colour",
    "object",
    "both",
    "both, generated views",
    "agreement, dB",
    "s to denoise one prompt",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every combination and print the table."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help=f'"a COLOUR OBJECT", one a line ({PROMPTS})')
    parser.add_argument("--steps", type=comma_separated, default=[str(count) for count in STEPS])
    parser.add_argument("--samplers", type=comma_separated, default=list(SAMPLERS))
    parser.add_argument("--guidance-stops", type=finite_floats, default=[1.0], help="shares of the steps with guidance")
    parser.add_argument("--guidance", type=float, default=5.0, help="scale of guidance (default %(default)g)")
    parser.add_argument("--start", choices=STARTS, default="blob", help="initial image (default %(default)s)")
    parser.add_argument("--every", type=positive_int, default=1, help="only each so-manieth prompt (default 1: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt; others count up")
    parser.add_argument("--stage1", default=None)
    parser.add_argument("--stage2", default=None)
    parser.add_argument(
        "--timing-only", action="store_true", help="take the seconds anew, on a machine that is idle now"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for views, steps.json, table.md, figure.png"
    )
    options = parser.parse_args(arguments)
    stage1, stage2 = find_stages(options.stage1, options.stage2)
    load = cache(partial(TextTo3D.from_pretrained, stage1, stage2))
    model, judge = (
        ViewsTo3D.from_pretrained(stage2),
        AttributeClassifier.from_pretrained(find_judge()),
    )
    wanted = view_requests(read_prompt_list(options.prompts)[:: options.every], options.seed)
    file = options.output / "steps.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for steps, sampler, stop in product(map(int, options.steps), options.samplers, options.guidance_stops):
        sampling = Sampling(steps, options.guidance, stop, sampler=sampler, start=options.start)
        name = f"{sampler} {steps} {guided_steps(sampling)}"
        if name not in report:
            gallery = ViewCache(options.output / "views", stage1, sampling, load)
            report[name] = {"sampling": asdict(sampling), **measured(gallery, wanted, model, judge)}
        if options.timing_only or "seconds" not in report[name]:
            report[name]["seconds"] = seconds(load(), wanted[:TIMED], sampling)
        with atomic.merged(options.output) as partial_folder:
            (partial_folder / "steps.json").write_text(json.dumps(report, indent=2) + "\n")
            (partial_folder / "table.md").write_text(table(report))
            line_chart(lines(report), partial_folder / "figure.png", across="steps", up="agreement of the views, dB")
    print(table(report), end="")


def measured(
    gallery: ViewCache, wanted: Sequence[ViewRequest], model: ViewsTo3D, judge: AttributeClassifier
) -> dict[str, Any]:
    """Shares of assets and of sampled views that the judge names rightly, and the views' agreement in dB."""
    gallery.fill(wanted)
    results, agreements = [], []
    for order in wanted:
        views = gallery.views(order)
        asset = model(views)
        again = asset.render(views.cameras, views.width)
        agreements.append(view_consistency.measure(views, again))
        renders = asset.render(evaluated_assets.new_cameras(), evaluated_assets.SIZE).composite(1.0).clamp(0, 1)
        results.append(evaluated_assets.EvaluatedAsset(order, views.composite(1.0), renders, None))
    said = text_alignment.classifier_metrics(judge, results)
    return {
        "renders": said["renders"],
        "views": said["views"],
        "agreement": view_consistency.summary(agreements)["psnr"],
    }


def seconds(model: TextTo3D, wanted: Sequence[ViewRequest], sampling: Sampling) -> float:
    """The least time that denoising the views of one prompt took, among a few prompts, after one to warm up."""
    taken = []
    for order in [wanted[0], *wanted]:
        text, away = model.encode([order.prompt])
        start = time.perf_counter()
        model.denoise(text, away, [order.seed], sampling=sampling)
        taken.append(time.perf_counter() - start)
    return round(min(taken[1:]), 3)


def lines(report: Mapping[str, Any]) -> list[Line]:
    """Agreement by steps, a line for each sampler and share of guided steps."""
    points: dict[str, list[tuple[float, float]]] = {}
    for name, numbers in report.items():
        sampler, steps, guided = name.split()
        label = sampler if guided == steps else f"{sampler}, guided {numbers['sampling']['guidance_stop']:.0%}"
        points.setdefault(label, []).append((float(steps), numbers["agreement"]))
    return [Line(sampler, sorted(some)) for sampler, some in points.items()]


def table(report: Mapping[str, Any]) -> str:
    """One line a setting, as Markdown; shares in percent."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    for name, numbers in sorted(report.items(), key=_order):
        sampler, steps, guided = name.split()
        shares = [numbers["renders"][key] for key in ("colour", "object", "both")] + [numbers["views"]["both"]]
        cells = [sampler, steps, guided, *(f"{100 * share:.0f}" for share in shares)]
        lines.append("| " + " | ".join([*cells, f"{numbers['agreement']:.2f}", f"{numbers['seconds']:.2f}"]) + " |")
    return "\n".join(lines) + "\n"


def _order(item: tuple[str, Any]) -> tuple[int, bool, int]:
    sampler, steps, guided = item[0].split()
    return int(steps), sampler != "euler", -int(guided)


if __name__ == "__main__":
    main()
