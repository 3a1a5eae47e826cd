"""CUDA graphs of training passes: a small network's many kernels in one launch instead of one by one from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class GraphedModule:
    """Forward and backward pass of a module that trains with inputs of fixed shapes.

    Both passes are recorded at the first call on a CUDA device and replayed from then on; the module's weights stay
    where they are, so whatever updates or averages them works as without. Neither gradient accumulation nor DDP may be
    used with it, for gradients of one replay lie where the next one writes them.

    Args:
        module: What is recorded; it returns tensors, and holds no randomness such as dropout.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.recorded: Callable[..., Any] | None = None
        self.shapes: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: Any) -> GraphedModule:
        # recorded kernels cannot be copied; a copy of the weights, such as their average, has no use for them
        return self

    def __call__(self, *inputs: Tensor) -> Any:
        """The module's output, a tensor or a tuple of them; inputs are tensors that need no gradient.

        Raises:
            ValueError: If the inputs' shapes are others than at the first call.
        """
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if self.recorded is None:
            self.recorded, self.shapes = _record(self.module, inputs), shapes
        if shapes != self.shapes:
            raise ValueError(
                f"CUDA graphs need batches of one size, got {_sizes(shapes)} after {_sizes(self.shapes)}; "
                "set model.cuda_graphs to false"
            )
        return self.recorded(*inputs)


def _record(module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
    """What replays the passes of a module, recorded with the precision that is in force now."""
    device = inputs[0].device
    if device.type != "cuda":
        return module
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", dtype, enabled, cache_enabled=False):  # casts are part of the recording
        return torch.cuda.make_graphed_callables(_Call(module), inputs, allow_unused_input=True)


class _Call(nn.Module):
    """A module under another object, for recording replaces the forward method of what it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)


def _sizes(shapes: tuple[Any, ...]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape, _ in shapes)
