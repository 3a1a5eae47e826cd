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

from benchmarks.direct import diffusion_model, evaluation_models, stage_a
from benchmarks.direct.dataset import ViewDataset, load_or_train, tokenize
from benchmarks.direct.diffusion_model import SmallDiffusionModel
from benchmarks.direct.evaluation_models import ATTRIBUTES, Attributes, Matcher
from benchmarks.direct.training import (
    Run,
    TrainingSettings,
    common_options,
    execute,
    render_prompts,
    small_network,
    train,
)
from benchmarks.direct.world import World, embed_words
from instant3d.direct.distillation import Distillation, DistillationBatch
from instant3d.direct.network import TextToTriplane
from instant3d.direct.view_prompts import VIEWS

GUIDANCE = ("apart", "whole")
LOSSES = ("sds", "clip", "both")
PARTIAL = ("cross-attention only", "no text")
ARMS = (
    *(f"{guidance} {loss}" for guidance in GUIDANCE for loss in LOSSES),
    *(f"apart sds, {part}" for part in PARTIAL),
)
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
def dataset() -> ViewDataset:
    return ViewDataset(world())


def training_kinds(guidance: str) -> list[int]:
    """Indices of the kinds that a diffusion model is trained on."""
    return world().seen if guidance == "apart" else list(range(len(world().kinds)))


def diffusion_model_of(study: Study, guidance: str) -> SmallDiffusionModel:
    steps, numbers = study.painter_steps, training_kinds(guidance)
    file = study.folder / f"painter-{guidance}.safetensors"
    return load_or_train(
        SmallDiffusionModel(),
        file,
        lambda model: diffusion_model.train(model, dataset(), world().prompts, numbers, steps, 1),
    )


def training_clip(study: Study, guidance: str) -> Matcher:
    """The contrastive model used in training."""
    steps, numbers = study.judge_steps, training_kinds(guidance)
    file = study.folder / f"eyes-{guidance}.safetensors"
    return load_or_train(
        Matcher("strided", 2),
        file,
        lambda model: evaluation_models.train_matching(model, dataset(), world().prompts, numbers, steps, 2),
    )


def evaluation_clip(study: Study) -> Matcher:
    """The contrastive model used in evaluation."""
    steps, numbers = study.judge_steps, range(len(world().kinds))
    file = study.folder / "judge-words.safetensors"
    return load_or_train(
        Matcher("pooled", 3),
        file,
        lambda model: evaluation_models.train_matching(model, dataset(), world().prompts, numbers, steps, 3),
    )


def classifier(study: Study, purpose: str) -> Attributes:
    """A classifier of the diffusion models' samples ("gate"), or of the trained networks' renders ("judge")."""
    build, seed = ("pooled", 4) if purpose == "gate" else ("strided", 5)
    file = study.folder / f"{purpose}-attributes.safetensors"
    return load_or_train(
        Attributes(build, seed),  # type: ignore[arg-type]
        file,
        lambda model: evaluation_models.train_attributes(model, dataset(), world().kinds, study.judge_steps, seed),
    )


def sample_accuracy(study: Study, guidance: str) -> dict[str, dict[str, float]]:
    """Accuracy of a diffusion model's samples for training and held-out prompts; written once."""
    file = study.folder / f"gate-{guidance}.json"
    if not file.is_file():
        model, judge, generator = (
            diffusion_model_of(study, guidance),
            classifier(study, "gate"),
            torch.Generator().manual_seed(6),
        )
        found = {"truth": judge.shares_right(world().images[:, ::4], world().kinds)}
        for name, numbers in (("seen", world().seen), ("unseen", world().unseen)):
            prompts = [f"{world().prompts[number]}, {view}" for number in numbers for view in VIEWS]
            images = diffusion_model.sample(model, prompts, generator).unflatten(0, (len(numbers), len(VIEWS)))
            found[name] = judge.shares_right(images, [world().kinds[number] for number in numbers])
        file.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(file.read_text())


def require_accuracy(study: Study, guidance: str) -> dict[str, dict[str, float]]:
    """The same, with an error if the accuracy is below the gate."""
    found = sample_accuracy(study, guidance)
    trained_on = ("seen",) if guidance == "apart" else ("seen", "unseen")
    worst = min(found[name][attribute] for name in trained_on for attribute in ATTRIBUTES)
    if worst < study.gate:
        raise ValueError(
            f"guidance {guidance!r} has an attribute right in {worst:.2f} of its samples, but {study.gate} is "
            f"required; remove {study.folder} and train it longer (--painter-steps)"
        )
    return found


class ClipAlone(Distillation):
    """Training without the scores of the diffusion model."""

    def sds_loss(
        self, batch: DistillationBatch, images: Tensor, seen: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return images.new_zeros(())


def run(arm: str, seed: int, settings: TrainingSettings, study: Study) -> dict[str, Any]:
    """Train one network with one diffusion model and one loss."""
    trained_by, _, part = arm.partition(", ")
    guidance, loss = trained_by.split()
    gate, clip, numbers = require_accuracy(study, guidance), training_clip(study, guidance), world().seen
    prompts = [world().prompts[number] for number in numbers]
    weight = 0.0 if loss == "sds" else CLIP_WEIGHT
    distillation = (ClipAlone if loss == "clip" else Distillation)(
        small_network(seed, **stage_a.ARMS[part or "all"]),
        diffusion_model_of(study, guidance),
        prompts,
        embed_words(prompts),
        sds_config=replace(settings.sds_config, clip=weight),
        render_config=settings.render_config,
        image_encoder=clip if weight else None,
        text_features=clip.encode_text(tokenize(prompts)) if weight else None,
    )
    test = partial(evaluate, study=study, guidance=guidance, settings=settings)

    def together(losses: dict[str, Tensor]) -> Tensor:
        return losses["sds"] + weight * losses["clip"] if weight else losses["sds"]

    return {"gate": gate, "curve": train(distillation, world(), numbers, settings, seed, test, together)}


def evaluate(
    network: TextToTriplane, step: int, *, study: Study, guidance: str, settings: TrainingSettings
) -> dict[str, Any]:
    """Scores of Stage A (with its controls at the end), of the classifier and of both contrastive models."""
    all_prompts = world().prompts
    images = render_prompts(network, world(), all_prompts, settings.render_config)
    found = stage_a.scores(images, world())
    for name, numbers in (("seen", world().seen), ("unseen", world().unseen)):
        some = images[numbers]
        found[name] |= {
            "attributes": classifier(study, "judge").shares_right(some, [world().kinds[k] for k in numbers]),
            "judge": evaluation_clip(study).retrieval(some, all_prompts, numbers),
            "eyes": training_clip(study, guidance).retrieval(some, all_prompts, numbers),
        }
    return found | (stage_a.controls(network, world(), settings) if step == settings.steps else {})


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    study = Study(options.output / "models", options.painter_steps, options.judge_steps, options.gate)
    if options.prepare:
        torch.set_num_threads(1)
        evaluation_clip(study), classifier(study, "judge")
        for guidance in GUIDANCE:
            training_clip(study, guidance)
            print(guidance, json.dumps(sample_accuracy(study, guidance)))
        return
    settings = TrainingSettings(steps=options.steps, tests=(options.steps // 2, options.steps))
    runs = [Run(arm, seed, partial(run, arm, seed, settings, study)) for seed in options.seeds for arm in options.arms]
    for found in execute(runs, options.output, options.part):
        last = found["curve"][-1]
        known = "  ".join(f"{name} {last[name]['attributes']['all']:.2f}" for name in ("seen", "unseen"))
        print(f"{found['arm']:31} seed {found['seed']}  {known}")


def parser() -> argparse.ArgumentParser:
    parser = common_options("stage_b", __doc__, ARMS, steps=1000)
    parser.add_argument(
        "--prepare", action="store_true", help="train the diffusion and evaluation models, and print their accuracy"
    )
    parser.add_argument("--painter-steps", type=int, default=Study.painter_steps)
    parser.add_argument("--judge-steps", type=int, default=Study.judge_steps)
    parser.add_argument("--gate", type=float, default=Study.gate, help="least accuracy of attributes in samples")
    return parser


if __name__ == "__main__":
    main()
