"""Training of the sparse-view reconstructor (arXiv 2311.06214, section 3.2; LRM, arXiv 2311.04400, section 4)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from instant3d.modules.feature_loss import FeatureLoss
from instant3d.modules.losses import (
    PerceptualLoss,
    eikonal_loss,
    free_space_loss,
    geometric_losses,
    gradient_loss,
    photometric_losses,
)
from instant3d.modules.lr_schedule import with_lr_schedule
from instant3d.modules.metrics import mask_iou, psnr
from instant3d.modules.vae_blur import VaeBlur
from instant3d.nerf.triplane import Triplane, TriplaneField
from instant3d.nerf.volume import render
from instant3d.stage2.data import ReconstructionBatch
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.stage2.parameter_groups import parameter_groups, train_only
from instant3d.stage2.warm_start import warm_start
from instant3d.utils.errors import print_escaped
from instant3d.utils.random_numbers import rand_like
from instant3d.views import Views

EIKONAL_POINTS = 1024  # of each object and step


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses; the paper has the first two. Losses of weight 0 are not computed.

    Attributes:
        rgb: Of the mean squared error of colours.
        perceptual: Of the perceptual loss (LPIPS with VGG-16).
        mask: Of the mean squared error of alpha.
        depth: Of the error of depth, in world units.
        normal: Of the error of normals, 1 - cosine.
        opacity: Of the free-space loss, opacity between a camera and the ground-truth depth (MeshLRM, eq. 3).
        feature: Of the distance of EfficientNet-lite0's features, whose weights the extra `features` installs.
        gradient: Of the mean absolute error of differences of neighbouring pixels (arXiv 1511.05440).
        eikonal: Of the error of a signed distance's gradient at random points; needs density "laplace".
    """

    rgb: float = 1.0
    perceptual: float = 2.0
    mask: float = 0.0
    depth: float = 0.0
    normal: float = 0.0
    opacity: float = 0.0
    feature: float = 0.0
    gradient: float = 0.0
    eikonal: float = 0.0


@dataclass(frozen=True)
class VaeInputs:
    """Input views as a latent diffusion model decodes them.

    Attributes:
        model: Folder or Hub id of the model whose VAE encodes and decodes them; null is the bundled stage 1.
        probability: Of an object's input views, all together; 0 loads no VAE.
    """

    model: str | None = None
    probability: float = 0.0


@dataclass(frozen=True)
class RayMarching:
    """Samples on each ray.

    Attributes:
        samples: Samples at even intervals on each ray.
        importance: Further samples on each ray, placed by importance; 0 renders the even ones.
    """

    samples: int = 128
    importance: int = 0


class Stage2Module(L.LightningModule):
    """Trains a Reconstructor to render an object from other cameras, given four views of it.

    Args:
        architecture: Sizes and variants of the network.
        pretrained_encoder: Whether the image encoder begins with DINO's released weights.
        ray_marching: How rays are sampled.
        loss_weights: Weights of the losses.
        vgg_weights: File of VGG-16 weights, "download", or null for no perceptual loss.
        background: "white" or "random": the colour that targets and renderings are composited on before they are
            compared.
        learning_rate: Of AdamW, after the warm-up; falls to 0 at the end by a cosine.
        warmup_steps: Steps over which the learning rate rises from 0.
        betas: Of AdamW.
        weight_decay: Of AdamW, on matrices alone.
        checkpointing: Whether transformer blocks and ray chunks are recomputed in the backward pass to save memory.
        max_memory: Bytes that one chunk of rays may take.
        start: Folder of weights or Hub id to begin with; it brings its own architecture and licence. Fields of
            `architecture` that are not at their defaults change that architecture, see `warm_start`.
        trainable: Names of the parts that are trained, such as "decoder" or "lift.up"; the others are frozen. All are
            trained by default, and always those that `start` does not have.
        added_learning_rate: Instead of `learning_rate`, of the tensors that `start` does not have; the same by default.
        torch_compile: Whether the network is compiled by torch.compile: shorter steps for a minute at the start.
        vae_inputs: Whether training inputs pass a VAE.
    """

    def __init__(
        self,
        architecture: Architecture = Architecture(),  # noqa: B008
        pretrained_encoder: bool = False,
        ray_marching: RayMarching = RayMarching(),
        loss_weights: LossWeights = LossWeights(),
        vgg_weights: str | None = "download",
        background: str = "random",
        learning_rate: float = 4e-4,
        warmup_steps: int = 3000,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        checkpointing: bool = False,
        max_memory: int = 2**32,
        start: str | None = None,
        trainable: list[str] | None = None,
        added_learning_rate: float | None = None,
        torch_compile: bool = False,
        vae_inputs: VaeInputs = VaeInputs(),
    ) -> None:
        super().__init__()
        if background not in ("white", "random"):
            raise ValueError(f"background must be white or random, got {background!r}")
        self.added: list[str] = []
        if start is None:
            self.network = Reconstructor(architecture, pretrained_encoder=pretrained_encoder)
        else:
            self.network, self.added = warm_start(start, architecture)
        if self.added:
            _report(f"{start} has no {', '.join(self.added)}: training begins with their initial values")
        if trainable is not None:
            train_only(self.network, [*trainable, *self.added])
        if loss_weights.eikonal and self.network.architecture.density != "laplace":
            raise ValueError("the eikonal loss needs a signed distance; set density to laplace, or its weight to 0")
        self.network.checkpointing = self.network.encoder.checkpointing = checkpointing
        self.ray_marching, self.loss_weights, self.background = ray_marching, loss_weights, background
        self.perceptual = PerceptualLoss(vgg_weights) if vgg_weights and loss_weights.perceptual else None
        self.features = FeatureLoss() if loss_weights.feature else None
        self.vae_blur = VaeBlur(vae_inputs.model, vae_inputs.probability) if vae_inputs.probability else None
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.added_learning_rate = learning_rate if added_learning_rate is None else added_learning_rate
        self.betas, self.weight_decay = betas, weight_decay
        self.checkpointing, self.max_memory = checkpointing, max_memory
        self.torch_compile = torch_compile
        self.compiled: Callable[[Views], Triplane] | None = None

    def on_train_start(self) -> None:
        """Compile the network if `torch_compile` is set."""
        if self.torch_compile:  # only here, after EMA has copied the module
            self.compiled = torch.compile(self.network.triplane, dynamic=False)

    def field(self, views: Views) -> TriplaneField:
        """Triplane field of a training batch of views (B, V)."""
        if self.compiled is None:
            return self.network(views)
        return TriplaneField(self.compiled(views), self.network.decoder)

    def training_step(self, batch: ReconstructionBatch, batch_idx: int) -> Tensor:
        """Weighted sum of the losses of a batch."""
        generator = torch.Generator(self.device).manual_seed(self.global_step)
        field = self.field(batch.inputs if self.vae_blur is None else self.vae_blur(batch.inputs, generator))
        targets = batch.targets
        rendered = self.render_like(field, targets, generator)
        background = torch.ones(*targets.cameras.shape, 3, device=self.device)
        if self.background == "random":
            background = rand_like(background, generator)
        losses = photometric_losses(rendered, targets, background) | geometric_losses(rendered, targets)
        images = rendered.composite(background), targets.composite(background)
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(*images)
        if self.features is not None:
            losses["feature"] = self.features(*images)
        if self.loss_weights.gradient:
            losses["gradient"] = gradient_loss(*images)
        if self.loss_weights.opacity:
            losses["opacity"] = free_space_loss(field, targets, generator)
        if self.loss_weights.eikonal:
            points = torch.empty(len(targets.rgb), EIKONAL_POINTS, 3, device=self.device)
            losses["eikonal"] = eikonal_loss(field, 2 * rand_like(points, generator) - 1)
        total = sum(
            (weight * losses[name] for name, weight in asdict(self.loss_weights).items() if weight and name in losses),
            torch.zeros(()),
        )
        report = {name: loss.detach() for name, loss in losses.items()} | {
            "psnr": psnr(rendered.composite(background).detach(), targets.composite(background)).mean(),
            "alpha": rendered.alpha.detach().mean(),
        }
        self.log_dict({f"train/{name}": value for name, value in report.items()}, batch_size=len(targets.rgb))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(targets.rgb))
        return total

    def validation_step(self, batch: ReconstructionBatch, batch_idx: int) -> dict[str, Any]:
        """Log validation metrics and return the renderings, which `ImageLogger` shows."""
        return {"rendered": self.compare(batch, "val")}

    def test_step(self, batch: ReconstructionBatch, batch_idx: int) -> None:
        """Log test metrics."""
        self.compare(batch, "test")

    def predict_step(self, batch: ReconstructionBatch, batch_idx: int) -> list[Triplane]:
        """Triplane of each object of the batch, from its input views."""
        return self.network.triplane(batch.inputs).unbind()

    def compare(self, batch: ReconstructionBatch, stage: str) -> Views:
        """Render the target views and log PSNR, mask IoU and mean alphas.

        Args:
            batch: Views to reconstruct and to compare with.
            stage: "val" or "test", the prefix of the logged names.

        Returns:
            The renderings.
        """
        rendered, targets = self.render_like(self.network(batch.inputs), batch.targets), batch.targets
        report = {
            "psnr": psnr(rendered.composite(1.0).clamp(0, 1), targets.composite(1.0)).mean(),
            "mask_iou": mask_iou(rendered.alpha, targets.alpha).mean(),
            "alpha": rendered.alpha.mean(),
            "true_alpha": targets.alpha.mean(),
        }
        self.log_dict(
            {f"{stage}/{name}": value for name, value in report.items()}, batch_size=len(targets.rgb), sync_dist=True
        )
        return rendered

    def render_like(self, field: Any, target: Views, generator: torch.Generator | None = None) -> Views:
        """Render a field from the cameras and at the size of `target`.

        Args:
            field: A field of B objects.
            target: Views (B, M).
            generator: Draws random sample positions along rays, and normals if their loss is used; None samples evenly.
        """
        return render(
            field,
            target.cameras,
            target.height,
            target.width,
            samples=self.ray_marching.samples,
            importance=self.ray_marching.importance,
            generator=generator,
            with_normals=bool(self.loss_weights.normal) and generator is not None,
            max_memory=self.max_memory,
            checkpointing=self.checkpointing,
        )

    def configure_optimizers(self) -> Any:
        """AdamW with weight decay on matrices alone, and the learning-rate schedule."""
        groups = parameter_groups(self.network, self.weight_decay, self.added, self.added_learning_rate)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas)
        return with_lr_schedule(optimizer, self.warmup_steps, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the architecture and the weights' licence for `export`."""
        checkpoint["architecture"] = asdict(self.network.architecture)
        if self.network.licence is not None:
            checkpoint["licence"] = self.network.licence

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the weights' licence."""
        self.network.licence = checkpoint.get("licence", self.network.licence)


@rank_zero_only
def _report(message: str) -> None:
    print_escaped(message, sys.stderr)
