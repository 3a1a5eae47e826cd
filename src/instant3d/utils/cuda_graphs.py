"""CUDA graphs of training passes: one launch for the many kernels of a small network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class GraphedModule:
    """Forward and backward pass of a module, recorded as CUDA graphs for inputs of fixed shapes.

    Both passes are recorded at the first call on a CUDA device and replayed afterwards; on a CPU the module runs as
    usual. The weights stay where they are, so optimisers and averages work unchanged. It supports neither gradient
    accumulation nor DDP, because each replay overwrites the gradients of the one before.

    Args:
        module: The module to record; it returns tensors and uses no randomness such as dropout.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.recorded: Callable[..., Any] | None = None
        self.shapes: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: Any) -> GraphedModule:
        # recorded kernels cannot be copied; a copy of the weights, such as their average, has no use for them
        return self

    def __call__(self, *inputs: Tensor) -> Any:
        """Return the module's output, a tensor or a tuple of tensors; the inputs are tensors that need no gradient.

        Raises:
            ValueError: The inputs' shapes or dtypes differ from those of the first call.
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
    """Record the passes of a module with the autocast precision that is active now."""
    device = inputs[0].device
    if device.type != "cuda":
        return module
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", dtype, enabled, cache_enabled=False):  # casts are part of the recording
        return torch.cuda.make_graphed_callables(_Call(module), inputs, allow_unused_input=True)


class _Call(nn.Module):
    """Wrapper that is recorded in place of a module, because recording replaces the forward method of its argument."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)


def _sizes(shapes: tuple[Any, ...]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape, _ in shapes)
