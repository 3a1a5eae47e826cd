"""A UNet compiled for sampling: its kernels are fused, and a GPU launches all of them at once, as a CUDA graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BACKEND, MODE = "inductor", "reduce-overhead"  # with CUDA graphs

log = logging.getLogger(__name__)


class CompiledUNet:
    """A UNet that `torch.compile` compiles for each batch size at the first batch of that size.

    A line of the log reports that, since it takes up to minutes; sizes should therefore be few, see `padded`. Where it
    is impossible, such as without Triton or a C++ compiler, the UNet runs as it is after one warning. The weights
    are those of `unet`, and may be moved to another device.

    Args:
        unet: The UNet; its output is the first element of what it returns.
    """

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        mode = MODE if BACKEND == "inductor" else None
        self.run: Callable[..., Any] | None = torch.compile(unet, backend=BACKEND, dynamic=False, mode=mode)
        self.warm: set[torch.Size] = set()
        self.counts: set[int] = set()

    def padded(self, grids: int) -> int:
        """Return the smallest number of grids of a compiled batch that holds so many; if there is none, the number."""
        size = min((count for count in self.counts if count >= grids), default=grids)
        self.counts.add(size)
        return size

    def __call__(self, latents: Tensor, /, *inputs: Any, **settings: Any) -> Tensor:
        """Return the UNet's output, (B, C, h, w), in memory of its own."""
        if self.run is None:
            return self._plain(latents, *inputs, **settings)
        if latents.shape not in self.warm:
            self.warm.add(latents.shape)
            log.info("compiling the UNet for batches of %d, which may take minutes", len(latents))
        try:
            torch.compiler.cudagraph_mark_step_begin()  # outputs of the step before may be overwritten
            output: Tensor = self.run(latents, *inputs, **settings)[0].clone()
            return output
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split())  # without hints on debugging
            warnings.warn(f"the UNet cannot be compiled here ({reason}) and runs as it is", stacklevel=2)
            self.run = None
            return self._plain(latents, *inputs, **settings)

    def _plain(self, latents: Tensor, *inputs: Any, **settings: Any) -> Tensor:
        output: Tensor = self.unet(latents, *inputs, **settings)[0]
        return output
