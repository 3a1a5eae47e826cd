"""How a text-to-triplane network is taught by a diffusion model (arXiv 2311.08403, sections 3.3 to 3.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from instant3d.cameras import STRUCTURED_ELEVATION_DEG, Cameras, orbit
from instant3d.direct.architecture import Architecture
from instant3d.direct.clip_loss import ClipImageEncoder
from instant3d.direct.data import NamedPrompts, PromptDataModule, TrainingBatch
from instant3d.direct.distillation import Distillation, RenderConfig, SDSConfig
from instant3d.direct.embedding_cache import EmbeddingCache
from instant3d.direct.guidance.configs import GuidanceConfig, StableDiffusionConfig
from instant3d.direct.network import TextToTriplane
from instant3d.direct.regularisers import entropy, opacity
from instant3d.direct.severity import FeatureCache
from instant3d.direct.shading import Mode, ShadedField, light_directions
from instant3d.direct.training_record import TrainingRecord
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG
from instant3d.modules.diffusion.prompt_tokens import PromptEncoder, PromptTokens
from instant3d.modules.diffusion.stable_diffusion import SD_2_1_BASE
from instant3d.modules.lr_schedule import training_progress, with_lr_schedule
from instant3d.nerf.field import Field
from instant3d.nerf.volume import render
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.data_order import generator_from_key
from instant3d.utils.random_numbers import generator_kwargs, rand_like
from instant3d.utils.safetensors_folder import resolve
from instant3d.views import Views

SHOWN = orbit([FRONT_AZIMUTH_DEG + 90 * k for k in range(4)], STRUCTURED_ELEVATION_DEG)  # from the front, around


@dataclass(frozen=True)
class DistillationWeights:
    """The weight of each loss that is not in `sds`; losses of weight 0 are not computed.

    Attributes:
        sds: 1 makes the gradient on the latents w(t) (eps_hat - eps) / B, a sum over latents; 1 / their number makes it
            a mean, to which the usual weights of the others refer.
        opacity: Keeps space empty.
        entropy: Keeps pixels from being half transparent.
    """

    sds: float = 1.0
    opacity: float = 0.0
    entropy: float = 0.0


@dataclass(frozen=True)
class Lighting:
    """How often images are lit, so that shape is not painted on; the paper has no numbers, these are threestudio's.

    Attributes:
        chance: Probability that a step is lit, from step `begin` on; a lit image costs seven times the density.
        begin: First step that may be lit.
        textureless: Share of lit steps without colours.
        ambient: Share of the light that comes from everywhere.
    """

    chance: float = 0.0
    begin: int = 2000
    textureless: float = 0.5
    ambient: float = 0.1


class Frozen:
    """What teaches and is not taught itself: it is in none of the module's averages and copies."""

    def __init__(self) -> None:
        self.encoder: PromptEncoder | None = None
        self.cameras: Cameras | None = None
        self.distillation: Distillation | None = None
        self.restored: dict[str, Any] = {}  # what a checkpoint held beside weights

    def __deepcopy__(self, memo: Any) -> Frozen:
        return self


class DirectModule(L.LightningModule):
    """Trains a TextToTriplane by score distillation from a diffusion model, on a list of prompts.

    Args:
        architecture: Sizes of the network.
        text: Whose tokenizer and text encoder read the prompts: a folder in diffusers' layout or a Hub id.
        guidance: The diffusion model: `StableDiffusionConfig`, or `FiniteSetConfig`, the exact one of a set of images;
            null is Stable Diffusion 2.1.
        text_layers: Layers of the text encoder that are used; 0 for its word embeddings alone, null for all.
        clip: CLIP for the CLIP loss and the severity of adaptive Perp-Neg, a folder or a Hub id; the paper names none,
            the released code loads this one.
        sds: How the guidance is evaluated and weighted.
        render: Size and samples of the rendered images.
        loss_weights: The weight of each loss.
        lighting: How often images are lit.
        background: "random": one colour for each image, so that nothing hides in white; or "white", for a guidance
            whose images are.
        alpha_start: Alpha of the colours' scaled sigmoid at the start, which rises evenly to 1; the paper has 0.5.
        alpha_share: Share of all steps over which it rises.
        learning_rate: Of Adam.
        decay: Whether the learning rate falls to 0 at the end by a cosine; otherwise it is constant, as in the paper.
        betas: Of Adam.
        epsilon: Of Adam.
        checkpointing: Whether the network's stages are recomputed in the backward pass to save memory.
        start: Folder of weights or Hub id to go on from; it brings its own architecture.
        seed: Of noise, timesteps, backgrounds and lights.
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
                f"alpha rises from above 0 to 1 over a share of the steps, got {alpha_start} and {alpha_share}"
            )
        if clip is None and needs_clip(sds):
            raise ValueError(
                "the CLIP loss and adaptive Perp-Neg look at pictures: set model.clip to a CLIP, or scoring.clip and "
                "scoring.dw to 0"
            )
        self.network = TextToTriplane(architecture) if start is None else TextToTriplane.from_pretrained(start).train()
        self.network.checkpointing = checkpointing
        self.start = start
        self.words: CaptionWords | None = None  # of the prompts that it is trained on, where they are known
        self.text, self.text_layers = text, text_layers
        self.guidance, self.clip = guidance or StableDiffusionConfig(), clip
        self.sds, self.render, self.loss_weights, self.background = sds, render, loss_weights, background
        self.lighting = lighting
        self.alpha_start, self.alpha_share = alpha_start, alpha_share
        self.learning_rate, self.decay, self.betas, self.epsilon = learning_rate, decay, betas, epsilon
        self.seed = seed
        self.frozen = Frozen()

    def on_fit_start(self) -> None:
        """Read the prompts with the network's encoder and the guide's, once; from here on they are numbers."""
        prompts = cast(PromptDataModule, cast(Any, self.trainer).datamodule).texts
        restored = self.frozen.restored
        if restored and restored["prompts"] != prompts_digest(prompts):
            raise ValueError(
                "the checkpoint was taught other prompts; give the same data.prompts, data.share and data.split_seed"
            )
        self.words = trained_words(prompts, self.start)
        guide, self.frozen.cameras = self.guidance.load(self.device)
        eyes = ClipImageEncoder.from_pretrained(cast(str, self.clip), self.device) if needs_clip(self.sds) else None
        memory = None if eyes is None else FeatureCache(len(prompts), eyes.width).to(self.device)
        if memory is not None and "memory" in restored:
            memory.load_state_dict(restored["memory"])
        self.frozen.distillation = Distillation(
            self.network,
            guide,
            prompts,
            EmbeddingCache(prompts, self.encode_prompts),
            sds_config=self.sds,
            render_config=self.render,
            image_encoder=eyes,
            feature_cache=memory,
            text_features=None if eyes is None else eyes.embed_texts(prompts),
        )

    @property
    def guide_cameras(self) -> Cameras | None:
        """Where the guide's pictures were taken from (V,), if it cannot be asked from anywhere else."""
        return self.frozen.cameras

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        self.anneal()
        generator = generator_from_key(self.seed, int(batch.example_index[0]), 5, device=self.device)
        background = torch.ones(len(batch.prompts), 3, device=self.device)
        if self.background == "random":
            background = rand_like(background, generator)
        dress = self.shading(batch, generator)
        losses, shown = cast(Distillation, self.frozen.distillation)(batch, background, generator, dress)
        if self.loss_weights.opacity:
            losses["opacity"] = opacity(shown.alpha)
        if self.loss_weights.entropy:
            losses["entropy"] = entropy(shown.alpha)
        counts = asdict(self.loss_weights) | {"clip": self.sds.clip, "orientation": self.sds.orientation}
        total = torch.stack([counts[name] * loss for name, loss in losses.items()]).sum()
        report = {name: loss.detach() for name, loss in losses.items()} | {"alpha": shown.alpha.detach().mean()}
        self.log_dict({f"train/{name}": value for name, value in report.items()}, batch_size=len(background))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(background))
        return total

    def shading(self, batch: TrainingBatch, generator: torch.Generator) -> Callable[[Field], Field]:
        """What a field is in this step's light, which is drawn for all objects alike but for its direction."""
        lit, plain = torch.rand(2, **generator_kwargs(generator)).tolist()
        if self.global_step < self.lighting.begin or lit >= self.lighting.chance:
            return lambda field: field
        mode: Mode = "textureless" if plain < self.lighting.textureless else "lambertian"
        toward = light_directions(batch.cameras, generator)
        return lambda field: ShadedField(field, mode, toward, self.lighting.ambient)

    def anneal(self) -> None:
        """Let the colours' activation saturate earlier and earlier; it is as it is now in whatever is saved now."""
        if self.network.architecture.rgb == "scaled":
            progress = training_progress(self.trainer, self.global_step)
            self.network.decoder.alpha.fill_(linear_ramp(progress, self.alpha_share, self.alpha_start))

    def validation_step(self, batch: NamedPrompts, batch_idx: int) -> dict[str, Any]:
        return {"shown": self.render_prompts(batch, "val")}

    def test_step(self, batch: NamedPrompts, batch_idx: int) -> None:
        self.render_prompts(batch, "test")

    def predict_step(self, batch: NamedPrompts, batch_idx: int) -> Tensor:
        """Planes (B, 3, C, P, P) of the batch's prompts; nothing is left to chance."""
        return self.network.triplane(self.encode_prompts(batch.prompts)).planes

    def render_prompts(self, batch: NamedPrompts, stage: str) -> Views:
        """What is made of prompts (B, 4), from four sides; log how much of the picture it covers."""
        field = self.network(self.encode_prompts(batch.prompts))
        cameras = SHOWN.to(self.device).map(lambda tensor: tensor.expand(len(batch.prompts), *tensor.shape))
        p = self.render
        shown = render(field, cameras, p.size, p.size, samples=p.samples, importance=p.importance)
        self.log(f"{stage}/alpha", shown.alpha.mean(), batch_size=len(batch.prompts), sync_dist=True)
        return shown

    def encode_prompts(self, prompts: Sequence[str]) -> PromptTokens:
        """Prompts (B) as the network reads them; the encoder is loaded when it is first asked for."""
        if self.frozen.encoder is None:
            self.frozen.encoder = PromptEncoder.from_pretrained(self.text, self.device, layers=self.text_layers)
        return self.frozen.encoder.to(self.device)(prompts)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate, self.betas, self.epsilon)
        return with_lr_schedule(optimizer, 0, self.trainer if self.decay else None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        reading = {"text": self.text, "text_layers": self.text_layers}
        checkpoint["direct"] = {"architecture": asdict(self.network.architecture)} | reading
        teacher = self.frozen.distillation
        if teacher is not None:
            trainer = cast(Any, self.trainer)
            data = cast(PromptDataModule, trainer.datamodule)
            batch = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
            clip = cast(str, self.clip) if needs_clip(self.sds) else ""
            checkpoint["direct"]["taught"] = asdict(TrainingRecord(self.global_step, batch, len(data.texts), clip))
            checkpoint["direct"]["words"] = None if self.words is None else dict(self.words.counts)
            checkpoint["taught"] = {"prompts": prompts_digest(data.texts)}
            if teacher.feature_cache is not None:
                checkpoint["taught"]["memory"] = teacher.feature_cache.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.frozen.restored = checkpoint.get("taught", {})


def trained_words(prompts: Sequence[str], start: str | None) -> CaptionWords | None:
    """The words of the prompts, and of those before if training began with the folder `start`; None if it has none."""
    words = CaptionWords.of(dict.fromkeys(prompts, 1))
    if start is None:
        return words
    before = CaptionWords.read(resolve(start) / "tokenizer")
    return None if before is None else before.joined(words)


def needs_clip(sds: SDSConfig) -> bool:
    """Whether pictures are looked at, beside by the guide."""
    return bool(sds.clip or (sds.dw and sds.against != "none"))


def linear_ramp(progress: float, end: float, start: float) -> float:
    """From `start` evenly up to 1, which is reached when so much of the training is over."""
    return 1.0 if progress >= end else start + (1 - start) * progress / end


def prompts_digest(prompts: Sequence[str]) -> str:
    """What tells one list of prompts from another."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()


def export_direct(content: dict[str, Any], folder: str | Path, text: str | None = None) -> TextToTriplane:
    """Write a checkpoint's network with the tokenizer and text encoder that it reads prompts with; returns it."""
    settings = content["direct"]
    network = TextToTriplane(Architecture.from_dict(settings["architecture"], "the checkpoint"))
    prefix = "network."
    network.load_state_dict(
        {key[len(prefix) :]: value for key, value in content["state_dict"].items() if key.startswith(prefix)}
    )
    try:
        encoder = PromptEncoder.from_pretrained(text or settings["text"], layers=settings.get("text_layers"))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"what reads prompts cannot be read: {error}; if it lies elsewhere, say --base") from None
    if "taught" in settings:
        network.training_record = TrainingRecord(**settings["taught"])
    if encoder.words is not None:  # the text encoder was trained from nothing, and its own prompts are not these
        encoder.words = None if settings.get("words") is None else CaptionWords(settings["words"])
    network.save_pretrained(folder)
    encoder.save(folder)
    return network
