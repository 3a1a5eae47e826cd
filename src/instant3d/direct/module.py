"""Training of the text-to-triplane network by score distillation (arXiv 2311.08403, sections 3.3 to 3.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from instant3d.cameras import STRUCTURED_ELEVATION_DEG, orbit
from instant3d.direct.architecture import Architecture
from instant3d.direct.clip_loss import ClipImageEncoder
from instant3d.direct.data import NamedPrompts, PromptDataModule, TrainingBatch
from instant3d.direct.distillation import Distillation, RenderConfig, SDSConfig
from instant3d.direct.embedding_cache import EmbeddingCache
from instant3d.direct.guidance.configs import GuidanceConfig, StableDiffusionConfig
from instant3d.direct.network import TextToTriplane
from instant3d.direct.regularisers import entropy, opacity
from instant3d.direct.severity import FeatureCache
from instant3d.direct.shading import Lighting, Mode, ShadedField, light_directions
from instant3d.direct.training_record import TrainingRecord
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG
from instant3d.modules.diffusion.prompt_tokens import PromptEncoder, PromptTokens
from instant3d.modules.diffusion.stable_diffusion import SD_2_1_BASE
from instant3d.modules.frozen import FrozenModules
from instant3d.modules.lr_schedule import training_progress, with_lr_schedule
from instant3d.nerf.field import Field
from instant3d.nerf.triplane import Triplane
from instant3d.nerf.volume import render
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.data_order import generator_from_key
from instant3d.utils.random_numbers import generator_kwargs, rand_like
from instant3d.utils.safetensors_folder import resolve
from instant3d.views import Views

FOUR_SIDES = orbit([FRONT_AZIMUTH_DEG + 90 * k for k in range(4)], STRUCTURED_ELEVATION_DEG)  # front first


@dataclass(frozen=True)
class DistillationWeights:
    """Weights of the losses that are not in `sds`; losses of weight 0 are not computed.

    Attributes:
        sds: Of score distillation. 1 makes the gradient on the latents w(t) (eps_hat - eps) / B, a sum over latents; 1
            / their number makes it a mean, which the usual weights of the others are for.
        opacity: Of the loss that keeps space empty.
        entropy: Of the loss that keeps pixels from being half transparent.
    """

    sds: float = 1.0
    opacity: float = 0.0
    entropy: float = 0.0


class Frozen(FrozenModules):
    """Frozen models and caches of a training run, kept out of the module's state_dict, EMA and deep copies."""

    def __init__(self) -> None:
        self.encoder: PromptEncoder | None = None
        self.distillation: Distillation | None = None
        self.restored: dict[str, Any] = {}  # state in a checkpoint besides weights


class DirectModule(L.LightningModule):
    """Trains a TextToTriplane by score distillation from a diffusion model, on a list of prompts.

    Args:
        architecture: Sizes of the network.
        text: Tokenizer and text encoder of the prompts: a folder in diffusers' layout or a Hub id.
        guidance: The diffusion model: `StableDiffusionConfig`, or `FiniteSetConfig`, the exact one of a set of images;
            null is Stable Diffusion 2.1.
        text_layers: Layers of the text encoder that are used; 0 for its word embeddings alone, null for all.
        clip: CLIP for the CLIP loss and the severity of adaptive Perp-Neg, a folder or a Hub id; the paper names none,
            the released code loads this one.
        sds: How the guidance is evaluated and weighted.
        render: Size and samples of the rendered images.
        loss_weights: Weights of the losses.
        lighting: How often images are shaded.
        background: "random": one colour for each image, so that white parts of an object differ from the background; or
            "white", for a guidance model of images over white.
        alpha_start: Alpha of the colours' scaled sigmoid at the start, which rises linearly to 1; the paper has 0.5.
        alpha_share: Share of all steps over which it rises.
        learning_rate: Of Adam.
        decay: Whether the learning rate falls to 0 at the end by a cosine; otherwise it is constant, as in the paper.
        betas: Of Adam.
        epsilon: Of Adam.
        checkpointing: Whether the network's stages are recomputed in the backward pass to save memory.
        start: Folder of weights or Hub id to fine-tune; it brings its own architecture.
        seed: Random seed of noise, timesteps, backgrounds and lights.
    """

    def __init__(
        self,
        architecture: Architecture = Architecture(),  # noqa: B008
        text: str = SD_2_1_BASE,
        guidance: GuidanceConfig | None = None,
        text_layers: int | None = None,
        clip: str | None = "openai/clip-vit-large-patch14",
        sds: SDSConfig = SDSConfig(),  # noqa: B008
        render: RenderConfig = RenderConfig(),  # noqa: B008
        loss_weights: DistillationWeights = DistillationWeights(),
        lighting: Lighting = Lighting(),
        background: str = "random",
        alpha_start: float = 0.5,
        alpha_share: float = 0.6,
        learning_rate: float = 1e-4,
        decay: bool = False,
        betas: tuple[float, float] = (0.9, 0.99),
        epsilon: float = 1e-15,
        checkpointing: bool = False,
        start: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if background not in ("white", "random"):
            raise ValueError(f"background must be white or random, got {background!r}")
        if not 0 < alpha_start <= 1 or not 0 <= alpha_share <= 1:
            raise ValueError(
                f"alpha_start must lie in (0, 1] and alpha_share in [0, 1], got {alpha_start} and {alpha_share}"
            )
        if clip is None and needs_clip(sds):
            raise ValueError(
                "the CLIP loss and adaptive Perp-Neg need a CLIP: set model.clip to one, or model.sds.clip and "
                "model.sds.dw to 0"
            )
        self.network = TextToTriplane(architecture) if start is None else TextToTriplane.from_pretrained(start).train()
        self.network.checkpointing = checkpointing
        self.start = start
        self.words: CaptionWords | None = None  # words of the training prompts, if they are known
        self.text, self.text_layers = text, text_layers
        self.guidance, self.clip = guidance or StableDiffusionConfig(), clip
        self.sds, self.render, self.loss_weights, self.background = sds, render, loss_weights, background
        self.lighting = lighting
        self.alpha_start, self.alpha_share = alpha_start, alpha_share
        self.learning_rate, self.decay, self.betas, self.epsilon = learning_rate, decay, betas, epsilon
        self.seed = seed
        self.frozen = Frozen()

    def on_fit_start(self) -> None:
        """Load the guidance model and embed the prompts once; training then refers to prompts by their indices."""
        prompts = self.data.texts
        restored = self.frozen.restored
        if restored and restored["prompts"] != prompts_digest(prompts):
            raise ValueError(
                "the checkpoint was trained on other prompts; give the same data.prompts, data.share and "
                "data.split_seed"
            )
        self.words = trained_words(prompts, self.start)
        guidance, _ = self.guidance.load(self.device)
        image_encoder = (
            ClipImageEncoder.from_pretrained(cast(str, self.clip), self.device) if needs_clip(self.sds) else None
        )
        feature_cache = (
            None if image_encoder is None else FeatureCache(len(prompts), image_encoder.width).to(self.device)
        )
        if feature_cache is not None and "memory" in restored:
            feature_cache.load_state_dict(restored["memory"])
        self.frozen.distillation = Distillation(
            self.network,
            guidance,
            prompts,
            EmbeddingCache(prompts, self.encode_prompts),
            sds_config=self.sds,
            render_config=self.render,
            image_encoder=image_encoder,
            feature_cache=feature_cache,
            text_features=None if image_encoder is None else image_encoder.embed_texts(prompts),
        )

    @property
    def data(self) -> PromptDataModule:
        """The data module of the run, which has read the prompts."""
        return cast(PromptDataModule, cast(Any, self.trainer).datamodule)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Weighted sum of the losses of a batch."""
        self.anneal()
        generator = generator_from_key(self.seed, int(batch.example_index[0]), 5, device=self.device)
        background = torch.ones(len(batch.prompts), 3, device=self.device)
        if self.background == "random":
            background = rand_like(background, generator)
        shade = self.shading(batch, generator)
        losses, rendered = cast(Distillation, self.frozen.distillation)(batch, background, generator, shade)
        if self.loss_weights.opacity:
            losses["opacity"] = opacity(rendered.alpha)
        if self.loss_weights.entropy:
            losses["entropy"] = entropy(rendered.alpha)
        weights = asdict(self.loss_weights) | {"clip": self.sds.clip, "orientation": self.sds.orientation}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        report = {name: loss.detach() for name, loss in losses.items()} | {"alpha": rendered.alpha.detach().mean()}
        self.log_dict({f"train/{name}": value for name, value in report.items()}, batch_size=len(background))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(background))
        return total

    def shading(self, batch: TrainingBatch, generator: torch.Generator) -> Callable[[Field], Field]:
        """Shading of this step's fields, whose mode is drawn for all objects alike; light directions differ.

        Args:
            batch: Cameras, around which lights are drawn.
            generator: Random numbers.

        Returns:
            A function from a field to the field to be rendered.
        """
        lit, plain = torch.rand(2, **generator_kwargs(generator)).tolist()
        if self.global_step < self.lighting.begin or lit >= self.lighting.chance:
            return lambda field: field
        mode: Mode = "textureless" if plain < self.lighting.textureless else "lambertian"
        toward = light_directions(batch.cameras, generator)
        return lambda field: ShadedField(field, mode, toward, self.lighting.ambient)

    def anneal(self) -> None:
        """Anneal the slope of the colours' sigmoid; checkpoints hold its current value, the decoder's `alpha`."""
        if self.network.architecture.rgb == "scaled":
            progress = training_progress(self.trainer, self.global_step)
            self.network.decoder.alpha.fill_(linear_ramp(progress, self.alpha_share, self.alpha_start))

    def validation_step(self, batch: NamedPrompts, batch_idx: int) -> dict[str, Any]:
        """Render prompts and return the views, which `ImageLogger` shows."""
        return {"rendered": self.render_prompts(batch, "val")}

    def test_step(self, batch: NamedPrompts, batch_idx: int) -> None:
        """Render prompts and log the mean alpha."""
        self.render_prompts(batch, "test")

    def predict_step(self, batch: NamedPrompts, batch_idx: int) -> list[Triplane]:
        """Triplane of each of the batch's prompts, deterministic."""
        return self.network.triplane(self.encode_prompts(batch.prompts)).unbind()

    def render_prompts(self, batch: NamedPrompts, stage: str) -> Views:
        """Render the objects of prompts from four sides and log the mean alpha.

        Args:
            batch: B prompts.
            stage: "val" or "test", the prefix of the logged name.

        Returns:
            Views (B, 4), front first.
        """
        field = self.network(self.encode_prompts(batch.prompts))
        cameras = FOUR_SIDES.to(self.device).map(lambda tensor: tensor.expand(len(batch.prompts), *tensor.shape))
        p = self.render
        rendered = render(field, cameras, p.size, p.size, samples=p.samples, importance=p.importance)
        self.log(f"{stage}/alpha", rendered.alpha.mean(), batch_size=len(batch.prompts), sync_dist=True)
        return rendered

    def encode_prompts(self, prompts: Sequence[str]) -> PromptTokens:
        """Token features of prompts (B) for the network; the encoder is loaded at the first call."""
        if self.frozen.encoder is None:
            self.frozen.encoder = PromptEncoder.from_pretrained(self.text, self.device, layers=self.text_layers)
        return self.frozen.encoder.to(self.device)(prompts)

    def configure_optimizers(self) -> Any:
        """Adam with the learning-rate schedule."""
        optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate, self.betas, self.epsilon)
        return with_lr_schedule(optimizer, 0, self.trainer if self.decay else None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the settings that `export_direct` needs, the training record and the feature cache."""
        text_encoder = {"text": self.text, "text_layers": self.text_layers}
        checkpoint["direct"] = {"architecture": asdict(self.network.architecture)} | text_encoder
        distillation = self.frozen.distillation
        if distillation is not None:
            data = self.data
            batch = data.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
            clip = cast(str, self.clip) if needs_clip(self.sds) else ""
            checkpoint["direct"]["taught"] = asdict(TrainingRecord(self.global_step, batch, len(data.texts), clip))
            checkpoint["direct"]["words"] = None if self.words is None else dict(self.words.counts)
            checkpoint["taught"] = {"prompts": prompts_digest(data.texts)}
            if distillation.feature_cache is not None:
                checkpoint["taught"]["memory"] = distillation.feature_cache.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the feature cache and the digest of the prompts until `on_fit_start`."""
        self.frozen.restored = checkpoint.get("taught", {})


def trained_words(prompts: Sequence[str], start: str | None) -> CaptionWords | None:
    """Words of the prompts, with those of the weights in `start` that were fine-tuned; None if these are not known."""
    words = CaptionWords.of(dict.fromkeys(prompts, 1))
    if start is None:
        return words
    before = CaptionWords.read(resolve(start) / "tokenizer")
    return None if before is None else before.joined(words)


def needs_clip(sds: SDSConfig) -> bool:
    """Whether CLIP compares images, for its loss or the severity of Perp-Neg."""
    return bool(sds.clip or (sds.dw and sds.against != "none"))


def linear_ramp(progress: float, end: float, start: float) -> float:
    """Linear ramp from `start` at progress 0 up to 1 at the progress `end`, and 1 from there on."""
    return 1.0 if progress >= end else start + (1 - start) * progress / end


def prompts_digest(prompts: Sequence[str]) -> str:
    """Hash of a list of prompts."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()
