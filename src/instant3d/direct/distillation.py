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
from instant3d.direct.embedding_cache import EmbeddingCache
from instant3d.direct.guidance import base, sds
from instant3d.direct.guidance.base import CameraGuidance, DiffusionGuidance
from instant3d.direct.guidance.sds import Weight
from instant3d.direct.network import TextToTriplane
from instant3d.direct.regularisers import field_orientation
from instant3d.direct.severity import CachedViews, FeatureCache, Similarity
from instant3d.direct.view_prompts import VIEWS, Schedule, from_front, negative_weights, view_shares, with_view_words
from instant3d.modules.diffusion.noise_process import add_noise
from instant3d.modules.diffusion.prompt_tokens import PromptTokens
from instant3d.nerf.field import Field
from instant3d.nerf.triplane import TriplaneField
from instant3d.nerf.volume import render
from instant3d.utils.random_numbers import generator_kwargs, randn_like
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views

COARSE = 16  # rays a side along which the orientation of surfaces is looked at
Against = Literal["none", "plain", "perp-neg"]


@dataclass(frozen=True)
class DistillationBatch(TensorDataclass):
    """Prompts, by their numbers in the list, and from where each is to be looked at."""

    prompts: Tensor  # (B,) long
    cameras: Cameras  # (B,)


@dataclass(frozen=True)
class SDSConfig:
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
class RenderConfig:
    """What is rendered of each object.

    Attributes:
        size: Side of the images in pixels.
        samples: Samples at even intervals on each ray.
        importance: Further samples on each ray, placed by importance.
    """

    size: int = 64
    samples: int = 64
    importance: int = 64


class TextConditions:
    """What the guide is told of each prompt from each side, and of none, by number."""

    def __init__(self, guide: DiffusionGuidance, prompts: Sequence[str]) -> None:
        texts = [with_view_words(prompt, view) for prompt in prompts for view in VIEWS] + [""]
        self.unconditional_index = len(texts) - 1
        self.table = EmbeddingCache(texts, guide.embed_prompts)

    def for_view(self, prompts: Tensor, view: Tensor) -> base.Conditions:
        """Prompts (B,) from views (B,), numbers of VIEWS."""
        return self.table[prompts * len(VIEWS) + view]

    def interpolated(self, prompts: Tensor, share: Tensor) -> base.Conditions:
        """Prompts (B,) from between the views, shares (B, 3)."""
        rows = prompts[:, None] * len(VIEWS) + torch.arange(len(VIEWS), device=prompts.device)
        return sds.mix_conditions(self.table[rows], share)

    def unconditional(self, count: int) -> base.Conditions:
        """No prompt, `count` times."""
        return self.table[torch.full((count,), self.unconditional_index)]


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
        guidance: DiffusionGuidance,
        prompts: Sequence[str],
        text: PromptTokens | EmbeddingCache,
        *,
        sds_config: SDSConfig = SDSConfig(),
        render_config: RenderConfig = RenderConfig(),
        image_encoder: Callable[[Tensor], Tensor] | None = None,
        feature_cache: FeatureCache | None = None,
        text_features: Tensor | None = None,
    ) -> None:
        if sds_config.dw and sds_config.against != "none" and (image_encoder is None or feature_cache is None):
            raise ValueError(
                "adaptive Perp-Neg (dw above 0) looks at pictures; give it eyes and a memory, or set dw to 0"
            )
        if sds_config.clip and (image_encoder is None or text_features is None):
            raise ValueError("the CLIP loss compares pictures with prompts; give it eyes and the prompts' features")
        self.network, self.guidance, self.text = network, guidance, text
        self.sds_config, self.render_config = sds_config, render_config
        self.image_encoder, self.feature_cache, self.text_features = image_encoder, feature_cache, text_features
        self.conditions = TextConditions(guidance, prompts)

    def __call__(
        self,
        batch: DistillationBatch,
        background: Tensor,
        generator: torch.Generator,
        shade: Callable[[Field], Field] = lambda field: field,
    ) -> tuple[dict[str, Tensor], Views]:
        """Losses by name, weights not yet applied, and the pictures (B, 1) that they are of.

        background  (B, 3)
        generator   all chance: style noise, places on rays, timesteps, noise
        dress       how the fields are to be rendered: lit, for example
        """
        field = self.field(batch, generator)
        shown = self.render_views(shade(field), batch, generator)
        images = shown.composite(background[:, None])[:, 0]
        seen = self.image_encoder(images) if self.image_encoder is not None else None
        losses = {"sds": self.sds_loss(batch, images, seen, generator)}
        if self.sds_config.clip and seen is not None and self.text_features is not None:
            losses["clip"] = clip_loss(seen, self.text_features[batch.prompts].to(seen)).mean()
        if self.sds_config.orientation:
            rays = batch.cameras.rays(COARSE, COARSE).map(lambda tensor: tensor.flatten(1, 2))
            losses["orientation"] = field_orientation(field, rays, generator=generator)
        return losses, shown

    def field(self, batch: DistillationBatch, generator: torch.Generator) -> TriplaneField:
        """The objects of the prompts (B); where chance has no say in them, all views of a prompt share one pass."""
        noise = torch.randn(len(batch.prompts), self.network.architecture.noise_width, **generator_kwargs(generator))
        if not self.network.architecture.style_noise:
            prompts, place = batch.prompts.unique(return_inverse=True)
            triplane = self.network.triplane(self.text[prompts])
            return TriplaneField(triplane[place], self.network.decoder)
        text: PromptTokens = self.text[batch.prompts]
        return self.network(text, noise.to(text.tokens.device))

    def render_views(self, field: Field, batch: DistillationBatch, generator: torch.Generator) -> Views:
        """Objects (B, 1) as the cameras see them."""
        p = self.render_config
        return render(
            field,
            batch.cameras[:, None],
            p.size,
            p.size,
            samples=p.samples,
            importance=p.importance,
            generator=generator,
        )

    def sds_loss(
        self, batch: DistillationBatch, images: Tensor, seen: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """A loss whose gradient on the latents of images (B, 3, H, W) is w(t) (eps_hat - eps) / B."""
        s = self.sds_config
        x0 = self.guidance.encode_images(images)
        t = sds.sample_timesteps(len(x0), len(self.guidance.abar), generator, least=s.least, most=s.most).to(x0.device)
        eps = randn_like(x0, generator)
        abar = self.guidance.abar[t]
        eps_hat = self.predict_noise(batch, add_noise(x0.detach(), eps, abar), t, seen)
        gradient = sds.timestep_weight(abar, s.weight).view(-1, *[1] * (x0.dim() - 1)) * (eps_hat - eps)
        return sds.sds_surrogate_loss(x0, gradient)

    def predict_noise(self, batch: DistillationBatch, x_t: Tensor, t: Tensor, seen: Tensor | None) -> Tensor:
        """eps_hat (B, ...): the guide's answers to no prompt, the prompt from here, and, if asked, from elsewhere."""
        s = self.sds_config
        direction = severity.directions_of(batch.cameras)
        azimuth = from_front(torch.rad2deg(torch.atan2(direction[:, 1], direction[:, 0])))
        here = self.conditions.interpolated(batch.prompts, view_shares(azimuth))
        if isinstance(self.guidance, CameraGuidance):
            here = self.guidance.condition_on_camera(here, direction)
        asked = [self.conditions.unconditional(len(x_t)), here]
        if s.against == "none":
            nothing, positive = sds.predict_noise(self.guidance, x_t, t, asked)
            return sds.classifier_free_guidance(nothing, positive, s.scale)
        elevation = torch.rad2deg(torch.asin(direction[:, 2]))
        weights, views = negative_weights(azimuth, s.schedule, elevation).topk(2, dim=-1)  # no schedule has more
        asked += [self.conditions.for_view(batch.prompts, view) for view in views.T]
        strength = severity.negative_weight(self.severity(batch, direction, seen), s.w_min, s.dw)
        nothing, positive, *away = sds.predict_noise(self.guidance, x_t, t, asked)
        return sds.perp_neg(
            nothing,
            positive,
            torch.stack(away),
            weights.T * strength,
            s.scale,
            perpendicular=s.against == "perp-neg",
        )

    def severity(self, batch: DistillationBatch, direction: Tensor, seen: Tensor | None) -> Tensor:
        """C (B,) against the others of the same prompt in the batch or, where there are none, its last view."""
        if not self.sds_config.dw or seen is None or self.feature_cache is None:
            return torch.zeros(len(direction), device=direction.device)
        now, last = severity.other_views(batch.prompts, direction, seen), self.feature_cache.get(batch.prompts)[None]
        last = CachedViews(last.directions, last.features, last.seen & ~now.seen.any(0))
        others = CachedViews.cat([now, last])
        found = severity.severity(
            direction, others.directions, seen, others.features, others.seen, similarity=self.sds_config.similarity
        )
        self.feature_cache.put(batch.prompts, direction, seen)
        return found
