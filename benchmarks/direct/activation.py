"""Recovery of colours from saturation, by activation: `python -m benchmarks.direct.activation -o OUT`.

Training starts with +6 in the bias of all colours, where a sigmoid's slope is a hundredth of its steepest and every
object is white on white. Twelve prompts, exact guidance. A network has recovered at the first test at which its squared
error is below a quarter of blank images'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.direct.course import AROUND, Course, Run, carry_out, set_alpha, shown, student, teach, usual_options
from benchmarks.direct.world import World, read
from instant3d.direct.distillation import Distillation
from instant3d.direct.network import TextToTriplane
from instant3d.nerf.triplane import Decoder

SATURATED = 6.0
RECOVERED = 0.25  # of the squared error of blank images
EVERY = 25  # steps between tests
STRIDE = 8  # of the 96 prompts that the world shows, each eighth
DECAY = 0.9  # of the averaged weights: a longer memory would hide when it is that colours come back


@dataclass(frozen=True)
class Head:
    """The activation of colours: first and last alpha of the scaled sigmoid, or linear."""

    alpha: tuple[float, float] = (1.0, 1.0)
    linear: bool = False
    start: float = SATURATED


ARMS: dict[str, Head] = {
    "scaled": Head((0.5, 1.0)),
    "sigmoid": Head(),
    "linear": Head(linear=True),
    "scaled, even start": Head((0.5, 1.0), start=0.0),
    "sigmoid, even start": Head(start=0.0),
    "linear, even start": Head(linear=True, start=0.0),
}


class LinearDecoder(Decoder):
    """Colours are x / 2 + 1 / 2, without bounds, as they are in training in the paper's released code."""

    def to_rgb(self, raw: Tensor) -> Tensor:
        return 0.5 * raw.float() + 0.5


def pupil(head: Head, seed: int) -> TextToTriplane:
    """The tiny network with this head, its colours' bias where the arm starts."""
    network = student(seed)
    if head.linear:
        network.decoder.__class__ = LinearDecoder  # the same weights, for no draw is to differ between arms
    set_alpha(network, head.alpha[0])
    with torch.no_grad():
        network.decoder.last.bias[1:] = head.start
    return network


def run(arm: str, seed: int, course: Course) -> dict[str, Any]:
    """Train one network; returns the squared error of its images at each test."""
    head, world = ARMS[arm], World.of_hats()
    numbers = world.seen[::STRIDE]
    prompts = [world.prompts[number] for number in numbers]
    truth = world.pictures[numbers][:, list(AROUND)]
    course = replace(course, alpha=head.alpha, decay=DECAY)
    network = pupil(head, seed)
    lessons = Distillation(
        network,
        world.guide(numbers),
        prompts,
        read(prompts),
        sds_config=course.sds_config,
        render_config=course.render_config,
    )

    def test(average: TextToTriplane, step: int) -> dict[str, Any]:
        error = (shown(average, world, prompts, course.render_config) - truth).square().mean().item()
        return {"squared_error": error}

    blank = (1 - truth).square().mean().item()
    start = test(network.eval(), 0)
    curve = teach(lessons, world, numbers, course, seed, test)
    return {
        "blank": blank,
        "start": start["squared_error"],
        "bound": RECOVERED * blank,
        "recovered": first_below(curve, RECOVERED * blank),
        "curve": curve,
    }


def first_below(curve: Sequence[dict[str, Any]], bound: float) -> int | None:
    """The first tested step at which the squared error is below the bound; none if it never is."""
    return next((said["step"] for said in curve if said["squared_error"] < bound), None)


def main(arguments: Sequence[str] | None = None) -> None:
    options = usual_options("activation", __doc__, ARMS, steps=600).parse_args(arguments)
    every = min(EVERY, options.steps)
    course = Course(steps=options.steps, tests=tuple(range(every, options.steps + 1, every)))
    runs = [Run(arm, seed, partial(run, arm, seed, course)) for seed in options.seeds for arm in options.arms]
    for found in carry_out(runs, options.output, options.part):
        last = found["curve"][-1]["squared_error"]
        print(f"{found['arm']:20} seed {found['seed']}  recovered at {found['recovered']}, last error {last:.4f}")


if __name__ == "__main__":
    main()
