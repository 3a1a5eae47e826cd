"""The command `instant3d evaluate text`: whether assets match their prompts.

For each prompt four views are generated (or taken from an asset's folder, or from real renders, the upper bound for
stage 2 and the classifier) and reconstructed, or the direct system generates the asset in one pass. It is rendered from
eight new cameras between, below and above those of the four views. An attribute classifier (the judge) trained only on
real renders, and CLIP models if given, then evaluate the renders.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d import __version__
from instant3d.direct.training_record import TrainingRecord
from instant3d.evaluation.attribute_classifier import AttributeClassifier, Prediction
from instant3d.evaluation.evaluated_assets import FRONT, NEW_AZIMUTHS_DEG, SIZE, EvaluatedAsset
from instant3d.modules import clip
from instant3d.utils import atomic, visualization
from instant3d.utils.errors import print_escaped
from instant3d.utils.visualization import Row

CLIP_SIZE = 224  # of the renders for a CLIP
ACROSS, MOST_SHOWN = 10, 100  # images on the sheet
IMAGE_SETS = ("renders", "views")  # of the final asset, and the views of stage 1

Score = dict[str, float]


def evaluate(
    results: Mapping[str, Iterator[EvaluatedAsset]],
    output: Path,
    *,
    judge: AttributeClassifier | None,
    clips: Mapping[str, Callable[[], clip.ClipModel]],
    settings: Mapping[str, Any],
    trained: Collection[str] | None = None,
    training_record: TrainingRecord | None = None,
) -> dict[str, Any]:
    """Evaluate the assets of each list of prompts; write metrics.json, table.md and sheet.png into `output`.

    Args:
        results: Assets by name of the list.
        output: Folder for the files.
        judge: Attribute classifier; left out if None.
        clips: Loaders of CLIP models by name.
        settings: Settings of the run, for the report.
        trained: Names of the lists used in training, if known. CLIP retrieval then searches the prompts of all lists,
            as in the paper of the direct system, and is reported for each list.
        training_record: Training cost of the direct system, for the report.

    Returns:
        The report, as in metrics.json.
    """
    report: dict[str, Any] = {"instant3d": __version__, "settings": dict(settings), "lists": {}}
    if training_record is not None:
        report["taught"] = training_record.as_dict()
    everything: dict[str, list[EvaluatedAsset]] = {}
    for name, some in results.items():
        start = time.perf_counter()
        everything[name] = list(some)
        report["lists"][name] = {"seconds": round(time.perf_counter() - start, 1)}
        if trained is not None:
            report["lists"][name]["trained"] = name in trained
    everyone = [result.request.prompt for some in everything.values() for result in some]
    others = [] if trained is None else everyone
    sheets: list[tuple[EvaluatedAsset, str]] = []
    for name, items in everything.items():
        if judge is not None:
            report["lists"][name] |= classifier_metrics(judge, items)
            sheets += [(item, row["says"]) for item, row in zip(items, report["lists"][name]["rows"], strict=True)]
        else:
            sheets += [(item, "") for item in items]
    for model, load in clips.items():
        loaded = load()  # one at a time: the largest takes 10 GB
        for name, items in everything.items():
            report["lists"][name].setdefault("clip", {})[model] = _clip_numbers(loaded, items, others)
    text = table(report)
    with atomic.merged(output) as partial:
        (partial / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
        (partial / "table.md").write_text(text)
        visualization.write_contact_sheet(_sheet(sheets[:MOST_SHOWN]), partial / "sheet.png")
    print_escaped(text.rstrip("\n"))
    return report


def classifier_metrics(judge: AttributeClassifier, results: Sequence[EvaluatedAsset]) -> dict[str, Any]:
    """Accuracy by the attribute classifier: of assets (mean log-probability over images) and of single images."""
    rows: list[dict[str, Any]] = []
    scores: dict[str, list[Score]] = {image_set: [] for image_set in IMAGE_SETS}
    confusions = {kind: Counter[tuple[str, str]]() for kind in ("colour", "object")}
    for result in results:
        row: dict[str, Any] = {"prompt": result.request.prompt, "seed": result.request.seed, "seconds": result.seconds}
        for image_set in IMAGE_SETS:
            images = getattr(result, image_set)
            if images is not None:
                prediction = _predict(judge, images)
                row[image_set] = score(judge, result.request.prompt, prediction) | {
                    "sees": predicted_names(judge, prediction)
                }
                scores[image_set].append({key: float(value) for key, value in row[image_set].items() if key != "sees"})
        target = judge.target(result.request.prompt)
        colour, thing = row["renders"]["sees"]
        confusions["colour"][judge.colours[target.colour], colour] += 1
        confusions["object"][judge.objects[target.object], thing] += 1
        right = row["renders"]["colour"] and row["renders"]["object"]
        rows.append(row | {"says": "right" if right else f"{colour} {thing}?"})
    return {
        "assets": len(rows),
        **{image_set: _mean(scores[image_set]) for image_set in IMAGE_SETS if scores[image_set]},
        "confusions": {kind: _mistakes(pairs) for kind, pairs in confusions.items()},
        "rows": rows,
    }


def score(judge: AttributeClassifier, prompt: str, prediction: Prediction) -> Score:
    """Compare a prediction for an asset with its prompt.

    Args:
        judge: The classifier, for its classes.
        prompt: A prompt such as "a red fire hydrant".
        prediction: Log-probabilities for images (V,) of the asset.

    Returns:
        For colour, object and both, 1 if the images together are right and else 0; for colour and object, the share of
        single images that are right.

    Raises:
        ValueError: The prompt's colour or object is not among the classes.
    """
    target, whole = judge.target(prompt), prediction.mean_over_views()
    colour, thing = (whole.colour.argmax(-1) == target.colour).item(), (whole.object.argmax(-1) == target.object).item()
    return {
        "colour": float(colour),
        "object": float(thing),
        "both": float(colour and thing),
        "colour_per_picture": (prediction.colour.argmax(-1) == target.colour).double().mean().item(),
        "object_per_picture": (prediction.object.argmax(-1) == target.object).double().mean().item(),
    }


def predicted_names(judge: AttributeClassifier, prediction: Prediction) -> tuple[str, str]:
    """Colour and object predicted from the images (V,) together."""
    whole = prediction.mean_over_views()
    return judge.colours[int(whole.colour.argmax(-1))], judge.objects[int(whole.object.argmax(-1))]


def table(report: Mapping[str, Any]) -> str:
    """The report as Markdown, in percent except for CLIP scores and probabilities."""
    lines = []
    if "taught" in report:
        record = report["taught"]
        lines += [
            "",
            f"trained by {record['steps']:,} steps of {record['batch']:,} images for {record['prompts']:,} prompts: "
            f"{record['views_per_prompt']:,.0f} views per prompt",
        ]
    for name, numbers in report["lists"].items():
        heading = name
        if "trained" in numbers:
            heading += " (trained on)" if numbers["trained"] else " (held out)"
        if "renders" in numbers:
            lines += [
                "",
                f"| {heading}, {numbers['assets']} assets | colour | object | both | colour, per image | object |",
            ]
            lines += ["|---|---|---|---|---|---|"]
            for image_set, words in (
                ("renders", "renders of the asset, new cameras"),
                ("views", "the four views given"),
            ):
                if image_set in numbers:
                    lines += [
                        "| " + " | ".join([words, *(f"{100 * v:.1f}" for v in numbers[image_set].values())]) + " |"
                    ]
        if "clip" in numbers:
            among = next(iter(numbers["clip"].values()))["among"]
            lines += [
                "",
                f"| {heading}, by | CLIP score | R-Precision@1 of {among:,} | AP | retrieval probability |",
                "|---|---|---|---|---|",
            ]
            for model, values in numbers["clip"].items():
                shown = (values[k] for k in ("clip_score", "r_precision", "average_precision"))
                cells = [model, *(f"{value:.2f}" for value in shown), f"{values['retrieval_probability']:.4f}"]
                lines += ["| " + " | ".join(cells) + " |"]
    return "\n".join(lines[1:]) + "\n"


@torch.no_grad()
def _predict(judge: AttributeClassifier, images: Tensor) -> Prediction:
    return judge(images)


def _clip_numbers(model: clip.ClipModel, results: Sequence[EvaluatedAsset], others: Sequence[str]) -> dict[str, float]:
    """CLIP metrics of the renders; several assets of one prompt count as more views of it.

    Args:
        model: The CLIP model.
        results: Assets.
        others: Prompts for retrieval, beside those of the results.
    """
    images: dict[str, list[Tensor]] = {}
    for result in results:
        images.setdefault(result.request.prompt, []).append(result.renders)
    return clip.clip_metrics(model, torch.stack([torch.cat(some) for some in images.values()]), list(images), others)


def _mean(scores: Sequence[Score]) -> Score:
    return {key: sum(one[key] for one in scores) / len(scores) for key in scores[0]}


def _mistakes(pairs: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """Wrong predictions, the most frequent first."""
    wrong = [{"asked": asked, "seen": found, "times": times} for (asked, found), times in pairs.most_common()]
    return [one for one in wrong if one["asked"] != one["seen"]]


def _sheet(shown: Sequence[tuple[EvaluatedAsset, str]]) -> list[Row]:
    """Rows of ten assets: the first view of each, and the asset from a new camera (without views, from two)."""
    rows = []
    for k in range(0, len(shown), ACROSS):
        results, says = zip(*shown[k : k + ACROSS], strict=True)
        if all(result.views is None for result in results):
            title, first = "the asset from the front", [result.renders[FRONT] for result in results]
        else:
            title, first = (
                "as given to stage 2",
                [torch.ones(3, SIZE, SIZE) if r.views is None else r.views[0] for r in results],
            )
        images = torch.stack([_sized(image) for image in first])
        anew = torch.stack([_sized(result.renders[len(NEW_AZIMUTHS_DEG)]) for result in results])
        rows.append(Row(title, images, [result.request.prompt for result in results]))
        rows.append(Row("the asset from a new camera", anew, says))
    return rows


def _sized(image: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(image[None], (SIZE, SIZE), mode="bilinear", antialias=True)[0]
