"""The contribution of each mechanism of the network, with exact guidance: `python -m benchmarks.direct.stage_a -o OUT`.

128 prompts "a COLOUR SHAPE with a COLOUR hat", 32 of which (pairs of colours) are held out. A prompt is recalled
if, of the true images of all 128 objects, its own are nearest to the network's (chance 1/128).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    nearest,
    recall,
    render_prompts,
    small_network,
    train,
)
from benchmarks.direct.world import COLOURS, World, embed_words
from instant3d.direct.distillation import Distillation
from instant3d.direct.network import TextToTriplane

MECHANISMS = ("cross_attention", "style_text", "token_to_plane")
ARMS: dict[str, dict[str, Any]] = {
    "all": {},
    "no cross-attention": {"cross_attention": False},
    "no style text": {"style_text": False},
    "no token-to-plane": {"token_to_plane": False},
    "cross-attention only": {"style_text": False, "token_to_plane": False},
    "style text only": {"cross_attention": False, "token_to_plane": False},
    "token-to-plane only": {"cross_attention": False, "style_text": False},
    "no text": dict.fromkeys(MECHANISMS, False),
    "all, no noise": {"style_noise": False},
    "cross-attention only, no noise": {"style_text": False, "token_to_plane": False, "style_noise": False},
}


def run(arm: str, seed: int, settings: TrainingSettings) -> dict[str, Any]:
    """Train one network; returns its recall at each test, and the controls at the last."""
    world = World.of_hats()
    network = small_network(seed, **ARMS[arm])
    prompts = [world.prompts[number] for number in world.seen]
    distillation = Distillation(
        network,
        world.guidance(world.seen),
        prompts,
        embed_words(prompts),
        sds_config=settings.sds_config,
        render_config=settings.render_config,
    )

    def test(average: TextToTriplane, step: int) -> dict[str, Any]:
        found = evaluate(average, world, settings)
        return found | (controls(average, world, settings) if step == settings.steps else {})

    count = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": count, "curve": train(distillation, world, world.seen, settings, seed, test)}


def truth(world: World) -> Tensor:
    return world.images[:, list(SIDES)]


def evaluate(network: TextToTriplane, world: World, settings: TrainingSettings) -> dict[str, Any]:
    """Recall of the training prompts and of the held-out ones."""
    return scores(render_prompts(network, world, world.prompts, settings.render_config), world)


def scores(images: Tensor, world: World) -> dict[str, Any]:
    """The same of its images of all prompts, (K, 4, 3, size, size)."""
    found = nearest(images, truth(world))
    error = (images - truth(world)).square().flatten(1).mean(1)
    return {
        name: recall(world, found[numbers], numbers) | {"squared_error": error[numbers].mean().item()}
        for name, numbers in (("seen", world.seen), ("unseen", world.unseen))
    }


def controls(network: TextToTriplane, world: World, settings: TrainingSettings) -> dict[str, Any]:
    """Controls: each prompt replaced by its neighbour; another colour of the hat, which should change only the hat."""
    numbers = list(range(len(world.kinds)))
    others = [(number + 9) % len(numbers) for number in numbers]  # another body, hat and sometimes shape
    wrong = nearest(
        render_prompts(network, world, [world.prompts[k] for k in others], settings.render_config), truth(world)
    )
    return {"shuffled": recall(world, wrong, numbers), "swapped": swap(network, world, settings)}


def swap(network: TextToTriplane, world: World, settings: TrainingSettings) -> dict[str, float]:
    """Change only the word of the hat's colour: colour of hat and body regions before and after, over all prompts."""
    names = list(COLOURS)
    kinds = [replace(kind, hat=names[(names.index(kind.hat) + 1) % len(names)]) for kind in world.kinds]
    before = render_prompts(network, world, world.prompts, settings.render_config)
    after = render_prompts(network, world, [kind.prompt for kind in kinds], settings.render_config)
    pairs = [(k, world.kinds.index(kind)) for k, kind in enumerate(kinds)]
    moved, flipped = [], []
    for first, second in pairs:
        was, will = truth(world)[first], truth(world)[second]
        hat = (was - will).abs().amax(1, keepdim=True) > 0.15  # pixels whose true colour the word changes
        ground = (was > 0.98).all(1, keepdim=True) & (will > 0.98).all(1, keepdim=True)
        body = ~hat & ~ground
        moved.append(((after[first] - before[first]).abs() * body).sum() / (3 * body.sum()))
        mean = (after[first] * hat).sum((0, 2, 3)) / hat.sum()
        old, new = (torch.tensor(COLOURS[world.kinds[k].hat]) for k in (first, second))
        flipped.append(((mean - new).norm() < (mean - old).norm()).float())
    return {"body_moved": torch.stack(moved).mean().item(), "hat_flipped": torch.stack(flipped).mean().item()}


def main(arguments: Sequence[str] | None = None) -> None:
    options = common_options("stage_a", __doc__, ARMS, steps=1000).parse_args(arguments)
    settings = TrainingSettings(steps=options.steps, tests=(options.steps // 2, options.steps))
    runs = [Run(arm, seed, partial(run, arm, seed, settings)) for seed in options.seeds for arm in options.arms]
    for found in execute(runs, options.output, options.part):
        last = found["curve"][-1]
        known = "  ".join(f"{name} {last[name]['recall']:.2f}" for name in ("seen", "unseen"))
        print(f"{found['arm']:32} seed {found['seed']}  {known}")


if __name__ == "__main__":
    main()
