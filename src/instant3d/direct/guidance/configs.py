"""Configurations that build the guidance model: Stable Diffusion, SDXL, or the exact model of a set of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.direct.guidance.base import DiffusionGuidance
from instant3d.direct.guidance.finite_set import FiniteSetGuidance
from instant3d.direct.severity import directions_of
from instant3d.direct.view_prompts import from_front, view_shares
from instant3d.modules.diffusion.stable_diffusion import SD_2_1_BASE, StableDiffusionGuidance


class GuidanceConfig(ABC):
    """Configuration of a guidance model; `class_path` in a YAML file names its kind."""

    @abstractmethod
    def load(self, device: torch.device) -> tuple[DiffusionGuidance, Cameras | None]:
        """Load the guidance model.

        Args:
            device: Where to put it.

        Returns:
            The model, and the cameras (V,) that its images were rendered from if it cannot be evaluated from others.
        """

    def cameras(self) -> Cameras | None:
        """The cameras that `load` gives, without loading the rest; None if there are none."""
        return None


@dataclass(frozen=True)
class StableDiffusionConfig(GuidanceConfig):
    """A Stable Diffusion or an SDXL.

    Attributes:
        source: Folder in diffusers' layout, or Hub id.
        size: Side in pixels to which images are resized; null is the size that the model was trained on.
    """

    source: str = SD_2_1_BASE
    size: int | None = None

    def load(self, device: torch.device) -> tuple[DiffusionGuidance, Cameras | None]:
        """Load the model; it has no fixed cameras."""
        return StableDiffusionGuidance.from_pretrained(self.source, device, size=self.size), None


@dataclass(frozen=True)
class FiniteSetConfig(GuidanceConfig):
    """The exact diffusion model of the images in a folder of scene folders; their captions are the prompts.

    Attributes:
        scenes: The folder of scene folders.
        size: Side in pixels at which images are compared.
        spread: Standard deviation around each image within which it counts as that image, for values from -1 to 1.
        camera: Whether it is conditioned on the camera beside "front view", "side view" or "back view", each of which
            names a quarter turn.
    """

    scenes: str
    size: int = 64
    spread: float = 0.1
    camera: bool = False

    def load(self, device: torch.device) -> tuple[DiffusionGuidance, Cameras | None]:
        """Load the images of all scenes; returns the model and the cameras (V,) of its images.

        Raises:
            FileNotFoundError: There is no scene.
            ValueError: A scene has no caption, or other cameras than the first.
        """
        found = [scenes.read(folder, size=self.size, maps=()) for folder in self._folders()]
        cameras, captions = found[0].views.cameras, [scene.caption for scene in found]
        for scene in found:
            if not scene.caption:
                raise ValueError(f"{scene.path} has no caption, which is the prompt of its images; give it one")
            if not _alike(scene.views.cameras, cameras):
                raise ValueError(
                    f"{scene.path} was not rendered from the cameras of {found[0].path}; render all objects by one plan"
                )
        images = torch.cat([scene.views.composite(1.0) for scene in found])
        azimuth = from_front(torch.rad2deg(torch.atan2(cameras.positions[:, 1], cameras.positions[:, 0])))
        views = view_shares(azimuth).repeat(len(found), 1)
        owners: Any = [caption for caption in captions for _ in range(len(azimuth))]
        camera_directions = directions_of(cameras).repeat(len(found), 1) if self.camera else None
        guidance: DiffusionGuidance = FiniteSetGuidance(
            images.to(device), owners, views.to(device), spread=self.spread, taken_from=camera_directions
        )
        return guidance, cameras

    def cameras(self) -> Cameras:
        """The cameras (V,) of the first scene, which `load` compares with those of the others."""
        return scenes.read(self._folders()[0], size=self.size, maps=()).views.cameras

    def _folders(self) -> list[Path]:
        found = scenes.below(self.scenes)
        if not found:
            raise FileNotFoundError(f"there is no scene in {self.scenes}; `make render-data` writes them")
        return found


def _alike(one: Cameras, other: Cameras) -> bool:
    if one.shape != other.shape:
        return False
    pairs = ((one.cam_to_world, other.cam_to_world), (one.intrinsics, other.intrinsics))
    return all(torch.allclose(first, second, atol=1e-3) for first, second in pairs)
