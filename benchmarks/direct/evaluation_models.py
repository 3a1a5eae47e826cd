"""Evaluation models of the small world: classifiers of attributes, and contrastive models of words and images.

There are two of each, with different seeds and architectures, so that evaluation never uses the model used in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.direct.dataset import LENGTH, VOCABULARY, ViewDataset, sample_indices, tokenize
from benchmarks.direct.world import COLOURS, SHAPES, Kind

Build = Literal["strided", "pooled"]
ATTRIBUTES = ("body", "shape", "hat")
GRAIN = 0.1  # the most noise that is put on true images, for those of networks and diffusion models are not clean
BATCH, RATE = 64, 2e-3


def tower(build: Build) -> nn.Sequential:
    """From images (B, 3, 20, 20) to vectors."""
    if build == "strided":
        layers = [(3, 24, 1), (24, 48, 2), (48, 64, 2)]
        inside = [(nn.Conv2d(a, b, 3, stride, 1), nn.GroupNorm(8, b), nn.SiLU()) for a, b, stride in layers]
    else:
        inside = [(nn.Conv2d(a, b, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2)) for a, b in ((3, 16), (16, 40))]
    return nn.Sequential(*itertools.chain(*inside), nn.Flatten())


class Attributes(nn.Module):
    """Classifier of the colours of body and hat and the shape of the body."""

    def __init__(self, build: Build, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tower = tower(build)
        self.last = nn.LazyLinear(2 * len(COLOURS) + len(SHAPES))
        self(torch.zeros(1, 3, 20, 20))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of bodies (B, 8), shapes (B, 2), hats (B, 8)."""
        return self.last(self.tower(images)).split([len(COLOURS), len(SHAPES), len(COLOURS)], dim=1)

    @torch.no_grad()
    def shares_right(self, images: Tensor, kinds: Sequence[Kind]) -> dict[str, float]:
        """Of images (B, V, 3, 20, 20) of kinds (B), the shares with each attribute right, and with all."""
        wanted = answers(kinds)[:, None].expand(-1, images.shape[1], -1)
        found = torch.stack([logits.argmax(1) for logits in self(images.flatten(0, 1))], dim=1)
        right = (found.view_as(wanted) == wanted).double()
        each = right.mean((0, 1)).tolist()
        return dict(zip(ATTRIBUTES, each, strict=True)) | {"all": right.prod(-1).mean().item()}


def answers(kinds: Sequence[Kind]) -> Tensor:
    """Numbers of body, shape and hat, (B, 3)."""
    names = list(COLOURS)
    return torch.tensor([(names.index(k.body), SHAPES.index(k.shape), names.index(k.hat)) for k in kinds])


def train_attributes(
    classifier: Attributes, dataset: ViewDataset, kinds: Sequence[Kind], steps: int, seed: int
) -> None:
    """Train on noisy true images of all kinds."""
    generator, wanted = torch.Generator().manual_seed(seed), answers(kinds)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=RATE, fused=True)
    for _ in range(steps):
        chosen = sample_indices(range(len(kinds)), BATCH, generator)
        logits = classifier(add_grain(dataset.sample(chosen, generator)[0], generator))
        losses = [F.cross_entropy(logit, wanted[chosen, k]) for k, logit in enumerate(logits)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()


class Matcher(nn.Module):
    """Unit vectors of images and of prompts, near each other where they belong together (CLIP, arXiv 2103.00020)."""

    def __init__(self, build: Build, seed: int, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.build = build
        self.tower, self.last = tower(build), nn.LazyLinear(width)
        self.words = nn.Embedding(len(VOCABULARY), 32)
        self.places = nn.Parameter(0.5 * torch.randn(LENGTH, 32))
        if build == "strided":
            self.reader = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
            self.said = nn.Linear(32, width)
        else:
            self.reader = nn.Sequential(nn.Flatten(), nn.Linear(LENGTH * 32, 96), nn.ReLU())
            self.said = nn.Linear(96, width)
        self.heat = nn.Parameter(torch.tensor(2.3))
        self(torch.zeros(1, 3, 20, 20))

    def forward(self, images: Tensor) -> Tensor:
        """Unit vectors (B, 64) of images (B, 3, 20, 20)."""
        return F.normalize(self.last(self.tower(images)), dim=-1)

    def encode_text(self, prompts: Tensor) -> Tensor:
        """Unit vectors (B, 64) of prompts in numbers (B, 9)."""
        found = self.reader(self.words(prompts) + self.places)
        return F.normalize(self.said(found.mean(1) if self.build == "strided" else found), dim=-1)

    @torch.no_grad()
    def retrieval(self, images: Tensor, prompts: Sequence[str], asked: Sequence[int]) -> dict[str, float]:
        """Retrieval of prompts `asked` (B) from a list (P) by images (B, V, 3, 20, 20): mean over all views.

        first        share of images to which their own prompt is the nearest
        probability  probability that the model gives it, by its trained temperature
        """
        alike = self.heat.exp() * self(images.flatten(0, 1)) @ self.encode_text(tokenize(prompts)).T
        own = torch.tensor(asked).repeat_interleave(images.shape[1])
        chance = alike.softmax(1).gather(1, own[:, None])
        return {"first": (alike.argmax(1) == own).double().mean().item(), "probability": chance.mean().item()}


def train_matching(
    model: Matcher, dataset: ViewDataset, prompts: Sequence[str], numbers: Sequence[int], steps: int, seed: int
) -> None:
    """Train on true images of the kinds `numbers`, a batch of prompts that are all different at a time."""
    generator, texts = torch.Generator().manual_seed(seed), tokenize(prompts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    for _ in range(steps):
        chosen = torch.tensor(numbers)[torch.randperm(len(numbers), generator=generator)[:BATCH]]
        images = add_grain(dataset.sample(chosen, generator)[0], generator)
        alike = model.heat.exp().clamp(max=100) * model(images) @ model.encode_text(texts[chosen]).T
        own = torch.arange(len(chosen))
        optimizer.zero_grad()
        (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)).backward()
        optimizer.step()


def add_grain(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, ...) with noise of a strength of each one's own."""
    strength = GRAIN * torch.rand(len(images), 1, 1, 1, generator=generator)
    return images + strength * torch.randn(images.shape, generator=generator)
