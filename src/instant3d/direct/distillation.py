"""What a batch of prompts and cameras teaches a network: render, ask the guide, pull (arXiv 2311.08403, section 3).

Knows no Lightning: tensors in, a loss and what to log out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.direct import severity
from instant3d.direct.clip_loss import clip_loss
from instant3d.direct.embedding_cache import Lookup
from instant3d.direct.guidance import base, sds
from instant3d.direct.guidance.base import CameraGuide, Guide
from instant3d.direct.guidance.sds import Weight
from instant3d.direct.network import TextToTriplane
from instant3d.direct.regularisers import field_orientation
from instant3d.direct.severity import FeatureCache, Sighting, Similarity
from instant3d.direct.view_prompts import VIEWS, Schedule, from_front, negatives, shares, worded
from instant3d.modules.diffusion.noise_process import noised
from instant3d.modules.diffusion.prompt_tokens import PromptTokens
from instant3d.nerf.field import Field
from instant3d.nerf.triplane import TriplaneField
from instant3d.nerf.volume import render
from instant3d.utils.random_numbers import drawn_on, randn_like
from instant3d.utils.tensor_dataclass import Batch
from instant3d.views import Views

COARSE = 16  # rays a side along which the orientation of surfaces is looked at
Against = Literal["none", "plain", "perp-neg"]


@dataclass(frozen=True)
class Lesson(Batch):
    """Prompts, by their numbers in the list, and from where each is to be looked at."""

    prompts: Tensor  # (B,) long
    cameras: Cameras  # (B,)


@dataclass(frozen=True)
class Scoring:
    """How the guidance is evaluated and weighted; what the paper leaves open has the value of its ancestors.

    Attributes:
        scale: Of classifier-free guidance.
        least: Lower end of the timesteps that are drawn, as a share of the schedule.
        most: Upper end of the timesteps that are drawn, as a share of the schedule.
        weight: The weighting w(t) of timesteps, see `sds.weight`.
        against: How the other views enter as negative prompts: not at all, plainly, or perpendicularly (Perp-Neg).
        schedule: Which of the published weights of negative prompts is used.
        w_min: The weight of negatives is w_min + C dw with the severity C.
        dw: See `w_min`; 0 is ordinary Perp-Neg.
        similarity: "measured" compares images by CLIP; "constant" sets C without them, for comparison.
        clip: Weight of the CLIP loss.
        orientation: Weight of the loss on surfaces that face away from the camera.
    """

    scale: float = 100.0
    least: float = 0.02
    most: float = 0.98
    weight: Weight = "dreamfusion"
    against: Against = "perp-neg"
    schedule: Schedule = "stable-dreamfusion"
    w_min: float = 1.0
    dw: float = 2.0
    similarity: Similarity = "measured"
    clip: float = 0.0
    orientation: float = 0.0


@dataclass(frozen=True)
class Picture:
    """What is rendered of each object.

    Attributes:
        size: Side of the images in pixels.
        samples: Samples at even intervals on each ray.
        importance: Further samples on each ray, placed by importance.
    """

    size: int = 64
    samples: int = 64
    importance: int = 64


class Conditions:
    """What the guide is told of each prompt from each side, and of none, by number."""

    def __init__(self, guide: Guide, prompts: Sequence[str]) -> None:
        texts = [worded(prompt, view) for prompt in prompts for view in VIEWS] + [""]
        self.nowhere = len(texts) - 1
        self.table = Lookup(texts, guide.embed)

    def of(self, prompts: Tensor, view: Tensor) -> base.Conditions:
        """Prompts (B,) from views (B,), numbers of VIEWS."""
        return self.table[prompts * len(VIEWS) + view]

    def between(self, prompts: Tensor, share: Tensor) -> base.Conditions:
        """Prompts (B,) from between the views, shares (B, 3)."""
        rows = prompts[:, None] * len(VIEWS) + torch.arange(len(VIEWS), device=prompts.device)
        return sds.mix(self.table[rows], share)

    def nothing(self, count: int) -> base.Conditions:
        """No prompt, `count` times."""
        return self.table[torch.full((count,), self.nowhere)]


class Distillation:
    """Teaches a network what a guide knows of a list of prompts.

    text       the generator's own reading of the prompts, (P, N, C), or a `Lookup` of it
    eyes       features (B, F) of pictures (B, 3, H, W), for the severity of Perp-Neg and the CLIP loss
    remembers  the last features of every prompt, if the severity is to be measured against earlier views
    judges     CLIP's features (P, F) of the prompts, for the CLIP loss
    """

    def __init__(
        self,
        network: TextToTriplane,
        guide: Guide,
        prompts: Sequence[str],
        text: PromptTokens | Lookup,
        *,
        scoring: Scoring = Scoring(),
        picture: Picture = Picture(),
        eyes: Callable[[Tensor], Tensor] | None = None,
        remembers: FeatureCache | None = None,
        judges: Tensor | None = None,
    ) -> None:
        if scoring.dw and scoring.against != "none" and (eyes is None or remembers is None):
            raise ValueError(
                "adaptive Perp-Neg (dw above 0) looks at pictures; give it eyes and a memory, or set dw to 0"
            )
        if scoring.clip and (eyes is None or judges is None):
            raise ValueError("the CLIP loss compares pictures with prompts; give it eyes and the prompts' features")
        self.network, self.guide, self.text = network, guide, text
        self.scoring, self.picture = scoring, picture
        self.eyes, self.remembers, self.judges = eyes, remembers, judges
        self.conditions = Conditions(guide, prompts)

    def __call__(
        self,
        lesson: Lesson,
        background: Tensor,
        generator: torch.Generator,
        dress: Callable[[Field], Field] = lambda field: field,
    ) -> tuple[dict[str, Tensor], Views]:
        """Losses by name, weights not yet applied, and the pictures (B, 1) that they are of.

        background  (B, 3)
        generator   all chance: style noise, places on rays, timesteps, noise
        dress       how the fields are to be rendered: lit, for example
        """
        field = self.field(lesson, generator)
        shown = self.show(dress(field), lesson, generator)
        images = shown.on(background[:, None])[:, 0]
        seen = self.eyes(images) if self.eyes is not None else None
        losses = {"sds": self.score(lesson, images, seen, generator)}
        if self.scoring.clip and seen is not None and self.judges is not None:
            losses["clip"] = clip_loss(seen, self.judges[lesson.prompts].to(seen)).mean()
        if self.scoring.orientation:
            rays = lesson.cameras.rays(COARSE, COARSE).map(lambda tensor: tensor.flatten(1, 2))
            losses["orientation"] = field_orientation(field, rays, generator=generator)
        return losses, shown

    def field(self, lesson: Lesson, generator: torch.Generator) -> TriplaneField:
        """The objects of the prompts (B); where chance has no say in them, all views of a prompt share one pass."""
        noise = torch.randn(len(lesson.prompts), self.network.architecture.noise_width, **drawn_on(generator))
        if not self.network.architecture.style_noise:
            prompts, place = lesson.prompts.unique(return_inverse=True)
            triplane = self.network.triplane(self.text[prompts])
            return TriplaneField(triplane[place], self.network.decoder)
        text: PromptTokens = self.text[lesson.prompts]
        return self.network(text, noise.to(text.tokens.device))

    def show(self, field: Field, lesson: Lesson, generator: torch.Generator) -> Views:
        """Objects (B, 1) as the cameras see them."""
        p = self.picture
        return render(
            field,
            lesson.cameras[:, None],
            p.size,
            p.size,
            samples=p.samples,
            importance=p.importance,
            generator=generator,
        )

    def score(self, lesson: Lesson, images: Tensor, seen: Tensor | None, generator: torch.Generator) -> Tensor:
        """A loss whose gradient on the latents of images (B, 3, H, W) is w(t) (eps_hat - eps) / B."""
        s = self.scoring
        x0 = self.guide.latents(images)
        t = sds.timesteps(len(x0), len(self.guide.abar), generator, least=s.least, most=s.most).to(x0.device)
        eps = randn_like(x0, generator)
        abar = self.guide.abar[t]
        eps_hat = self.answer(lesson, noised(x0.detach(), eps, abar), t, seen)
        gradient = sds.weight(abar, s.weight).view(-1, *[1] * (x0.dim() - 1)) * (eps_hat - eps)
        return sds.distil(x0, gradient)

    def answer(self, lesson: Lesson, x_t: Tensor, t: Tensor, seen: Tensor | None) -> Tensor:
        """eps_hat (B, ...): the guide's answers to no prompt, the prompt from here, and, if asked, from elsewhere."""
        s = self.scoring
        direction = severity.directions_of(lesson.cameras)
        azimuth = from_front(torch.rad2deg(torch.atan2(direction[:, 1], direction[:, 0])))
        here = self.conditions.between(lesson.prompts, shares(azimuth))
        if isinstance(self.guide, CameraGuide):
            here = self.guide.told_camera(here, direction)
        asked = [self.conditions.nothing(len(x_t)), here]
        if s.against == "none":
            nothing, positive = sds.answers(self.guide, x_t, t, asked)
            return sds.guided(nothing, positive, s.scale)
        elevation = torch.rad2deg(torch.asin(direction[:, 2]))
        weights, views = negatives(azimuth, s.schedule, elevation).topk(2, dim=-1)  # no schedule has more
        asked += [self.conditions.of(lesson.prompts, view) for view in views.T]
        strength = severity.negative_weight(self.severity(lesson, direction, seen), s.w_min, s.dw)
        nothing, positive, *away = sds.answers(self.guide, x_t, t, asked)
        return sds.perp_neg(
            nothing,
            positive,
            torch.stack(away),
            weights.T * strength,
            s.scale,
            perpendicular=s.against == "perp-neg",
        )

    def severity(self, lesson: Lesson, direction: Tensor, seen: Tensor | None) -> Tensor:
        """C (B,) against the others of the same prompt in the batch or, where there are none, its last view."""
        if not self.scoring.dw or seen is None or self.remembers is None:
            return torch.zeros(len(direction), device=direction.device)
        now, last = severity.beside(lesson.prompts, direction, seen), self.remembers.recall(lesson.prompts)[None]
        last = Sighting(last.directions, last.features, last.seen & ~now.seen.any(0))
        others = Sighting.cat([now, last])
        found = severity.severity(
            direction, others.directions, seen, others.features, others.seen, similarity=self.scoring.similarity
        )
        self.remembers.remember(lesson.prompts, direction, seen)
        return found
