"""Interface of the diffusion models that guide score distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from instant3d.utils.tensor_dataclass import TensorDataclass

Conditions = Tensor | TensorDataclass


class DiffusionGuidance(Protocol):
    """A frozen diffusion model that predicts the noise in a noisy image for a prompt.

    Attributes:
        abar: (T,), share of signal left at each timestep (alphas_cumprod).
    """

    abar: Tensor

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W), about in [0, 1], to the samples x0 (B, ...) of the model; differentiable."""
        ...

    def embed_prompts(self, prompts: Sequence[str]) -> Conditions:
        """Embed prompts (B) as conditions (B, ...); "" is the empty prompt."""
        ...

    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Any) -> Tensor:
        """Predict the noise in x_t, without gradient.

        Args:
            x_t: Noisy samples, (B, ...).
            t: Timesteps, (B,) long.
            conditions: As `embed_prompts` returns them.

        Returns:
            eps, (B, ...).
        """
        ...


@runtime_checkable
class CameraGuidance(DiffusionGuidance, Protocol):
    """A diffusion model that is also conditioned on the camera, besides "front view", "side view" and "back view"."""

    def condition_on_camera(self, conditions: Any, directions: Tensor) -> Any:
        """Add camera directions (B, 3) from the origin to `conditions` (B, ...)."""
        ...
