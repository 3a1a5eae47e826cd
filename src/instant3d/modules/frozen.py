"""Frozen networks: outside of state_dict, and of averaged weights (EMA) and deep copies if a holder has them."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn


class FrozenModules:
    """Networks that a LightningModule uses but does not train.

    As no `nn.Module`, it hides them from `state_dict` and from `parameters`; copies of the module share it.
    """

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class FrozenModule(nn.Module):
    """Network of a loss: always in evaluation mode, without gradients by its weights, not saved with a model."""

    def freeze(self) -> None:
        """Call it once the weights are loaded."""
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:  # type: ignore[override]
        """Empty: the weights are not saved with a model."""
        return {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Keep its own weights, of which a model's checkpoint has none."""
        state_dict.update({prefix + name: value for name, value in super().state_dict().items()})
