"""Training of a VAE and two text encoders, which stage 1 keeps frozen, where no pretrained model is available.

The VAE is trained to reconstruct single views (Kingma & Welling 2014), the text encoders against image encoders by
InfoNCE (CLIP, Radford et al. 2021). A run has a number of steps or seconds, and continues where it was interrupted.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.diffusion.tiny_models import clip_pair
from instant3d.modules.lr_schedule import lr_factor
from instant3d.utils import atomic
from instant3d.utils.cuda_graphs import GraphedModule
from instant3d.utils.devices import fast_dtype
from instant3d.utils.errors import print_escaped

KL = 3e-4  # nats a latent against mean absolute error: keeps latents near a unit normal, at little cost in sharpness
WARMUP = 100  # steps
SAVE_SECONDS, REPORT_SECONDS = 30.0, 10.0

LossFunction = Callable[[int, torch.Generator], tuple[Tensor, str]]


@dataclass(frozen=True)
class TrainingSettings:
    """Training settings of one part.

    Attributes:
        batch_size: Views, or views with their captions, in a step.
        learning_rate: The highest one, of AdamW.
        seconds: Length of the training; whichever of this and `steps` ends first, ends it.
        steps: Length of the training in optimiser steps.
    """

    batch_size: int
    learning_rate: float
    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is None and self.steps is None:
            raise ValueError("training needs an end; give seconds or steps")
        for name in ("batch_size", "learning_rate", "seconds", "steps"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} of a training must be positive, got {value}")

    def progress(self, step: int, seconds: float) -> float:
        """Share of the training that is over after `step` steps and `seconds` seconds."""
        ends = [(step, self.steps), (seconds, self.seconds)]
        return max(done / end for done, end in ends if end is not None)


@dataclass(frozen=True)
class CaptionedViews:
    """The structured views of N objects over white, with their captions.

    Attributes:
        views: (N, 4, 3, S, S), uint8.
        captions: N of them; objects may share one.
    """

    views: Tensor
    captions: list[str]

    def to(self, device: str | torch.device) -> CaptionedViews:
        """Move the views to a device, where batches are then drawn."""
        return CaptionedViews(self.views.to(device), self.captions)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw random views.

        Args:
            count: Number of views.
            generator: Random numbers, on the device of the views.

        Returns:
            Views (count, 3, S, S) in [-1, 1], and the index of the object that each shows, (count,).
        """
        chosen, view = (
            torch.randint(high, (count,), generator=generator, device=generator.device) for high in (len(self.views), 4)
        )
        return self.views[chosen, view].float() / 127.5 - 1, chosen


def train_vae(vae: Any, data: CaptionedViews, training: TrainingSettings, state: Path | None = None) -> None:
    """Train an `AutoencoderKL` on single views.

    The loss is the absolute and squared error, those of differences (edges) and of averages (colours), and KL.

    Args:
        vae: On the device of the data.
        data: Views to reconstruct.
        training: Length, batch size and learning rate.
        state: File that keeps an unfinished training.
    """

    autoencode = GraphedModule(
        _Autoencoder(vae)
    )  # a small network: launching its kernels takes longer than running them
    side = data.views.shape[-1] // 2 ** (len(vae.config.block_out_channels) - 1)
    latents = (training.batch_size, vae.config.latent_channels, side, side)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, str]:
        images, _ = data.sample(training.batch_size, generator)
        images = images.flip(-1) if step % 2 else images
        noise = torch.randn(latents, generator=generator, device=images.device)
        with half_precision(images.device):
            output, mean, log_variance = autoencode(images, noise)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        error = output.float() - images
        psnr = -10 * (error.detach().square().mean() / 4).log10()
        return _reconstruction_loss(error) + KL * divergence, f"{float(psnr):.1f} dB" if _due(step) else ""

    optimize(vae, loss, training, name="vae", state=state)


class _Autoencoder(nn.Module):
    """A VAE as a function of tensors alone: images and noise to images and the posterior's mean and log variance."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstructions, posterior mean and log variance of images (B, 3, S, S) with noise (B, C, h, w)."""
        posterior = self.vae.encode(images).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        return self.vae.decode(mean + noise * (log_variance / 2).exp()).sample, mean, log_variance


def _reconstruction_loss(error: Tensor) -> Tensor:
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    colours = F.avg_pool2d(error, 4).abs().mean() + F.avg_pool2d(error, 8).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + edges / 2 + colours


@torch.no_grad()
def latent_scale(vae: Any, data: CaptionedViews) -> float:
    """Factor that gives latents a standard deviation of 1 (SDXL's `scaling_factor`), estimated from 256 views."""
    images, _ = data.sample(256, torch.Generator(data.views.device).manual_seed(1))
    return 1 / float(torch.cat([vae.encode(some).latent_dist.mean for some in images.split(32)]).std())


def train_text(
    encoders: Sequence[Any],
    tokenizer: Any,
    image_encoder: Mapping[str, Any],
    data: CaptionedViews,
    training: TrainingSettings,
    state: Path | None = None,
) -> None:
    """Train text encoders, each against an image encoder of its own (InfoNCE); equal captions in a batch count as one.

    Args:
        encoders: SDXL's, on the device of the data.
        tokenizer: Both encoders'.
        image_encoder: Sizes of the image encoders, which are not kept (`transformers.CLIPVisionConfig`).
        data: Views and captions.
        training: Length, batch size and learning rate.
        state: File that keeps an unfinished training.
    """
    device = data.views.device
    ids = tokenizer(data.captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
    first = {caption: k for k, caption in reversed(list(enumerate(data.captions)))}
    caption_of = torch.tensor([first[caption] for caption in data.captions], device=device)
    pairs = [clip_pair(encoder, image_encoder).to(device) for encoder in encoders]

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, str]:
        images, chosen = data.sample(training.batch_size, generator)
        same = (caption_of[chosen][:, None] == caption_of[chosen][None]).float()
        targets = same / same.sum(1, keepdim=True)
        total = torch.zeros((), device=device)
        for pair in pairs:
            with half_precision(device):
                scores = pair(input_ids=ids[chosen], pixel_values=images).logits_per_text.float()
            total = total + (F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)) / 2
        untrained = math.log(training.batch_size)
        return total, f"loss {float(total.detach()) / len(pairs):.2f} (untrained {untrained:.2f})" if _due(step) else ""

    optimize(nn.ModuleList(pairs), loss, training, name="text encoders", state=state)


def optimize(
    module: nn.Module, loss: LossFunction, training: TrainingSettings, *, name: str = "", state: Path | None = None
) -> None:
    """Minimise a loss by AdamW; the module then holds weights averaged over about the last 200 steps.

    Args:
        module: What is trained, in place.
        loss: The loss of a step, and a note for the log, of a step's number and a generator seeded by it.
        training: Length and learning rate.
        name: For the log.
        state: File that keeps an unfinished training and is removed at its end; None keeps nothing.
    """
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=training.learning_rate, betas=(0.9, 0.99))
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=lambda means, now, _: _average(means, now, step))
    parts = {"module": module, "average": average, "optimizer": optimizer}
    step, seconds = _restore(state, parts, device)
    begin = time.monotonic() - seconds
    saved = reported = time.monotonic()
    while (progress := training.progress(step, time.monotonic() - begin)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * lr_factor(step, WARMUP, progress)
        value, note = loss(step, torch.Generator(device).manual_seed(step))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(module)
        step += 1
        now = time.monotonic()
        if note and (now - reported > REPORT_SECONDS or step == training.steps):
            print_escaped(f"{name}: step {step:,}, {100 * progress:.0f}% of the time, {note}", sys.stderr)
            reported = now
        if state is not None and now - saved > SAVE_SECONDS:
            _save(state, parts, step, now - begin)
            saved = now
    module.load_state_dict(average.module.state_dict())
    if state is not None:
        state.unlink(missing_ok=True)


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 products on CUDA, and on processors that have them."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or fast_dtype() is torch.bfloat16)


def _due(step: int) -> bool:
    """Whether a step's loss is read from the device; rarely, since reading it waits for the device."""
    return step % 10 == 9


def _average(means: Sequence[Tensor], now: Sequence[Tensor], count: int) -> None:
    """Average weights, in place, over about the last 200 steps, or over the last tenth while there were fewer."""
    torch._foreach_lerp_(list(means), list(now), max(0.005, 10 / (count + 10)))


def _save(state: Path, parts: Mapping[str, Any], step: int, seconds: float) -> None:
    content = {name: part.state_dict() for name, part in parts.items()}
    with atomic.partial_file(state, one_writer=True) as partial:
        torch.save({**content, "step": step, "seconds": seconds}, partial)


def _restore(state: Path | None, parts: Mapping[str, Any], device: torch.device) -> tuple[int, float]:
    if state is None or not state.is_file():
        return 0, 0.0
    content = torch.load(state, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(content[name])
    return content["step"], content["seconds"]
