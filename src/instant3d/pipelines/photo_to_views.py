"""From one photo to six posed views by a released Zero123++: `instant3d reconstruct photo.png --views-by FOLDER`.

As InstantMesh (arXiv 2404.07191): the object is cut out and centred, six views are generated, and their background is
removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instant3d.modules.diffusion.zero123plus import DEFAULT_SAMPLING, Zero123Plus, Zero123PlusSampling, over_background
from instant3d.modules.diffusion.zero123plus_parts import NETWORKS, Zero123PlusParts
from instant3d.pipelines.image_preprocessing import read_photo
from instant3d.pipelines.model_offload import ModelOffloader, fair_share
from instant3d.scenes.white_background import opacity_mask
from instant3d.stage2.architecture import Architecture
from instant3d.utils.progress import OnStep
from instant3d.views import Views

# how InstantMesh frames the photo: the object's longer side is 0.85 of the square's; the camera is not used
FRAMING = Architecture(assumed_camera=(0.0, 0.0, 2.7, 50.0), foreground=0.85)


@dataclass(frozen=True)
class GeneratedViews:
    """Views generated from one photo.

    Attributes:
        views: The views (6,) in the generator's own world, in which the photo's camera is at azimuth 0.
        grid: The image of all views, (3, H, W) in [0, 1].
        quarter_turns: Quarter turns about z that move the object's front to where ours is.
        cut_by: How the photo's background was removed, as of `image_preprocessing.Photo`.
    """

    views: Views
    grid: Tensor
    quarter_turns: int
    cut_by: str


class PhotoToViews:
    """Generates posed views of the object in a photo.

    Args:
        parts: The components of a Zero123++.
        device: Where networks run; those that are not in use stay on the CPU if device memory is short.
    """

    def __init__(self, parts: Zero123PlusParts, device: str | torch.device = "cpu") -> None:
        self.generator = Zero123Plus(parts)
        place = torch.device(device)
        self.offloader = ModelOffloader(parts.networks, place, fair_share(place))

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> PhotoToViews:
        """Load a folder that `instant3d convert zero123plus` wrote: in float16 on a GPU, in float32 on a CPU.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: It is another model, or a file is damaged.
        """
        parts = Zero123PlusParts.load(folder, torch.float16 if torch.device(device).type == "cuda" else torch.float32)
        for name in NETWORKS:
            parts.networks[name].requires_grad_(False)
        return cls(parts, device)

    def __call__(
        self, photo: Path, sampling: Zero123PlusSampling = DEFAULT_SAMPLING, on_step: OnStep | None = None
    ) -> GeneratedViews:
        """Generate the views of the object in an image file; the same seed gives the same views.

        Args:
            photo: A PNG, JPEG or WebP file.
            sampling: Steps, guidance and seed.
            on_step: Called after each step of denoising.

        Raises:
            ValueError: The file is no valid image, or without an object.
            FileNotFoundError: There is no such file.
        """
        parts = self.generator.parts
        prepared = read_photo(photo, FRAMING)
        image = over_background(_to_rgba(prepared.scene.views), parts.background)
        random = torch.Generator().manual_seed(sampling.seed)  # on the CPU: the same numbers on every machine

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=random)

        self.offloader.load_to_device("vae", "text_encoder", "vision_encoder")
        conditions = self.generator.encode(image, draw)
        self.offloader.load_to_device("unet")
        latents = self.generator.denoise(conditions, draw, sampling, on_step)
        self.offloader.load_to_device("vae")
        grid = self.generator.decode(latents).cpu()
        return GeneratedViews(split_grid(grid, parts), grid, parts.layout.quarter_turns, prepared.cut_by)


def split_grid(grid: Tensor, parts: Zero123PlusParts) -> Views:
    """Split an image (3, H, W) of all views, row by row, and remove their background: views (6,)."""
    rows, columns = parts.rows_and_columns
    tiles = grid.unflatten(1, (rows, -1)).unflatten(3, (columns, -1)).permute(1, 3, 0, 2, 4).flatten(0, 1)
    rgb, alpha = zip(*(cut_from(tile, parts.background / 255) for tile in tiles), strict=True)
    return Views(torch.stack(rgb), torch.stack(alpha), parts.layout.cameras)


def cut_from(tile: Tensor, background: float) -> tuple[Tensor, Tensor]:
    """Cut an object out of an even grey background, as `scenes.white_background.opacity_mask` out of a white one.

    Args:
        tile: (3, S, S) in [0, 1].
        background: Grey level in [0, 1].

    Returns:
        Straight colours (3, S, S) and alpha (1, S, S); all is object if less than half of the border is background.
    """
    pixels = tile.permute(1, 2, 0).numpy()
    difference = np.abs(pixels - background)
    found = opacity_mask(1 - difference / max(background, 1 - background))  # the background is white in it
    if found is None:
        return tile, torch.ones_like(tile[:1])
    alpha = torch.from_numpy(found[1])[None]
    straight = (background + (tile - background) / alpha.clamp(min=1e-6)).clamp(0, 1)
    return torch.where(alpha > 0, straight, tile), alpha


def _to_rgba(views: Views) -> Image.Image:
    pixels = torch.cat([views.rgb[0], views.alpha[0]]).mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy(), "RGBA")
