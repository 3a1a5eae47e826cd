"""Training one small network with one guidance model, and its recall of prompts."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.direct.world import World, embed_words
from instant3d.cameras import Cameras
from instant3d.direct.architecture import Architecture
from instant3d.direct.distillation import Distillation, DistillationBatch, RenderConfig, SDSConfig
from instant3d.direct.network import TextToTriplane
from instant3d.nerf.baked_field import keep_heap
from instant3d.nerf.volume import render
from instant3d.utils import atomic

TINY = Path(__file__).parents[2] / "configs" / "direct" / "tiny.yaml"
SIDES = (0, 4, 8, 12)  # numbers of the cameras of an evaluation: four sides


@dataclass(frozen=True)
class TrainingSettings:
    """Training settings, fixed before any ablation was run."""

    steps: int = 1000
    batch: int = 8
    rate: float = 1e-3
    clip: float = 1.0
    decay: float = 0.99  # of the averaged weights that are tested
    alpha: tuple[float, float] = (0.5, 1.0)
    alpha_share: float = 0.6  # of the steps over which alpha rises
    render_config: RenderConfig = field(default_factory=lambda: RenderConfig(20, 24, 0))
    sds_config: SDSConfig = field(default_factory=lambda: SDSConfig(scale=5.0, against="none"))
    tests: tuple[int, ...] = (250, 500, 750, 1000)


def small_network(seed: int, **changes: Any) -> TextToTriplane:
    """The tiny network of configs/direct/tiny.yaml, with other settings where they are named."""
    settings = yaml.safe_load(TINY.read_text())["model"]["architecture"]
    torch.manual_seed(seed)
    return TextToTriplane(Architecture(**(settings | changes)))


def train(
    distillation: Distillation,
    world: World,
    numbers: Sequence[int],
    settings: TrainingSettings,
    seed: int,
    test: Callable[[TextToTriplane, int], dict[str, Any]],
    terms: Callable[[dict[str, Tensor]], Tensor] = lambda losses: losses["sds"],
) -> list[dict[str, Any]]:
    """Train on prompts `numbers` of the world, and test averaged weights at the steps of the settings.

    test: Measures a network after a number of steps.
    """
    network = distillation.network
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.rate, betas=(0.9, 0.99), fused=True)
    generator = torch.Generator().manual_seed(1000 + seed)
    curve, since = [], time.process_time()
    for step in range(settings.steps):
        set_alpha(network, alpha_at(settings, step))
        batch = sample_batch(world, numbers, settings.batch, generator)
        losses, _ = distillation(batch, torch.ones(settings.batch, 3), generator)
        optimizer.zero_grad()
        terms(losses).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        update_average(average, network, min(settings.decay, (step + 1) / (step + 10)))
        if step + 1 in settings.tests:
            spent = time.process_time() - since
            views = (step + 1) * settings.batch / len(numbers)
            curve.append({"step": step + 1, "views_per_prompt": views, "seconds": spent} | test(average, step + 1))
    return curve


def sample_batch(world: World, numbers: Sequence[int], count: int, generator: torch.Generator) -> DistillationBatch:
    """Prompts, numbered by their place in `numbers`, and cameras of the world's."""
    prompts = torch.randint(len(numbers), (count,), generator=generator)
    return DistillationBatch(prompts, world.cameras[torch.randint(len(world.azimuths), (count,), generator=generator)])


def alpha_at(settings: TrainingSettings, step: int) -> float:
    low, high = settings.alpha
    return low + (high - low) * min(1.0, step / max(1.0, settings.alpha_share * settings.steps))


def set_alpha(network: TextToTriplane, alpha: float) -> None:
    if hasattr(network.decoder, "alpha"):
        network.decoder.alpha.fill_(alpha)


@torch.no_grad()
def update_average(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for slow, fast in zip(average.buffers(), network.buffers(), strict=True):
        slow.copy_(fast)


@torch.no_grad()
def render_prompts(
    network: TextToTriplane,
    world: World,
    prompts: Sequence[str],
    render_config: RenderConfig,
    at: Sequence[int] = SIDES,
) -> Tensor:
    """Render a network's objects for prompts from cameras number `at`: (P, len(at), 3, size, size), deterministic."""
    text, cameras = embed_words(prompts), world.cameras[list(at)]
    images = []
    for some in torch.arange(len(prompts)).split(8):
        views = render(
            network(text[some]),
            Cameras.stack([cameras] * len(some)),
            render_config.size,
            render_config.size,
            samples=render_config.samples,
            importance=render_config.importance,
        )
        images.append(views.composite(1.0).clamp(0, 1))
    return torch.cat(images)


def nearest(images: Tensor, truth: Tensor) -> Tensor:
    """Index (P,) of the true object (K, V, ...) nearest to each of the images (P, V, ...) by squared error."""
    return torch.cdist(images.flatten(1).double(), truth.flatten(1).double()).argmin(1)


def recall(world: World, found: Tensor, asked: Sequence[int]) -> dict[str, float]:
    """Shares of prompts whose nearest true object is the right one, and of right attributes."""
    kinds = [(world.kinds[int(a)], world.kinds[b]) for a, b in zip(found, asked, strict=True)]
    return {
        "recall": sum(a == b for a, b in kinds) / len(kinds),
        "body": sum(a.body == b.body for a, b in kinds) / len(kinds),
        "shape": sum(a.shape == b.shape for a, b in kinds) / len(kinds),
        "hat": sum(a.hat == b.hat for a, b in kinds) / len(kinds),
    }


@dataclass(frozen=True)
class Run:
    """One variant of an experiment with one seed."""

    arm: str
    seed: int
    work: Callable[[], dict[str, Any]]


def common_options(name: str, about: str | None, arms: Collection[str], steps: int) -> argparse.ArgumentParser:
    """Common options of the experiments' commands; `about` is the module's docstring."""
    assert about
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.direct.{name}", description=about.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for one file of results a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms), metavar="ARM")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--part", default="1/1", help="k/n: every n-th run from the k-th on")
    return parser


def execute(runs: Sequence[Run], output: Path, part: str = "1/1") -> Iterator[dict[str, Any]]:
    """Run what has no result in `output` yet, one file each, so that an interrupted experiment resumes.

    part  "k/n": only every n-th run, from the k-th on, for several processes side by side
    """
    torch.set_num_threads(1)
    keep_heap()
    first, every = (int(word) for word in part.split("/"))
    for run in list(runs)[first - 1 :: every]:
        file = output / f"{run.arm.replace(' ', '_')}-{run.seed}.json"
        if not file.is_file():
            since = time.monotonic()
            found = {"arm": run.arm, "seed": run.seed} | run.work()
            found["wall_seconds"] = time.monotonic() - since
            output.mkdir(parents=True, exist_ok=True)
            atomic.write_text(file, json.dumps(found, indent=1) + "\n")
            print(f"{file}: {found['wall_seconds']:.0f} s", file=sys.stderr, flush=True)
        yield json.loads(file.read_text())
