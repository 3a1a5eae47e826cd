"""Holder for frozen networks: outside of state_dict, of averaged weights (EMA) and of deep copies."""

from __future__ import annotations

from typing import Any, Self


class FrozenModules:
    """Networks that a LightningModule uses but does not train.

    As no `nn.Module`, it hides them from `state_dict` and from `parameters`; copies of the module share it.
    """

    def __deepcopy__(self, memo: Any) -> Self:
        return self
