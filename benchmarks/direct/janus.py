"""Negative view prompts against Janus faces, with and without adaptive C: `python -m benchmarks.direct.janus -o OUT`.

Six boxes with a black face in front, in one network. For every second one, the diffusion model nearly always takes the
words for side and back for the front (a leak of 0.97); for the others never. So one fixed weight of the negatives is
too small for some or unnecessary for others, and an adaptive weight should do better.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.direct.training import (
    Run,
    TrainingSettings,
    common_options,
    execute,
    render_prompts,
    small_network,
    train,
)
from benchmarks.direct.world import COLOURS, World, embed_words
from instant3d.direct.distillation import Distillation, DistillationBatch
from instant3d.direct.network import TextToTriplane
from instant3d.direct.severity import TYPICAL_SIMILARITY, FeatureCache

LEAKS = {"leaky": 0.97, "sound": 0.0}
COARSE = 5  # pixels a side of the image features
FACING_DEG, AWAY_DEG = 45.0, 90.0  # cameras from which the face is visible, and from which it is not
RULE: dict[str, Any] = {"against": "perp-neg", "w_min": 1.0, "dw": 2.0}
ARMS: dict[str, dict[str, Any]] = {
    "none": {"against": "none", "dw": 0.0},
    "plain 2": {"against": "plain", "w_min": 2.0, "dw": 0.0},
    "perp-neg 1": {"against": "perp-neg", "w_min": 1.0, "dw": 0.0},
    "perp-neg 2": {"against": "perp-neg", "w_min": 2.0, "dw": 0.0},
    "perp-neg 3": {"against": "perp-neg", "w_min": 3.0, "dw": 0.0},
    "adaptive": RULE,
    "content-blind": RULE | {"similarity": "constant"},
    "random": RULE,
}


class ImageFeatures:
    """Image features: 5 x 5 pixels less those of the world's average image, enough for this data set.

    Without the average taken away all images are alike to 0.99; with it two sides of a box are alike to about 0.8 if
    one shows the face, and to 1 if neither or both do, as CLIP's features of real objects are (0.6 to 0.95).
    """

    def __init__(self, world: World) -> None:
        self.average = self._coarse(world.images.flatten(0, 1)).mean(0)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 75)."""
        return self._coarse(images) - self.average

    @staticmethod
    def _coarse(images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, COARSE).flatten(1)


class RecordingDistillation(Distillation):
    """Records every severity, and that of a rule without images.

    Attributes:
        permuted: Whether severities are permuted at random within the batch: the same numbers, of other views.
        typical: Similarity of views that a rule without an image encoder assumes.
    """

    def __init__(self, *arguments: Any, permuted: bool, typical: float, seed: int, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.permuted, self.typical = permuted, typical
        self.generator = torch.Generator().manual_seed(seed)
        self.notes: list[tuple[Tensor, Tensor, Tensor]] = []

    def severity(self, batch: DistillationBatch, direction: Tensor, seen: Tensor | None) -> Tensor:
        """C (B,) as `Distillation` has it, permuted if `permuted`."""
        twin = copy.copy(self)
        twin.feature_cache, twin.sds_config = (
            copy.deepcopy(self.feature_cache),
            replace(self.sds_config, similarity="constant"),
        )
        blind = Distillation.severity(twin, batch, direction, seen) * (1 + self.typical) / (1 + TYPICAL_SIMILARITY)
        found = super().severity(batch, direction, seen)
        if self.sds_config.similarity == "constant":
            found = blind
        if self.permuted:
            found = permute(found, self.generator)
        self.notes.append((batch.prompts, found, blind))
        return found

    def summary(self, leaky: Tensor) -> dict[str, float]:
        """Means of C over all, over leaky (P,) bool and over other prompts; its spread, and how much of it is angle."""
        if not self.sds_config.dw:
            return {}
        prompts, found, blind = (torch.cat(each) for each in zip(*self.notes, strict=True))
        some = blind > 0
        return {
            "mean": found.mean().item(),
            "leaky": found[leaky[prompts]].mean().item(),
            "sound": found[~leaky[prompts]].mean().item(),
            "deviation": found.std().item(),
            "by_angle": torch.corrcoef(torch.stack([found[some], blind[some]]))[0, 1].square().item(),
        }


def permute(severities: Tensor, generator: torch.Generator) -> Tensor:
    """The same severities (B,), each at another's place: the same mean and spread, none of its own view."""
    count = len(severities)
    return severities.roll(int(torch.randint(1, count, (), generator=generator))) if count > 1 else severities


def typical_similarity(world: World, image_encoder: ImageFeatures) -> float:
    """Mean similarity of two true images of one object."""
    seen = F.normalize(image_encoder(world.images.flatten(0, 1)), dim=-1).unflatten(0, world.images.shape[:2])
    return (seen @ seen.mT).mean().item()


def leaking(world: World) -> Tensor:
    """Mask of the prompts (P,) for which the guidance leaks."""
    return torch.arange(len(world.kinds)) % 2 == 0


def run(arm: str, seed: int, settings: TrainingSettings) -> dict[str, Any]:
    """Train one network with one rule; both groups of prompts are evaluated separately."""
    world, numbers = World.of_faces(), list(range(6))
    leaky, image_encoder = leaking(world), ImageFeatures(world)
    distillation = RecordingDistillation(
        small_network(seed),
        world.guidance(numbers, [LEAKS["leaky" if leaks else "sound"] for leaks in leaky]),
        world.prompts,
        embed_words(world.prompts),
        sds_config=replace(settings.sds_config, **ARMS[arm]),
        render_config=settings.render_config,
        image_encoder=image_encoder,
        feature_cache=FeatureCache(len(numbers), 3 * COARSE**2),
        permuted=arm == "random",
        typical=typical_similarity(world, image_encoder),
        seed=seed,
    )

    def test(average: TextToTriplane, step: int) -> dict[str, Any]:
        images = render_prompts(average, world, world.prompts, settings.render_config, range(len(world.azimuths)))
        return {
            name: faces(images[group], world, group.nonzero()[:, 0].tolist())
            for name, group in (("leaky", leaky), ("sound", ~leaky))
        }

    curve = train(distillation, world, numbers, settings, seed, test)
    return {"curve": curve, "severity": distillation.summary(leaky)}


def faces(images: Tensor, world: World, numbers: Sequence[int]) -> dict[str, float]:
    """Measures of faces in images (P, 32, 3, size, size) by all the world's cameras, of kinds number `numbers`.

    janus        share of cameras at the side and behind whose nearest true image is one from the front
    kept         share of cameras in front of which the same is true, as it should be
    dark_away    face-coloured pixels from the side and behind, relative to the true ones from the front
    dark_front   the same from the front
    """
    truth = world.images[list(numbers)]
    away, facing = world.azimuths.abs() >= AWAY_DEG, world.azimuths.abs() <= FACING_DEG
    apart = torch.cdist(images.flatten(2).double(), truth.flatten(2).double())
    as_front = facing[apart.argmin(-1)].double()
    dark = torch.stack([face_pixels(views, world, k) for views, k in zip(images, numbers, strict=True)])
    real = torch.stack([face_pixels(views, world, k) for views, k in zip(truth, numbers, strict=True)])
    return {
        "janus": as_front[:, away].mean().item(),
        "kept": as_front[:, facing].mean().item(),
        "dark_away": (dark[:, away].mean() / real[:, facing].mean()).item(),
        "dark_front": (dark[:, facing].mean() / real[:, facing].mean()).item(),
        "squared_error": (images - truth).square().mean().item(),
    }


def face_pixels(views: Tensor, world: World, number: int) -> Tensor:
    """Number (V,) of pixels of views (V, 3, H, W) nearer to the face's colour than to white, body's or hat's."""
    kind = world.kinds[number]
    palette = torch.tensor([COLOURS[kind.face], COLOURS[kind.body], COLOURS[kind.hat], (1.0, 1.0, 1.0)])
    apart = (views[:, None] - palette[:, :, None, None]).square().sum(2)
    return (apart.argmin(1) == 0).double().sum((1, 2))


def main(arguments: Sequence[str] | None = None) -> None:
    options = common_options("janus", __doc__, ARMS, steps=500).parse_args(arguments)
    settings = TrainingSettings(steps=options.steps, tests=(options.steps // 2, options.steps))
    runs = [Run(arm, seed, partial(run, arm, seed, settings)) for seed in options.seeds for arm in options.arms]
    for found in execute(runs, options.output, options.part):
        last = found["curve"][-1]
        groups = "  ".join(
            f"{name}: janus {last[name]['janus']:.2f} error {last[name]['squared_error']:.4f}" for name in LEAKS
        )
        print(f"{found['arm']:16} seed {found['seed']}  {groups}")


if __name__ == "__main__":
    main()
