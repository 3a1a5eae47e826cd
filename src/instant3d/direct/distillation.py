"""One score-distillation step: render the predicted triplanes, evaluate the guidance model, form the SDS loss.

See arXiv 2311.08403, section 3.
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

ORIENTATION_SIDE = 16  # rays a side for the orientation loss
Against = Literal["none", "plain", "perp-neg"]


@dataclass(frozen=True)
class DistillationBatch(TensorDataclass):
    """Prompts and the cameras that their objects are rendered from.

    Attributes:
        prompts: (B,) long, indices in the list of prompts.
        cameras: Cameras (B,).
    """

    prompts: Tensor
    cameras: Cameras


@dataclass(frozen=True)
class SDSConfig:
    """Settings of score distillation; what the paper leaves open has the value of earlier work.

    Attributes:
        scale: Of classifier-free guidance.
        least: Lower end of the timesteps that are drawn, as a share of the schedule.
        most: Upper end of the timesteps that are drawn, as a share of the schedule.
        weight: The weighting w(t) of timesteps, see `sds.timestep_weight`.
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
    """Size and samples of the rendered images.

    Attributes:
        size: Side of the images in pixels.
        samples: Samples at even intervals on each ray.
        importance: Further samples on each ray, placed by importance.
    """

    size: int = 64
    samples: int = 64
    importance: int = 64


class TextConditions:
    """Guidance conditions of each prompt with each of the view words, and of the empty prompt.

    Args:
        guidance: The guidance model that embeds them.
        prompts: P texts.
    """

    def __init__(self, guidance: DiffusionGuidance, prompts: Sequence[str]) -> None:
        texts = [with_view_words(prompt, view) for prompt in prompts for view in VIEWS] + [""]
        self.unconditional_index = len(texts) - 1
        self.table = EmbeddingCache(texts, guidance.embed_prompts)

    def for_view(self, prompts: Tensor, view: Tensor) -> base.Conditions:
        """Conditions of prompts (B,) with the words of views (B,), indices of VIEWS."""
        return self.table[prompts * len(VIEWS) + view]

    def interpolated(self, prompts: Tensor, share: Tensor) -> base.Conditions:
        """Conditions of prompts (B,) for cameras between the views, weighted by shares (B, 3)."""
        rows = prompts[:, None] * len(VIEWS) + torch.arange(len(VIEWS), device=prompts.device)
        return sds.mix_conditions(self.table[rows], share)

    def unconditional(self, count: int) -> base.Conditions:
        """Conditions of the empty prompt, `count` times."""
        return self.table[torch.full((count,), self.unconditional_index)]


class Distillation:
    """Losses of score distillation for a network and a list of prompts.

    Args:
        network: The network to train.
        guidance: The frozen diffusion model.
        prompts: P texts.
        text: The network's own token features of the prompts, (P, N, C), or an `EmbeddingCache` of them.
        sds_config: How the guidance is evaluated and weighted.
        render_config: Size and samples of the rendered images.
        image_encoder: Features (B, F) of images (B, 3, H, W), for the severity of Perp-Neg and the CLIP loss.
        feature_cache: Last features of every prompt, for the severity against earlier views.
        text_features: CLIP features (P, F) of the prompts, for the CLIP loss.

    Raises:
        ValueError: A loss lacks one of the last three.
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
                "adaptive Perp-Neg (dw above 0) needs an image encoder and a feature cache; give both, or set dw to 0"
            )
        if sds_config.clip and (image_encoder is None or text_features is None):
            raise ValueError(
                "the CLIP loss needs an image encoder and the prompts' text features; give both, or set clip to 0"
            )
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
        """Losses of a batch.

        Args:
            batch: B prompts and cameras.
            background: Colours behind the objects, (B, 3).
            generator: All random numbers: style noise, positions along rays, timesteps, diffusion noise.
            shade: Maps the fields to those that are rendered, for example shaded.

        Returns:
            Losses by name without their weights, and the rendered views (B, 1).
        """
        field = self.field(batch, generator)
        rendered = self.render_views(shade(field), batch, generator)
        images = rendered.composite(background[:, None])[:, 0]
        features = self.image_encoder(images) if self.image_encoder is not None else None
        losses = {"sds": self.sds_loss(batch, images, features, generator)}
        if self.sds_config.clip and features is not None and self.text_features is not None:
            losses["clip"] = clip_loss(features, self.text_features[batch.prompts].to(features)).mean()
        if self.sds_config.orientation:
            rays = batch.cameras.rays(ORIENTATION_SIDE, ORIENTATION_SIDE).map(lambda tensor: tensor.flatten(1, 2))
            losses["orientation"] = field_orientation(field, rays, generator=generator)
        return losses, rendered

    def field(self, batch: DistillationBatch, generator: torch.Generator) -> TriplaneField:
        """Fields of the prompts (B); if the network takes no noise, all views of a prompt share one forward pass."""
        noise = torch.randn(len(batch.prompts), self.network.architecture.noise_width, **generator_kwargs(generator))
        if not self.network.architecture.style_noise:
            prompts, place = batch.prompts.unique(return_inverse=True)
            triplane = self.network.triplane(self.text[prompts])
            return TriplaneField(triplane[place], self.network.decoder)
        text: PromptTokens = self.text[batch.prompts]
        return self.network(text, noise.to(text.tokens.device))

    def render_views(self, field: Field, batch: DistillationBatch, generator: torch.Generator) -> Views:
        """Render fields from the batch's cameras.

        Args:
            field: Fields of B objects.
            batch: B prompts and cameras.
            generator: Random positions along the rays.

        Returns:
            Views (B, 1), square, of the size in `render_config`.
        """
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
        self, batch: DistillationBatch, images: Tensor, features: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Loss whose gradient on the latents of images is w(t) (eps_hat - eps) / B (Poole et al. 2022, eq. 3).

        Args:
            batch: B prompts and cameras.
            images: (B, 3, H, W) in [0, 1].
            features: Image features (B, F), for the severity.
            generator: Random timesteps and noise.
        """
        s = self.sds_config
        x0 = self.guidance.encode_images(images)
        t = sds.sample_timesteps(len(x0), len(self.guidance.abar), generator, least=s.least, most=s.most).to(x0.device)
        eps = randn_like(x0, generator)
        abar = self.guidance.abar[t]
        eps_hat = self.predict_noise(batch, add_noise(x0.detach(), eps, abar), t, features)
        gradient = sds.timestep_weight(abar, s.weight).view(-1, *[1] * (x0.dim() - 1)) * (eps_hat - eps)
        return sds.sds_surrogate_loss(x0, gradient)

    def predict_noise(self, batch: DistillationBatch, x_t: Tensor, t: Tensor, features: Tensor | None) -> Tensor:
        """Guided noise eps_hat of a batch (arXiv 2311.08403, eq. 3, 10 to 12).

        Args:
            batch: B prompts and cameras.
            x_t: Noisy latents, (B, ...).
            t: Timesteps, (B,).
            features: Image features (B, F), for the severity.

        Returns:
            (B, ...), from the empty prompt, the prompt of the view and, for negatives, those of other views.
        """
        s = self.sds_config
        direction = severity.directions_of(batch.cameras)
        azimuth = from_front(torch.rad2deg(torch.atan2(direction[:, 1], direction[:, 0])))
        here = self.conditions.interpolated(batch.prompts, view_shares(azimuth))
        if isinstance(self.guidance, CameraGuidance):
            here = self.guidance.condition_on_camera(here, direction)
        conditions = [self.conditions.unconditional(len(x_t)), here]
        if s.against == "none":
            unconditional, positive = sds.predict_noise(self.guidance, x_t, t, conditions)
            return sds.classifier_free_guidance(unconditional, positive, s.scale)
        elevation = torch.rad2deg(torch.asin(direction[:, 2]))
        weights, views = negative_weights(azimuth, s.schedule, elevation).topk(2, dim=-1)  # no schedule has more
        conditions += [self.conditions.for_view(batch.prompts, view) for view in views.T]
        strength = severity.negative_weight(self.severity(batch, direction, features), s.w_min, s.dw)
        unconditional, positive, *away = sds.predict_noise(self.guidance, x_t, t, conditions)
        return sds.perp_neg(
            unconditional,
            positive,
            torch.stack(away),
            weights.T * strength,
            s.scale,
            perpendicular=s.against == "perp-neg",
        )

    def severity(self, batch: DistillationBatch, direction: Tensor, features: Tensor | None) -> Tensor:
        """Severity C (arXiv 2311.08403, eq. 12) against other views of the prompt in the batch, else its cached view.

        The batch's views then replace those in the cache.

        Args:
            batch: B prompts and cameras.
            direction: Unit vectors from the objects to the cameras, (B, 3).
            features: Image features (B, F); None without an image encoder.

        Returns:
            C (B,) in [0, 1]; 0 if `dw` is 0, or without features or a cache.
        """
        if not self.sds_config.dw or features is None or self.feature_cache is None:
            return torch.zeros(len(direction), device=direction.device)
        now, last = (
            severity.other_views(batch.prompts, direction, features),
            self.feature_cache.get(batch.prompts)[None],
        )
        last = CachedViews(last.directions, last.features, last.seen & ~now.seen.any(0))
        others = CachedViews.cat([now, last])
        degree = severity.severity(
            direction, others.directions, features, others.features, others.seen, similarity=self.sds_config.similarity
        )
        self.feature_cache.put(batch.prompts, direction, features)
        return degree
