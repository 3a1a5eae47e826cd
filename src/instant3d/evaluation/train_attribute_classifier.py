"""Training of the attribute classifier (judge), on real renders only, never on generated images.

Augmentation imitates errors of reconstructions: examples are blurred, warped, made translucent, tinted, with parts
missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d import scenes
from instant3d.evaluation.attribute_classifier import COLOURS, SIZE, AttributeClassifier, parse_caption
from instant3d.utils.devices import fast_dtype
from instant3d.utils.tensor_dataclass import TensorDataclass

HELD_VIEWS = 3  # the last ones of every scene, never trained on
BATCH = 128
RATE, DECAY = 4e-3, 0.02
UNKNOWN = -100  # label that the cross entropy ignores


@dataclass(frozen=True)
class AttributeExamples(TensorDataclass):
    """Real renders with their labels.

    Attributes:
        images: (N, 4, SIZE, SIZE), RGBA bytes with straight alpha.
        colour: (N,), index of the colour; UNKNOWN where the caption has none of ours.
        object: (N,), index of the object.
        view: (N,), number of the frame, counted from the end of the scene: the last is 1.
        shape: (N,), number of the shape among objects of the same name.
    """

    images: Tensor
    colour: Tensor
    object: Tensor
    view: Tensor
    shape: Tensor

    def over_white(self) -> Tensor:
        """The images on white, (N, 3, SIZE, SIZE) in [0, 1]."""
        rgba = self.images.float() / 255
        return rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]


def train(
    folders: Sequence[Path],
    objects: Sequence[str],
    *,
    epochs: int = 24,
    hold_out_shapes: bool = False,
    seed: int = 0,
) -> AttributeClassifier:
    """Train a classifier of `objects` in COLOURS on all scenes whose caption has one of them; print progress.

    Args:
        folders: Folders of scenes.
        objects: Names of the objects.
        epochs: Passes over the examples.
        hold_out_shapes: Hold out the first shape of every object with several, to measure accuracy on new shapes.
        seed: Seed of weights, batches and augmentation.

    Returns:
        The classifier, with its accuracy on held-out views (and shapes).

    Raises:
        ValueError: If an object occurs in no caption.
    """
    examples = load_examples(folders, objects)
    held = examples.view <= HELD_VIEWS
    several = torch.tensor([bool((examples.shape[examples.object == k] > 0).any()) for k in range(len(objects))])
    strange = several[examples.object] & (examples.shape == 0) & hold_out_shapes
    torch.manual_seed(seed)  # of the initial weights
    generator = torch.Generator().manual_seed(seed)
    judge = fit(examples[~held & ~strange], AttributeClassifier(objects), epochs=epochs, generator=generator)
    judge.accuracy = {"held_out_views": accuracy(judge, examples[held & ~strange])}
    if hold_out_shapes:
        judge.accuracy["held_out_shapes"] = accuracy(judge, examples[strange])
    return judge


def load_examples(folders: Sequence[Path], objects: Sequence[str]) -> AttributeExamples:
    """Load all renders of the scenes whose caption has one of the objects, in any colour.

    Args:
        folders: Folders in which scenes are found.
        objects: Names of the objects.

    Returns:
        The examples, of `SIZE` pixels a side.

    Raises:
        ValueError: An object is in no caption.
    """
    parts, shapes = [], [list[str]() for _ in objects]
    for place in (place for folder in folders for place in scenes.below(folder)):
        scene = scenes.read(place, frames=None, size=SIZE, maps=())
        colour, thing = parse_caption(scene.caption or "", COLOURS, objects)
        if thing is None:
            continue
        number, name = list(objects).index(thing), re.sub(rf"-({'|'.join(COLOURS)})$", "", scene.id)
        if name not in shapes[number]:
            shapes[number].append(name)
        count = len(scene.names)
        parts.append(
            AttributeExamples(
                (torch.cat([scene.views.rgb, scene.views.alpha], dim=1) * 255).round().to(torch.uint8),
                torch.full((count,), UNKNOWN if colour is None else COLOURS.index(colour)),
                torch.full((count,), number),
                torch.arange(count, 0, -1),
                torch.full((count,), shapes[number].index(name)),
            )
        )
    missing = [thing for thing, names in zip(objects, shapes, strict=True) if not names]
    if missing:
        raise ValueError(
            f"no scene in {', '.join(map(str, folders))} has {', '.join(missing)} in its caption; "
            "make some by `instant3d data recolour`"
        )
    return AttributeExamples.cat(parts)


def fit(
    examples: AttributeExamples, judge: AttributeClassifier, *, epochs: int, generator: torch.Generator
) -> AttributeClassifier:
    """Train a classifier, with an equal share of the examples for every object.

    Args:
        examples: Images and what they show.
        judge: The classifier, which is trained in place.
        epochs: Passes over as many images as there are.
        generator: Random numbers.

    Returns:
        The classifier.
    """
    steps = epochs * max(len(examples.object) // BATCH, 1)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    judge.train()
    for step, batch in enumerate(batches(examples, steps, generator)):
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() is torch.bfloat16):
            prediction = judge(augment(batch.images, generator))
        loss = F.nll_loss(prediction.colour, batch.colour) + F.nll_loss(prediction.object, batch.object)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(steps // 10, 1) == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    return judge.eval().requires_grad_(False)


def batches(examples: AttributeExamples, steps: int, generator: torch.Generator) -> Iterator[AttributeExamples]:
    """Draw random batches of BATCH examples in which every object has an equal share, whatever its number of shapes.

    Args:
        examples: All examples (N,).
        steps: Number of batches.
        generator: Source of the random numbers.

    Yields:
        Examples (BATCH,), drawn with replacement.
    """
    share = 1 / torch.bincount(examples.object).clamp(min=1)[examples.object].double()
    for _ in range(steps):
        yield examples[torch.multinomial(share, BATCH, replacement=True, generator=generator)]


@torch.no_grad()
def accuracy(judge: AttributeClassifier, examples: AttributeExamples) -> dict[str, float]:
    """Accuracy on single images, for colour and object, and their number."""
    parts = [examples[k : k + 512] for k in range(0, len(examples.object), 512)]
    predictions = [judge(part.over_white()) for part in parts]
    colour = torch.cat([prediction.colour for prediction in predictions]).argmax(-1)
    thing = torch.cat([prediction.object for prediction in predictions]).argmax(-1)
    known = examples.colour != UNKNOWN
    return {
        "colour": round((colour == examples.colour)[known].double().mean().item(), 4),
        "object": round((thing == examples.object).double().mean().item(), 4),
        "pictures": len(examples.object),
    }


def accuracy_message(judge: AttributeClassifier) -> str:
    """The accuracy of `judge` in one line."""
    names = {"held_out_views": "held-out views", "held_out_shapes": "held-out shapes"}
    parts = [(names[key], value) for key, value in judge.accuracy.items()]
    return "; ".join(
        f"{name}: colour {100 * value['colour']:.1f}%, object {100 * value['object']:.1f}%" for name, value in parts
    )


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Augment images so that they resemble renders of reconstructions.

    Args:
        images: RGBA bytes (N, 4, S, S).
        generator: Source of the random numbers.

    Returns:
        Images over white (N, 3, S, S) in [0, 1].
    """
    rgba = images.float() / 255
    solid = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)  # premultiplied, so that nothing bleeds in
    solid = F.grid_sample(solid, _random_warp(len(solid), generator), align_corners=False)
    alpha = solid[:, 3:]
    tinted = _tinted(solid[:, :3] / alpha.clamp(min=1e-4), generator)
    alpha = alpha * _holes(len(solid), generator)
    image = _softened(tinted * alpha + 1 - alpha, generator)
    noise = torch.randn(image.shape, generator=generator) * 0.03 * _uniform((len(solid), 1, 1, 1), 0, 1, generator)
    return (image + noise).clamp(0, 1)


def _random_warp(count: int, generator: torch.Generator) -> Tensor:
    """Sampling grids (N, S, S, 2): turned, scaled, sheared, moved, mirrored half the time, and slightly warped."""
    angle = _uniform((count,), -10, 10, generator).deg2rad()
    scale = _uniform((count,), 0.85, 1.25, generator)
    mirror = torch.where(_uniform((count,), 0, 1, generator) < 0.5, -1.0, 1.0)
    shear = _uniform((count,), -0.1, 0.1, generator)
    matrix = torch.stack([angle.cos() * mirror, shear - angle.sin(), angle.sin() * mirror, angle.cos()], dim=-1)
    matrix = matrix.reshape(count, 2, 2) * scale[:, None, None]
    theta = torch.cat([matrix, _uniform((count, 2, 1), -0.12, 0.12, generator)], dim=-1)
    grid = F.affine_grid(theta, [count, 1, SIZE, SIZE], align_corners=False)
    warp = torch.randn(count, 2, 5, 5, generator=generator) * _uniform((count, 1, 1, 1), 0, 0.05, generator)
    return grid + F.interpolate(warp, (SIZE, SIZE), mode="bicubic").permute(0, 2, 3, 1)


def _tinted(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """Lighter or darker, paler, and off by a little in each channel."""
    count = len(rgb)
    gain = _uniform((count, 1, 1, 1), 0.85, 1.15, generator) * _uniform((count, 3, 1, 1), 0.95, 1.05, generator)
    grey = rgb.mean(1, keepdim=True)
    pale = _uniform((count, 1, 1, 1), -0.1, 0.25, generator)
    return (rgb + pale * (grey - rgb)).mul(gain).clamp(0, 1)


def _holes(count: int, generator: torch.Generator) -> Tensor:
    """The alpha (N, 1, S, S) thinned as a whole, and with a soft round hole in half of the images."""
    line = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    centre = _uniform((count, 2, 1, 1), -0.7, 0.7, generator)
    distance = torch.hypot(line[None, None, :] - centre[:, 0], line[None, :, None] - centre[:, 1])
    radius = _uniform((count, 1, 1), -0.35, 0.35, generator)  # half of them have none
    left = torch.sigmoid((distance - radius) * 20 * math.pi)[:, None]
    return torch.where(radius[:, None] > 0.1, left, 1.0) * _uniform((count, 1, 1, 1), 0.75, 1, generator)


def _softened(images: Tensor, generator: torch.Generator) -> Tensor:
    """The batch in fewer pixels and back, or as it is."""
    side = int(torch.randint(12, 3 * SIZE // 2, (), generator=generator))
    if side >= SIZE:
        return images
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, (SIZE, SIZE), mode="bicubic").clamp(0, 1)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
