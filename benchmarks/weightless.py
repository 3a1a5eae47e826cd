"""The cost of one pass of a network, counted on PyTorch's meta device, without weights.

Counts operations and the bytes of intermediate results.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

NARROW = 512  # tokens up to which attention's matrix is no matter


@dataclass(frozen=True)
class Cost:
    """One pass.

    operations   floating-point, in products of matrices, convolutions and attention: two for each product and sum
    shares       of them, by "linear", "convolution" and "attention"
    weights      bytes of parameters and buffers
    activations  bytes that results take together when they take most, without the kernels' own working space
    """

    operations: int
    shares: dict[str, float]
    weights: int
    activations: int


def cost(network: nn.Module, run: Callable[[], object]) -> Cost:
    """Cost of `run`, which calls a `network` on the meta device, if it were executed."""
    own = [*network.parameters(), *network.buffers()]
    if any(not tensor.is_meta for tensor in own):
        raise ValueError("costs are found on the meta device; build the network under `torch.device('meta')`")
    counter, live = FlopCounterMode(display=False), Live()
    with torch.no_grad(), counter, live, FusedAttention():
        run()
    total = counter.get_total_flops()
    return Cost(total, _shares(counter), sum(tensor.nbytes for tensor in own), live.peak)


def _shares(counter: FlopCounterMode) -> dict[str, float]:
    """By the operators' names; attention that was not fused, with at most NARROW tokens, is among the linear."""
    found = {"linear": 0, "convolution": 0, "attention": 0}
    for operator, count in counter.get_flop_counts()["Global"].items():
        kind = next((kind for kind in ("convolution", "attention") if kind in str(operator)), "linear")
        found[kind] += count
    total = counter.get_total_flops() or 1
    return {kind: count / total for kind, count in found.items()}


class FusedAttention(TorchFunctionMode):
    """Attention as a GPU does it, without its matrix of N x N weights, which the meta device would write out."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or _queries(args, kwargs).shape[-2] <= NARROW:
            return func(*args, **kwargs)
        if kwargs.get("attn_mask") is not None or len(args) > 3:
            raise ValueError("attention with a mask is not known to be fused; count it some other way")
        q, k, v = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _queries(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["query"]


class Live(TorchDispatchMode):
    """Adds up the storages that operators make, as long as anything refers to them; not those that they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in given:
                self._add(storage)
        self.peak = max(self.peak, self.now)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _storages(nest: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]
