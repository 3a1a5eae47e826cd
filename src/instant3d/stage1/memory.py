"""Memory of each GPU in fine-tuning SDXL as stage 1: computed for weights and optimiser, measured for activations."""

from __future__ import annotations

from dataclasses import dataclass

UNET = 2_567_463_684  # parameters of SDXL's UNet
GIB = 2**30
# GiB for each grid of 1024 px, measured on an H200 (torch 2.11, bf16) with LoRA of rank 16
RECOMPUTED = 0.7  # batch 2 with gradient checkpointing
KEPT = 5.2  # batch 8 without
SAMPLE_GRIDS = 7.1  # VAE and text encoders in float32, and decoding a grid, where `SampleGrids` runs
CLASSES = {"24gb": 22.0, "48gb": 44.0, "80gb": 74.0}  # GiB of such cards that a training process can use


@dataclass(frozen=True)
class FineTuning:
    """Settings of a fine-tuning that determine its memory.

    Attributes:
        batch: Grids of a batch on each GPU.
        checkpointing: Whether the UNet's blocks are recomputed.
        lora: Parameters of the LoRA weights; 0 trains the whole UNet.
        state: Bytes of optimiser state for each trained parameter: 8, or 2 with 8 bits.
        averaged: Whether averaged weights are kept on the GPU.
        copies: Copies of the gradients: 2 with DDP, whose buckets hold another.
        shards: GPUs over which weights, gradients and state are split.
        sampled: Whether sample grids are generated at validations.
    """

    batch: int
    checkpointing: bool = True
    lora: int = 0
    state: float = 8
    averaged: bool = True
    copies: int = 1
    shards: int = 1
    sampled: bool = False

    @property
    def gib(self) -> float:
        """Peak memory of a GPU in GiB."""
        trained = self.lora or UNET
        frozen = 2 * UNET if self.lora else 0  # bfloat16
        fixed = frozen + trained * (4 + 4 * self.copies + self.state + 4 * self.averaged)
        casts = 0 if self.lora else 2 * UNET  # bf16 weights that autocast keeps through a step, sharded or not
        activations = self.batch * (RECOMPUTED if self.checkpointing else KEPT)
        return (fixed / self.shards + casts) / GIB + activations + SAMPLE_GRIDS * self.sampled
