"""Stage A's experiment with guidance by a trained diffusion model: `python -m benchmarks.direct.stage_b -o OUT`.

A small diffusion model is trained on images of the 128 objects, without the 32 held-out pairs of colours ("apart") or
with them ("whole"), and is used only if its samples match their prompts. Networks are trained by its scores (sds), by a
small contrastive model trained on the same images (clip), or by both; guidance "apart" also trains two of Stage A's
networks by its scores, one with cross-attention only and one without text. They are evaluated by a classifier and a
contrastive model of other seeds and architectures, which were trained on all 128 objects. These models are trained once
and kept in OUT/models: `--prepare` trains only them, which is necessary before several processes share the runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.direct import judges, painter, stage_a
from benchmarks.direct.album import Album, kept, numbered
from benchmarks.direct.course import Course, Run, carry_out, shown, student, teach, usual_options
from benchmarks.direct.judges import ATTRIBUTES, Attributes, Matcher
from benchmarks.direct.painter import Painter
from benchmarks.direct.world import World, read
from instant3d.direct.distillation import Distillation, DistillationBatch
from instant3d.direct.network import TextToTriplane
from instant3d.direct.view_prompts import VIEWS

GUIDES = ("apart", "whole")
LOSSES = ("sds", "clip", "both")
PARTIAL = ("cross-attention only", "no text")
ARMS = (*(f"{guide} {loss}" for guide in GUIDES for loss in LOSSES), *(f"apart sds, {part}" for part in PARTIAL))
CLIP_WEIGHT = 120.0  # 0.1 of a score's loss that is a mean over the 1,200 numbers of an image, not a sum


@dataclass(frozen=True)
class Study:
    """Folder and training lengths of the models; `gate` is the accuracy required of a diffusion model."""

    folder: Path
    painter_steps: int = 4000
    judge_steps: int = 1000
    gate: float = 0.95


@cache
def world() -> World:
    return World.of_hats()


@cache
def album() -> Album:
    return Album(world())


def taught(guide: str) -> list[int]:
    """Indices of the kinds that a diffusion model is trained on."""
    return world().seen if guide == "apart" else list(range(len(world().kinds)))


def painter_of(study: Study, guide: str) -> Painter:
    steps, numbers = study.painter_steps, taught(guide)
    file = study.folder / f"painter-{guide}.safetensors"
    return kept(Painter(), file, lambda model: painter.learn(model, album(), world().prompts, numbers, steps, 1))


def eyes_of(study: Study, guide: str) -> Matcher:
    """The contrastive model used in training."""
    steps, numbers = study.judge_steps, taught(guide)
    file = study.folder / f"eyes-{guide}.safetensors"
    return kept(
        Matcher("strided", 2),
        file,
        lambda model: judges.learn_matching(model, album(), world().prompts, numbers, steps, 2),
    )


def judging(study: Study) -> Matcher:
    """The contrastive model used in evaluation."""
    steps, numbers = study.judge_steps, range(len(world().kinds))
    file = study.folder / "judge-words.safetensors"
    return kept(
        Matcher("pooled", 3),
        file,
        lambda model: judges.learn_matching(model, album(), world().prompts, numbers, steps, 3),
    )


def classifier(study: Study, purpose: str) -> Attributes:
    """A classifier of the diffusion models' samples ("gate"), or of the trained networks' renders ("judge")."""
    build, seed = ("pooled", 4) if purpose == "gate" else ("strided", 5)
    file = study.folder / f"{purpose}-attributes.safetensors"
    return kept(
        Attributes(build, seed),  # type: ignore[arg-type]
        file,
        lambda model: judges.learn_attributes(model, album(), world().kinds, study.judge_steps, seed),
    )


def examined(study: Study, guide: str) -> dict[str, dict[str, float]]:
    """Accuracy of a diffusion model's samples for training and held-out prompts; written once."""
    file = study.folder / f"gate-{guide}.json"
    if not file.is_file():
        model, judge, generator = painter_of(study, guide), classifier(study, "gate"), torch.Generator().manual_seed(6)
        found = {"truth": judge.shares_right(world().pictures[:, ::4], world().kinds)}
        for name, numbers in (("seen", world().seen), ("unseen", world().unseen)):
            asked = [f"{world().prompts[number]}, {view}" for number in numbers for view in VIEWS]
            pictures = painter.paint(model, asked, generator).unflatten(0, (len(numbers), len(VIEWS)))
            found[name] = judge.shares_right(pictures, [world().kinds[number] for number in numbers])
        file.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(file.read_text())


def admitted(study: Study, guide: str) -> dict[str, dict[str, float]]:
    """The same, with an error if the accuracy is below the gate."""
    found = examined(study, guide)
    shown_to_it = ("seen",) if guide == "apart" else ("seen", "unseen")
    worst = min(found[name][attribute] for name in shown_to_it for attribute in ATTRIBUTES)
    if worst < study.gate:
        raise ValueError(
            f"guidance {guide!r} has an attribute right in {worst:.2f} of its samples, but {study.gate} is required; "
            f"remove {study.folder} and train it longer (--painter-steps)"
        )
    return found


class ClipAlone(Distillation):
    """Training without the scores of the diffusion model."""

    def sds_loss(
        self, batch: DistillationBatch, images: Tensor, seen: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return images.new_zeros(())


def run(arm: str, seed: int, course: Course, study: Study) -> dict[str, Any]:
    """Train one network with one diffusion model and one loss."""
    taught_by, _, part = arm.partition(", ")
    guide, loss = taught_by.split()
    gate, eyes, numbers = admitted(study, guide), eyes_of(study, guide), world().seen
    prompts = [world().prompts[number] for number in numbers]
    weight = 0.0 if loss == "sds" else CLIP_WEIGHT
    lessons = (ClipAlone if loss == "clip" else Distillation)(
        student(seed, **stage_a.ARMS[part or "all"]),
        painter_of(study, guide),
        prompts,
        read(prompts),
        sds_config=replace(course.sds_config, clip=weight),
        render_config=course.render_config,
        image_encoder=eyes if weight else None,
        text_features=eyes.read(numbered(prompts)) if weight else None,
    )
    test = partial(judged, study=study, guide=guide, course=course)

    def together(losses: dict[str, Tensor]) -> Tensor:
        return losses["sds"] + weight * losses["clip"] if weight else losses["sds"]

    return {"gate": gate, "curve": teach(lessons, world(), numbers, course, seed, test, together)}


def judged(network: TextToTriplane, step: int, *, study: Study, guide: str, course: Course) -> dict[str, Any]:
    """Stage A's marks, and controls at the end; what the classifier and the judge say, and the eyes that taught."""
    all_prompts = world().prompts
    pictures = shown(network, world(), all_prompts, course.render_config)
    said = stage_a.marks(pictures, world())
    for name, numbers in (("seen", world().seen), ("unseen", world().unseen)):
        some = pictures[numbers]
        said[name] |= {
            "attributes": classifier(study, "judge").shares_right(some, [world().kinds[k] for k in numbers]),
            "judge": judging(study).retrieval(some, all_prompts, numbers),
            "eyes": eyes_of(study, guide).retrieval(some, all_prompts, numbers),
        }
    return said | (stage_a.controls(network, world(), course) if step == course.steps else {})


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    study = Study(options.output / "models", options.painter_steps, options.judge_steps, options.gate)
    if options.prepare:
        torch.set_num_threads(1)
        judging(study), classifier(study, "judge")
        for guide in GUIDES:
            eyes_of(study, guide)
            print(guide, json.dumps(examined(study, guide)))
        return
    course = Course(steps=options.steps, tests=(options.steps // 2, options.steps))
    runs = [Run(arm, seed, partial(run, arm, seed, course, study)) for seed in options.seeds for arm in options.arms]
    for found in carry_out(runs, options.output, options.part):
        last = found["curve"][-1]
        known = "  ".join(f"{name} {last[name]['attributes']['all']:.2f}" for name in ("seen", "unseen"))
        print(f"{found['arm']:31} seed {found['seed']}  {known}")


def parser() -> argparse.ArgumentParser:
    parser = usual_options("stage_b", __doc__, ARMS, steps=1000)
    parser.add_argument("--prepare", action="store_true", help="make the guides and judges, and say what they can")
    parser.add_argument("--painter-steps", type=int, default=Study.painter_steps)
    parser.add_argument("--judge-steps", type=int, default=Study.judge_steps)
    parser.add_argument("--gate", type=float, default=Study.gate, help="least accuracy of attributes in samples")
    return parser


if __name__ == "__main__":
    main()
