"""What score distillation asks of a diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from instant3d.utils.tensor_dataclass import TensorDataclass

Conditions = Tensor | TensorDataclass


class DiffusionGuidance(Protocol):
    """A diffusion model that can say how a noised image should look for a prompt."""

    abar: Tensor  # (T,): share of signal left at each timestep

    def encode_images(self, images: Tensor) -> Tensor:
        """What the model denoises, x0 (B, ...), of images (B, 3, H, W) in about [0, 1]; differentiable."""
        ...

    def embed_prompts(self, prompts: Sequence[str]) -> Conditions:
        """What the model is told of prompts, (B, ...); "" stands for no prompt."""
        ...

    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Any) -> Tensor:
        """The noise eps (B, ...) that the model sees in x_t at timesteps t (B,), long, told `conditions` of the kind
        that its `embed` gives; without gradient."""
        ...


@runtime_checkable
class CameraGuidance(DiffusionGuidance, Protocol):
    """A diffusion model that may also be told where the camera stands, beyond "front view" and "side view"."""

    def condition_on_camera(self, conditions: Any, directions: Tensor) -> Any:
        """`conditions` (B, ...), with what cameras in directions (B, 3) from the origin add to them."""
        ...
