"""Which diffusion model teaches, as a configuration names it, and what it knows of cameras."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
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
    """Of a diffusion model, all that a configuration says; `class_path` there names which kind it is."""

    @abstractmethod
    def load(self, device: torch.device) -> tuple[DiffusionGuidance, Cameras | None]:
        """The guide, and the cameras (V,) that it must be asked from if it knows no others."""


@dataclass(frozen=True)
class StableDiffusionConfig(GuidanceConfig):
    """A Stable Diffusion or an SDXL.

    Attributes:
        source: Folder in diffusers' layout, or Hub id.
        size: Side in pixels of the images that it is given; null is the size it was trained on.
    """

    source: str = SD_2_1_BASE
    size: int | None = None

    def load(self, device: torch.device) -> tuple[DiffusionGuidance, Cameras | None]:
        """The guide, and no cameras: it may be asked from anywhere."""
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
        """The guide, and the cameras (V,) of its pictures, which all scenes must share."""
        found = [scenes.read(folder, size=self.size, maps=()) for folder in scenes.below(self.scenes)]
        if not found:
            raise FileNotFoundError(f"there is no scene in {self.scenes}; `make render-data` writes them")
        cameras, captions = found[0].views.cameras, [scene.caption for scene in found]
        for scene in found:
            if not scene.caption:
                raise ValueError(f"{scene.path} has no caption, so no prompt asks for it; give it one")
            if not _alike(scene.views.cameras, cameras):
                raise ValueError(
                    f"{scene.path} was not taken by the cameras of {found[0].path}; render all objects by one plan"
                )
        pictures = torch.cat([scene.views.composite(1.0) for scene in found])
        azimuth = from_front(torch.rad2deg(torch.atan2(cameras.positions[:, 1], cameras.positions[:, 0])))
        views = view_shares(azimuth).repeat(len(found), 1)
        owners: Any = [caption for caption in captions for _ in range(len(azimuth))]
        known = directions_of(cameras).repeat(len(found), 1) if self.camera else None
        guide: DiffusionGuidance = FiniteSetGuidance(
            pictures.to(device), owners, views.to(device), spread=self.spread, taken_from=known
        )
        return guide, cameras


def _alike(one: Cameras, other: Cameras) -> bool:
    if one.shape != other.shape:
        return False
    pairs = ((one.cam_to_world, other.cam_to_world), (one.intrinsics, other.intrinsics))
    return all(torch.allclose(first, second, atol=1e-3) for first, second in pairs)
