"""Training data of the small models: images of the synthetic objects from random views, and tokenised captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.direct.world import COLOURS, FOV_DEG, SHAPES, World
from instant3d.cameras import orbit
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG, VIEWS, view_shares
from instant3d.utils import atomic

POSES = 256
LOWEST_DEG, HIGHEST_DEG = 5.0, 40.0
VOCABULARY = ("", *sorted({"a", "with", "hat", "view", "front", "side", "back", *COLOURS, *SHAPES}))
LENGTH = 9  # words of a prompt and its view

Model = TypeVar("Model", bound=nn.Module)


class ViewDataset:
    """Images of a world's objects, all from the same random views."""

    def __init__(self, world: World, poses: int = POSES, seed: int = 0) -> None:
        around, up = torch.rand(2, poses, generator=torch.Generator().manual_seed(seed))
        self.azimuths = 360 * around - 180  # degrees from the front
        elevations = (LOWEST_DEG + (HIGHEST_DEG - LOWEST_DEG) * up).tolist()
        cameras = [
            orbit(FRONT_AZIMUTH_DEG + azimuth, elevation, fov_deg=FOV_DEG)
            for azimuth, elevation in zip(self.azimuths, elevations, strict=True)
        ]
        parts = world.parts(type(cameras[0]).stack(cameras))
        self.share, self.alpha = (torch.stack([parts[shape][k] for shape in SHAPES]) for k in range(2))
        self.shapes = torch.tensor([SHAPES.index(kind.shape) for kind in world.kinds])
        self.colours = torch.tensor(
            [[COLOURS[name] for name in (kind.body, kind.hat, kind.face or kind.body)] for kind in world.kinds]
        )

    def sample(self, numbers: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """An image (B, 3, size, size) of each of the kinds (B,), and the number of a view word (B,) that fits it."""
        pose = torch.randint(len(self.azimuths), (len(numbers),), generator=generator)
        share, alpha = self.share[self.shapes[numbers], pose], self.alpha[self.shapes[numbers], pose]
        images = torch.einsum("bphw,bpc->bchw", share, self.colours[numbers]) + 1 - alpha
        return images, torch.multinomial(view_shares(self.azimuths[pose]), 1, generator=generator)[:, 0]


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Words as indices into the vocabulary (B, 9); 0 for padding."""
    found = torch.zeros(len(prompts), LENGTH, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        words = prompt.replace(",", " ").split()
        found[row, : len(words)] = torch.tensor([VOCABULARY.index(word) for word in words], dtype=torch.long)
    return found


def sample_indices(numbers: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """`count` of the numbers, with repetition."""
    return torch.tensor(numbers)[torch.randint(len(numbers), (count,), generator=generator)]


def tokenize_views(prompts: Sequence[str]) -> Tensor:
    """Tokens of every prompt with every view word: (P, 3, 9)."""
    return torch.stack([tokenize([f"{prompt}, {view}" for view in VIEWS]) for prompt in prompts])


def load_or_train(model: Model, file: Path, train: Callable[[Model], None]) -> Model:
    """Load the model's weights from a file, or train it and write them; without gradients."""
    if file.is_file():
        model.load_state_dict(load_file(file))
    else:
        train(model)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic.partial_file(file) as partial:
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
    return model.eval().requires_grad_(False)
