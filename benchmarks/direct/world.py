"""A small synthetic world of coloured bodies with coloured hats and captions, with known images.

Each object is a formula; its images give an exact diffusion model (`FiniteSetGuidance`), so all errors are those of
the trained network. All words occur in training; some pairs of a body's and a hat's colour do not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from instant3d.cameras import Cameras, orbit
from instant3d.direct.guidance.finite_set import FiniteSetGuidance
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG, from_front, view_shares
from instant3d.modules.diffusion.prompt_tokens import PromptTokens
from instant3d.nerf.volume import render

COLOURS = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.90, 0.80, 0.10),
    "purple": (0.60, 0.15, 0.70),
    "black": (0.10, 0.10, 0.10),
    "cyan": (0.10, 0.75, 0.80),
    "grey": (0.50, 0.50, 0.50),
}
SHAPES = ("ball", "box")
UNSEEN_STEPS = (3, 5)  # a hat this many colours after its body's is kept for testing: 32 of the 128 prompts
AZIMUTHS, ELEVATIONS_DEG = 16, (10.0, 35.0)
SIZE = 20  # pixels a side
FOV_DEG = 38.0
DENSITY = 60.0
TOKENS, WIDTH = 8, 32


@dataclass(frozen=True)
class Kind:
    """An object's attributes."""

    body: str
    shape: str
    hat: str
    face: str = ""  # the colour of a patch in front, if there is one

    @property
    def prompt(self) -> str:
        return f"a {self.body} {self.shape} with a {self.hat} hat"

    @property
    def unseen(self) -> bool:
        names = list(COLOURS)
        return (names.index(self.hat) - names.index(self.body)) % len(names) in UNSEEN_STEPS


@dataclass(frozen=True)
class Formula:
    """A `Field`: a ball or a box below a flat hat, whose colours say which part a point is of: body, hat or face."""

    shape: str

    def density(self, points: Tensor) -> Tensor:
        return DENSITY * self(points)[1].amax(-1)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        x, y, z = points.unbind(-1)
        low = points - points.new_tensor([0.0, 0.0, -0.2])
        hat = (x.square() + y.square() < 0.36**2) & (z > 0.2) & (z < 0.65)
        body = (low.norm(dim=-1) < 0.5 if self.shape == "ball" else low.abs().amax(-1) < 0.43) & ~hat
        face = body & (y < -0.33) & (x.abs() < 0.25) & (low[..., 2].abs() < 0.25)
        parts = torch.stack([body & ~face, hat, face], dim=-1).to(points.dtype)
        return DENSITY * parts.amax(-1), parts


@dataclass(frozen=True)
class World:
    """Kinds of objects, their cameras and images."""

    kinds: Sequence[Kind]
    size: int = SIZE

    @classmethod
    def of_hats(cls) -> World:
        kinds = [Kind(*each) for each in itertools.product(COLOURS, SHAPES, COLOURS)]
        return cls(kinds)

    @classmethod
    def of_faces(cls) -> World:
        """Six boxes, alike from four sides but for a black face in front; no other part of them is as dark."""
        names = [name for name in COLOURS if name not in ("black", "grey")]
        return cls([Kind(body, "box", names[(k + 2) % len(names)], "black") for k, body in enumerate(names)])

    @cached_property
    def cameras(self) -> Cameras:
        """(32,), evenly around at two heights; the first is right in front."""
        azimuths = FRONT_AZIMUTH_DEG + 360 / AZIMUTHS * torch.arange(AZIMUTHS)
        return Cameras.cat([orbit(azimuths, elevation, fov_deg=FOV_DEG) for elevation in ELEVATIONS_DEG])

    @cached_property
    def azimuths(self) -> Tensor:
        """Degrees from the front (32,)."""
        return from_front(FRONT_AZIMUTH_DEG + 360 / AZIMUTHS * torch.arange(AZIMUTHS)).repeat(len(ELEVATIONS_DEG))

    @cached_property
    def images(self) -> Tensor:
        """On white, (K, 32, 3, size, size). Colours are linear in the images of parts, so these are rendered once."""
        parts = self.parts(self.cameras)
        return torch.stack([painted(kind, *parts[kind.shape]) for kind in self.kinds])

    def parts(self, cameras: Cameras) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each shape, how much of each pixel each part is, (V, 3, size, size), and its opacity, (V, 1, size, size).

        Four samples a pixel.
        """
        found = {}
        for shape in {kind.shape for kind in self.kinds}:
            fine = render(Formula(shape), cameras, 2 * self.size, 2 * self.size, samples=96, importance=0)
            views = fine.resized(self.size, self.size)
            found[shape] = views.rgb * views.alpha, views.alpha
        return found

    @property
    def prompts(self) -> list[str]:
        return [kind.prompt for kind in self.kinds]

    @property
    def seen(self) -> list[int]:
        """Indices of the training prompts."""
        return [number for number, kind in enumerate(self.kinds) if not kind.unseen]

    @property
    def unseen(self) -> list[int]:
        return [number for number, kind in enumerate(self.kinds) if kind.unseen]

    def guidance(self, numbers: Sequence[int], leaks: Sequence[float] | None = None) -> FiniteSetGuidance:
        """The exact diffusion model of these prompts' images.

        leaks  of each prompt, the share of front images that its side and back words bring: what makes Janus faces
        """
        named = view_shares(self.azimuths)
        tables = []
        for leak in leaks or [0.0] * len(numbers):
            table = named.clone()
            front = named[:, 0] / named[:, 0].sum()
            for view in (1, 2):
                own = named[:, view] / named[:, view].sum()
                table[:, view] = (1 - leak) * own + leak * front
            tables.append(table)
        images = self.images[list(numbers)].flatten(0, 1)
        owners = [self.kinds[number].prompt for number in numbers for _ in range(len(self.azimuths))]
        return FiniteSetGuidance(images, owners, torch.cat(tables))


def painted(kind: Kind, share: Tensor, alpha: Tensor) -> Tensor:
    """Images (V, 3, H, W) on white of how much of each pixel each part is, (V, 3, H, W), and its opacity."""
    colours = torch.tensor([COLOURS[kind.body], COLOURS[kind.hat], COLOURS[kind.face or kind.body]])
    return torch.einsum("vphw,pc->vchw", share, colours) + 1 - alpha


def embed_words(prompts: Sequence[str], seed: int = 0) -> PromptTokens:
    """Words as fixed random vectors, each with its place's added: (P, 8, 32). They contain no grammar."""
    vocabulary = sorted(
        {"a", "with", "hat", *COLOURS, *SHAPES, *(word for prompt in prompts for word in prompt.split())}
    )
    generator = torch.Generator().manual_seed(seed)
    words, places = (
        torch.randn(len(vocabulary), WIDTH, generator=generator),
        torch.randn(TOKENS, WIDTH, generator=generator),
    )
    tokens, mask = torch.zeros(len(prompts), TOKENS, WIDTH), torch.zeros(len(prompts), TOKENS, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        numbers = [vocabulary.index(word) for word in prompt.split()]
        tokens[row, : len(numbers)] = words[numbers] + places[: len(numbers)]
        mask[row, : len(numbers)] = True
    return PromptTokens(tokens, mask)
