"""Fine-tuning of an SDXL UNet to generate 2 x 2 grids of views (Instant3D, arXiv 2311.06214, section 3.1)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.lora_training import with_lora
from instant3d.modules.diffusion.noise_process import add_noise, min_snr_weight, training_target
from instant3d.modules.diffusion.text import TextEmbedding, encode, truncation_message
from instant3d.modules.diffusion.zero_terminal_snr import rescale_to_zero_terminal_snr
from instant3d.modules.lr_schedule import with_lr_schedule
from instant3d.modules.optimizers import Kind, make_adamw
from instant3d.stage1.cache import LatentBatch, check_fits, posterior
from instant3d.stage1.consistency import ConsistencyDistillation, Predict
from instant3d.stage1.data import GridDataModule
from instant3d.stage1.export import lora_parameters
from instant3d.stage1.grid_dataset import ImageBatch
from instant3d.stage1.networks import Frozen, NoisePrediction, unet_output
from instant3d.stage1.noise_sample import QUARTERS, NoiseSample, drop_text, loss_by_quarter, sample_noise
from instant3d.stage1.progressive import ProgressiveDistillation
from instant3d.stage1.prompt_batches import PromptBatch
from instant3d.stage1.sampler import GridSampler, classifier_free_guidance
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage1.sharding import shard
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.cuda_graphs import GraphedModule


class Stage1Module(L.LightningModule):
    """Trains the UNet of an SDXL to generate four views of an object as one image.

    Args:
        base: The model to begin with: a folder in diffusers' layout, a Hub id or a .safetensors file.
        prediction_type: "epsilon" or "v_prediction"; null keeps the base's own.
        zero_terminal_snr: Whether the noise schedule is rescaled so that its last timestep holds no signal (Lin et al.
            2023, algorithm 1), from which sampling may start with `sampling.start` "noise"; needs "v_prediction".
        lora_rank: Rank of LoRA weights on all attention projections, which are then trained alone; 0 trains the whole
            UNet.
        lora_alpha: The LoRA update is scaled by alpha / rank; null is the rank.
        learning_rate: Of AdamW, after the warm-up.
        warmup_steps: Steps over which the learning rate rises from 0.
        decay: Whether the learning rate falls to 0 at the end by a cosine; otherwise it is constant.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        optimizer: State of AdamW: "adamw" in float32; "adamw_8bit" and "paged_adamw_8bit" by bitsandbytes in 8 bits.
        min_snr_gamma: Gamma of min-SNR loss weights (Hang et al. 2023; 5 is their value); null weighs all timesteps
            alike.
        prompt_dropout: Probability that an example has no prompt, as classifier-free guidance needs.
        distillation: Consistency or progressive distillation of the base in place of denoising, for few steps without
            guidance; null trains a denoiser.
        sample_latents: Whether latents are sampled from the VAE's posterior; otherwise they are its mean.
        gradient_checkpointing: Whether the UNet's blocks are recomputed in the backward pass to save memory.
        half_base: With LoRA, whether frozen weights are kept in bfloat16; needs precision bf16-mixed.
        cuda_graphs: Whether the UNet's passes are recorded as CUDA graphs, which makes a small UNet several times as
            fast; for whole UNets on one GPU, without checkpointing and accumulation.
        sampling: How `predict` and the sample grids of validation are sampled, and exported weights unless told
            otherwise; the defaults leave the exported weights the settings of their base.
        seed: Random seed of noise, timesteps and dropped prompts.
    """

    abar: Tensor

    def __init__(
        self,
        base: str = "stabilityai/stable-diffusion-xl-base-1.0",
        prediction_type: str | None = None,
        zero_terminal_snr: bool = False,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        learning_rate: float = 1e-5,
        warmup_steps: int = 0,
        decay: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        optimizer: Kind = "adamw",
        min_snr_gamma: float | None = None,
        prompt_dropout: float = 0.1,
        distillation: ConsistencyDistillation | ProgressiveDistillation | None = None,
        sample_latents: bool = True,
        gradient_checkpointing: bool = False,
        half_base: bool = False,
        cuda_graphs: bool = False,
        sampling: Sampling = Sampling(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if half_base and not lora_rank:
            raise ValueError("half_base keeps frozen weights in bfloat16, but nothing is frozen; set lora_rank too")
        if cuda_graphs and (lora_rank or gradient_checkpointing):
            raise ValueError("cuda_graphs needs a whole UNet without gradient_checkpointing; set one of them to false")
        dtype = torch.bfloat16 if half_base else torch.float32
        parts = Components.load(base, parts=("unet", "scheduler"), dtype=dtype)
        self.base, self.lora_rank, self.lora_alpha = base, lora_rank, float(lora_alpha or lora_rank)
        self.scheduler, self.sampling = parts.scheduler, sampling
        self.truncation_noted = self.sharded = False
        self.prediction_type = prediction_type or parts.scheduler.config.prediction_type
        self.scheduler.register_to_config(prediction_type=self.prediction_type)
        abar = rescale_to_zero_terminal_snr(self.scheduler) if zero_terminal_snr else self.scheduler.alphas_cumprod
        self.frozen = Frozen(base)
        if lora_rank:
            self.frozen.unet = with_lora(parts.unet, lora_rank, self.lora_alpha)
            self.lora = nn.ParameterDict(lora_parameters(parts.unet))
        else:
            self.unet: Any = parts.unet.requires_grad_(True)
        if distillation and not lora_rank:
            self.frozen.teacher = copy.deepcopy(parts.unet).requires_grad_(False)
        self.network.train()
        self.graphed = GraphedModule(NoisePrediction(self.network)) if cuda_graphs else None
        if gradient_checkpointing:
            self.network.enable_gradient_checkpointing()
        self.register_buffer("abar", abar.float().clone(), persistent=False)
        self.learning_rate, self.warmup_steps, self.decay = learning_rate, warmup_steps, decay
        self.betas, self.weight_decay, self.optimizer = betas, weight_decay, optimizer
        self.min_snr_gamma = min_snr_gamma
        self.prompt_dropout, self.sample_latents, self.seed = prompt_dropout, sample_latents, seed
        self.zero_terminal_snr, self.distillation = zero_terminal_snr, distillation
        self.words: CaptionWords | None = None  # words of the training captions, if they are known

    @property
    def network(self) -> Any:
        """The UNet on the module's device; with LoRA it is not a submodule, only its LoRA weights are parameters."""
        return self.frozen.unet.to(self.device) if self.lora_rank else self.unet

    def configure_model(self) -> None:
        """Shard the UNet if the trainer's strategy splits weights (`FullyShardedStrategy`).

        Raises:
            ValueError: A setting cannot be combined with sharding.
        """
        if self.device_mesh is None or self.sharded:
            return
        if self.lora_rank or self.graphed or self.optimizer != "adamw":
            raise ValueError("only a whole UNet with adamw and without CUDA graphs can be sharded; use strategy ddp")
        shard(self.unet.to(cast(Any, self.trainer).strategy.root_device), self.device_mesh["data_parallel"])
        self.sharded = True

    def on_fit_start(self) -> None:
        """Take the words of the training captions from the data.

        Raises:
            ValueError: CUDA graphs are combined with DDP or gradient accumulation.
        """
        data = cast(Any, self.trainer).datamodule
        self.words = data.words if isinstance(data, GridDataModule) else None
        if self.graphed and (self.trainer.world_size > 1 or self.trainer.accumulate_grad_batches > 1):
            raise ValueError("cuda_graphs is for one process without accumulation; set model.cuda_graphs to false")

    def training_step(self, batch: LatentBatch | ImageBatch, batch_idx: int) -> Tensor:
        """Mean loss of a batch."""
        grids = self.encode_batch(batch)
        sampled = sample_noise(grids, self.seed, len(self.abar), self.prompt_dropout)
        loss = self.losses(grids, sampled)
        if (self.global_step + 1) % cast(
            Any, self.trainer
        ).log_every_n_steps == 0:  # reading the timesteps waits for the GPU
            self.log_dict(
                loss_by_quarter("train/loss", loss.detach(), sampled.timestep, len(self.abar)), batch_size=len(loss)
            )
        self.log("train/loss", loss.detach().mean(), prog_bar=True, batch_size=len(loss))
        return loss.mean()

    def validation_step(self, batch: LatentBatch | ImageBatch, batch_idx: int) -> None:
        """Log the validation loss."""
        self.compare(batch, "val")

    def test_step(self, batch: LatentBatch | ImageBatch, batch_idx: int) -> None:
        """Log the test loss."""
        self.compare(batch, "test")

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """Grids (B, 3, H, W) in [0, 1] of the batch's prompts, each from its own seed."""
        return self.sampler()(batch.prompts, sampling=self.sampling, seeds=batch.seeds)

    def sampler(self) -> GridSampler:
        """A sampler with the UNet in its current state."""
        parts = self.frozen.encoders_on(self.device)
        return GridSampler(replace(parts, unet=self.network, scheduler=self.scheduler))

    def compare(self, batch: LatentBatch | ImageBatch, stage: str) -> None:
        """Log the loss at one timestep of each quarter; timesteps and noise are the same in every run.

        Args:
            batch: Grids to compute the loss of.
            stage: "val" or "test", the prefix of the logged names.
        """
        grids, count = self.encode_batch(batch), len(self.abar)
        losses = []
        for quarter in range(QUARTERS):
            sampled = sample_noise(grids, 1_000 + quarter, count // QUARTERS, prompt_dropout=0.0)
            shifted = NoiseSample(
                sampled.timestep + quarter * count // QUARTERS,
                sampled.noise,
                0 * sampled.posterior_noise,
                sampled.drop_text,
            )
            losses.append(self.losses(grids, shifted).mean())
        report = {f"{stage}/loss_{quarter}": loss for quarter, loss in enumerate(losses)}
        report[f"{stage}/loss"] = torch.stack(losses).mean()
        self.log_dict(report, batch_size=len(grids.example_index), sync_dist=True)

    def encode_batch(self, batch: LatentBatch | ImageBatch) -> LatentBatch:
        """Encode a batch of images and prompts with VAE and text encoders; a batch from a cache is returned as it is.

        Raises:
            ValueError: Latents or embeddings do not fit the UNet.
        """
        if isinstance(batch, ImageBatch):
            parts = self.frozen.encoders_on(self.device)
            mean, std = posterior(parts.vae, batch.grids)
            self._note_truncation(batch.prompts)
            text = encode(parts, batch.prompts).map(Tensor.float)
            batch = LatentBatch(
                mean, std, text, torch.full_like(batch.example_index, batch.grids.shape[-1]), batch.example_index
            )
        check_fits(batch, self.network.config)
        return batch

    def _note_truncation(self, prompts: Sequence[str]) -> None:
        """Warn once in a run of captions that the text encoders do not read to their end."""
        if not self.truncation_noted and (message := truncation_message(self.frozen.encoders, prompts)):
            self.truncation_noted = True
            warnings.warn(message, stacklevel=3)

    def losses(self, grids: LatentBatch, sample: NoiseSample) -> Tensor:
        """Weighted mean squared error of the UNet's prediction for each example, (B,)."""
        latents = grids.mean + grids.std * sample.posterior_noise if self.sample_latents else grids.mean
        text = drop_text(grids.text, sample.drop_text)
        if self.distillation is not None:
            return self.distillation.losses(
                self.prediction_type,
                self.abar,
                latents,
                sample.noise,
                sample.timestep,
                student=partial(self.predict, text=text, size=grids.size),
                teacher=self._teacher(text, grids.size),
            )
        abar = self.abar[sample.timestep]
        prediction = self.predict(add_noise(latents, sample.noise, abar), sample.timestep, text, grids.size)
        target = training_target(self.prediction_type, latents, sample.noise, abar)
        error = (prediction.float() - target).square().flatten(1).mean(-1)
        if self.min_snr_gamma is None:
            return error
        return error * min_snr_weight(self.prediction_type, abar, self.min_snr_gamma)

    def predict(self, latents: Tensor, timestep: Tensor, text: TextEmbedding, size: Tensor) -> Tensor:
        """The UNet's output, conditioned on the grid's size and no crop (SDXL, section 2.2).

        Args:
            latents: Noisy latents, (B, C, h, w).
            timestep: (B,).
            text: Embedded prompts.
            size: Pixels a side of the grids, (B,).

        Returns:
            (B, C, h, w), noise or velocity by `prediction_type`.
        """
        recorded = self.graphed if self.training and torch.is_grad_enabled() else None
        return unet_output(recorded or NoisePrediction(self.network), latents, timestep, text, size)

    def _teacher(self, text: TextEmbedding, size: Tensor) -> Predict:
        """The base with classifier-free guidance, as a function of noisy latents and timesteps."""
        settings = cast(Any, self.distillation)
        without_guidance = round((1 - settings.guidance_stop) * len(self.abar))
        empty = TextEmbedding.zeros_like(text)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            with self.frozen.teaching(self.device) as unet:
                network = NoisePrediction(unet)
                found = unet_output(network, latents, timestep, text, size)
                guided = (timestep >= without_guidance).nonzero()[:, 0]
                if len(guided):
                    away = unet_output(network, latents[guided], timestep[guided], empty[guided], size[guided])
                    found[guided] = classifier_free_guidance(away, found[guided], settings.guidance)
            return found

        return predict

    def configure_optimizers(self) -> Any:
        """AdamW with the learning-rate schedule."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        settings = {"lr": self.learning_rate, "betas": self.betas, "weight_decay": self.weight_decay}
        optimizer = make_adamw(trained, self.optimizer, **settings)
        return with_lr_schedule(optimizer, self.warmup_steps, self.trainer if self.decay else None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the settings that `export_stage1` needs."""
        checkpoint["stage1"] = {
            "base": self.base,
            "prediction_type": self.prediction_type,
            "zero_terminal_snr": self.zero_terminal_snr,
            "sampling": asdict(self.sampling),
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "words": None if self.words is None else dict(self.words.counts),
        }
