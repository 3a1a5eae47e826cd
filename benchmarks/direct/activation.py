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

from benchmarks.direct.training import (
    SIDES,
    Run,
    TrainingSettings,
    common_options,
    execute,
    render_prompts,
    set_alpha,
    small_network,
    train,
)
from benchmarks.direct.world import World, embed_words
from instant3d.direct.distillation import Distillation
from instant3d.direct.network import TextToTriplane
from instant3d.nerf.triplane import Decoder

SATURATED = 6.0
RECOVERED = 0.25  # of the squared error of blank images
EVERY = 25  # steps between tests
STRIDE = 8  # of the 96 training prompts of the world, each eighth
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


def saturated_network(head: Head, seed: int) -> TextToTriplane:
    """The tiny network with this head, its colours' bias where the arm starts."""
    network = small_network(seed)
    if head.linear:
        network.decoder.__class__ = LinearDecoder  # the same weights, for no random number is to differ between arms
    set_alpha(network, head.alpha[0])
    with torch.no_grad():
        network.decoder.last.bias[1:] = head.start
    return network


def run(arm: str, seed: int, settings: TrainingSettings) -> dict[str, Any]:
    """Train one network; returns the squared error of its images at each test."""
    head, world = ARMS[arm], World.of_hats()
    numbers = world.seen[::STRIDE]
    prompts = [world.prompts[number] for number in numbers]
    truth = world.images[numbers][:, list(SIDES)]
    settings = replace(settings, alpha=head.alpha, decay=DECAY)
    network = saturated_network(head, seed)
    distillation = Distillation(
        network,
        world.guidance(numbers),
        prompts,
        embed_words(prompts),
        sds_config=settings.sds_config,
        render_config=settings.render_config,
    )

    def test(average: TextToTriplane, step: int) -> dict[str, Any]:
        error = (render_prompts(average, world, prompts, settings.render_config) - truth).square().mean().item()
        return {"squared_error": error}

    blank = (1 - truth).square().mean().item()
    start = test(network.eval(), 0)
    curve = train(distillation, world, numbers, settings, seed, test)
    return {
        "blank": blank,
        "start": start["squared_error"],
        "bound": RECOVERED * blank,
        "recovered": first_below(curve, RECOVERED * blank),
        "curve": curve,
    }


def first_below(curve: Sequence[dict[str, Any]], bound: float) -> int | None:
    """The first tested step at which the squared error is below the bound; none if it never is."""
    return next((test["step"] for test in curve if test["squared_error"] < bound), None)


def main(arguments: Sequence[str] | None = None) -> None:
    options = common_options("activation", __doc__, ARMS, steps=600).parse_args(arguments)
    every = min(EVERY, options.steps)
    settings = TrainingSettings(steps=options.steps, tests=tuple(range(every, options.steps + 1, every)))
    runs = [Run(arm, seed, partial(run, arm, seed, settings)) for seed in options.seeds for arm in options.arms]
    for found in execute(runs, options.output, options.part):
        last = found["curve"][-1]["squared_error"]
        print(f"{found['arm']:20} seed {found['seed']}  recovered at {found['recovered']}, last error {last:.4f}")


if __name__ == "__main__":
    main()
