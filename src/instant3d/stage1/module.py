"""How the UNet of an SDXL is taught to draw grids of views (arXiv 2311.06214, section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from instant3d.diffusion.components import Components
from instant3d.diffusion.process import min_snr_weight, noised, target
from instant3d.diffusion.text import TextEmbedding, encode
from instant3d.stage1.cache import PARTS, Encoded, posterior
from instant3d.stage1.data import Pictures
from instant3d.supply import seeded

QUARTERS = 4  # of the timesteps, each with its own loss in the log


@dataclass(frozen=True)
class Draw:
    """What chance decides for each example of a batch; (B,) but for the noise."""

    timestep: Tensor
    noise: Tensor  # (B, C, h, w)
    within: Tensor  # (B, C, h, w): where in the VAE's posterior the latents lie
    silent: Tensor  # whether the prompt is left out


class Bystanders:
    """Frozen parts that a module uses but does not own: they are not in its checkpoints, averages or gradients."""

    def __init__(self, base: str) -> None:
        self.base, self.parts = base, Components()

    def __deepcopy__(self, memo: Any) -> Bystanders:
        return self

    def encoders(self, device: torch.device) -> Components:
        """VAE and text encoders, loaded when they are first asked for."""
        if self.parts.vae is None:
            self.parts = Components.load(self.base, parts=PARTS)
            for part in (self.parts.vae, self.parts.text_encoder, self.parts.text_encoder_2):
                part.requires_grad_(False)
        return self.parts.to(device)


class Stage1(L.LightningModule):
    """Teaches the UNet of an SDXL to draw four views of an object as one picture.

    base                     what to begin with: a folder in diffusers' layout, a Hub id or a .safetensors file
    prediction_type          "epsilon" or "v_prediction"; the base's own by default
    lora_rank                0 trains the whole UNet, more trains that many ranks beside its attention's projections
    lora_alpha               how loud those are: they count alpha / rank times; the rank by default
    learning_rate            constant after `warmup_steps` of rising; falls by a cosine to 0 at the end if `decay`
    min_snr_gamma            weigh timesteps as Hang et al. 2023 do (5 is their value); all alike by default
    prompt_dropout           chance that an example has no prompt, which guidance needs
    sample_latents           draw latents from the VAE's posterior; its mean otherwise
    gradient_checkpointing   recompute the UNet's blocks in the backward pass to save memory
    """

    def __init__(
        self,
        base: str = "stabilityai/stable-diffusion-xl-base-1.0",
        prediction_type: str | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        learning_rate: float = 1e-5,
        warmup_steps: int = 0,
        decay: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        min_snr_gamma: float | None = None,
        prompt_dropout: float = 0.1,
        sample_latents: bool = True,
        gradient_checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        parts = Components.load(base, parts=("unet", "scheduler"))
        self.base, self.lora_rank, self.lora_alpha = base, lora_rank, float(lora_alpha or lora_rank)
        self.kind = prediction_type or parts.scheduler.config.prediction_type
        self.unet: Any = parts.unet.train()
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.register_buffer("abar", parts.scheduler.alphas_cumprod.float().clone(), persistent=False)
        self.learning_rate, self.warmup_steps, self.decay = learning_rate, warmup_steps, decay
        self.betas, self.weight_decay, self.min_snr_gamma = betas, weight_decay, min_snr_gamma
        self.prompt_dropout, self.sample_latents, self.seed = prompt_dropout, sample_latents, seed
        self.bystanders = Bystanders(base)

    def training_step(self, batch: Encoded | Pictures, batch_idx: int) -> Tensor:
        grids = self.encoded(batch)
        chance = draw(grids, self.seed, len(self.abar), self.prompt_dropout)
        loss = self.losses(grids, chance)
        self.log_dict(by_quarter("train/loss", loss.detach(), chance.timestep, len(self.abar)), batch_size=len(loss))
        self.log("train/loss", loss.detach().mean(), prog_bar=True, batch_size=len(loss))
        return loss.mean()

    def validation_step(self, batch: Encoded | Pictures, batch_idx: int) -> None:
        self.compare(batch, "val")

    def test_step(self, batch: Encoded | Pictures, batch_idx: int) -> None:
        self.compare(batch, "test")

    def compare(self, batch: Encoded | Pictures, stage: str) -> None:
        """Log the loss at one timestep of each quarter; timesteps and noise are the same in every run."""
        grids, count = self.encoded(batch), len(self.abar)
        losses = []
        for quarter in range(QUARTERS):
            chance = draw(grids, 1_000 + quarter, count // QUARTERS, prompt_dropout=0.0)
            shifted = Draw(
                chance.timestep + quarter * count // QUARTERS, chance.noise, 0 * chance.within, chance.silent
            )
            losses.append(self.losses(grids, shifted).mean())
        report = {f"{stage}/loss_{quarter}": loss for quarter, loss in enumerate(losses)}
        report[f"{stage}/loss"] = torch.stack(losses).mean()
        self.log_dict(report, batch_size=len(grids.number), sync_dist=True)

    def encoded(self, batch: Encoded | Pictures) -> Encoded:
        """The batch as it comes from a cache; pictures and prompts go through VAE and text encoders."""
        if isinstance(batch, Encoded):
            return batch
        parts = self.bystanders.encoders(self.device)
        mean, std = posterior(parts.vae, batch.grids)
        text = encode(parts, batch.prompts).map(Tensor.float)
        size = torch.full_like(batch.number, batch.grids.shape[-1])
        return Encoded(mean, std, text, size.to(self.device), batch.number)

    def losses(self, grids: Encoded, chance: Draw) -> Tensor:
        """How far the UNet's answer is from the truth: mean square over each example, weighted, (B,)."""
        latents = grids.mean + grids.std * chance.within if self.sample_latents else grids.mean
        abar = self.abar[chance.timestep]
        answer = self.predict(
            noised(latents, chance.noise, abar), chance.timestep, muted(grids.text, chance.silent), grids.size
        )
        error = (answer.float() - target(self.kind, latents, chance.noise, abar)).square().flatten(1).mean(-1)
        return error if self.min_snr_gamma is None else error * min_snr_weight(self.kind, abar, self.min_snr_gamma)

    def predict(self, latents: Tensor, timestep: Tensor, text: TextEmbedding, size: Tensor) -> Tensor:
        """The UNet's answer (B, C, h, w); told that the pictures are `size` pixels wide and high and uncropped."""
        none = torch.zeros_like(size)
        time_ids = torch.stack([size, size, none, none, size, size], dim=-1).to(latents.dtype)
        told = {"text_embeds": text.pooled, "time_ids": time_ids}
        return self.unet(latents, timestep, text.tokens, added_cond_kwargs=told, return_dict=False)[0]

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(step, self.warmup_steps, steps if self.decay else None)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage1"] = {
            "base": self.base,
            "prediction_type": self.kind,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
        }


def draw(grids: Encoded, seed: int, timesteps: int, prompt_dropout: float) -> Draw:
    """What chance decides, a function of the seed and each example's number: neither of its batch nor of its device."""
    shape = grids.mean.shape[1:]
    found = []
    for number in grids.number.tolist():
        generator = seeded(seed, number, 3)
        timestep = torch.randint(timesteps, (), generator=generator)
        silent = torch.rand((), generator=generator) < prompt_dropout
        noise, within = torch.randn(2, *shape, generator=generator)
        found.append((timestep, noise, within, silent))
    return Draw(*(torch.stack(part).to(grids.mean.device) for part in zip(*found, strict=True)))


def muted(text: TextEmbedding, silent: Tensor) -> TextEmbedding:
    """The embedding with that of no prompt in the places (B,) that are silent."""
    nothing = TextEmbedding.nothing_like(text)
    tokens = torch.where(silent[:, None, None], nothing.tokens, text.tokens)
    return TextEmbedding(tokens, torch.where(silent[:, None], nothing.pooled, text.pooled))


def by_quarter(name: str, loss: Tensor, timestep: Tensor, timesteps: int) -> dict[str, Tensor]:
    """Mean loss of the examples (B,) in each quarter of the timesteps; quarters without any are left out."""
    quarter = timestep * QUARTERS // timesteps
    return {f"{name}_{k}": loss[quarter == k].mean() for k in range(QUARTERS) if (quarter == k).any()}


def rate(step: int, warmup: int, total: int | None) -> float:
    """Factor of the learning rate: linear up to 1 over `warmup` steps, then 1, or half a cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    if total is None:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def export_stage1(content: dict[str, Any], folder: str | Path, base: str | None = None) -> Any:
    """Write a checkpoint's UNet beside the other parts of its base, in diffusers' layout; returns the UNet."""
    settings = content["stage1"]
    parts = Components.load(base or settings["base"])
    prefix = "unet."
    parts.unet.load_state_dict(
        {key[len(prefix) :]: value for key, value in content["state_dict"].items() if key.startswith(prefix)}
    )
    parts.scheduler.register_to_config(prediction_type=settings["prediction_type"])
    parts.save(folder)
    return parts.unet
