"""Preprocessing of a single photo for single-image networks: orientation, background removal, centring and scale.

The file is untrusted: its size is bounded before it is decoded.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from instant3d.pipelines import background_removal
from instant3d.scenes import Scene
from instant3d.scenes.images import DecodedImage
from instant3d.scenes.scene_files import MAX_FILE_BYTES
from instant3d.scenes.white_background import opacity_mask
from instant3d.stage2.architecture import Architecture
from instant3d.stage2.view_checks import assumed_camera
from instant3d.utils import images
from instant3d.views import Views

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
WIDEST = 2048  # pixels a side that are processed: networks take at most a quarter
CLEAR = 0.01  # share of transparent pixels from which transparency is a background, not the corner of a window
SPECK = 0.002  # of the largest piece: pieces smaller than that do not count where its extent is measured
FAINT = 25  # of 255: what is less opaque is no part of the object where its extent is measured


@dataclass(frozen=True)
class Photo:
    """A photo that is prepared for a single-image network.

    Attributes:
        scene: One square view by the camera that the network assumes, with the object's opacity as its alpha.
        cut_by: How the background was removed: "alpha" by the image's transparency, "white" off a white background,
            "rembg" by rembg's model.
    """

    scene: Scene
    cut_by: str


def is_photo(path: Path) -> bool:
    """Whether a path is an image file, or would be one by its suffix if it existed; if not, use `scenes.read`."""
    if path.is_file():
        return path.suffix.lower() != ".json"
    return not path.exists() and path.suffix.lower() in SUFFIXES


def read_photo(path: Path, a: Architecture) -> Photo:
    """Read an image file and prepare it for a single-image network.

    Args:
        path: A PNG, JPEG or WebP file.
        a: The network's architecture, whose camera, share of the object and image size apply.

    Returns:
        The photo, with the object cut out and centred.

    Raises:
        ValueError: The network takes several posed views, or the file is too large, no valid image or without object.
        FileNotFoundError: There is no such file.
    """
    camera = assumed_camera(a)
    if camera is None:
        raise ValueError(
            f"this checkpoint makes an object of several posed views, but {path} is one image; name a scene folder, "
            "or the --weights of a network of one image (`instant3d convert triposr` or `openlrm`)"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name an image, or a scene folder")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes; make it smaller")
    cut = cut_out(decode_photo(path.read_bytes(), str(path)), str(path))
    if cut.alpha.max() < FAINT:
        empty = {"alpha": "is transparent everywhere", "white": "is white everywhere"}
        raise ValueError(
            f"{path} {empty.get(cut.alpha_source, 'shows no object that rembg finds')}; give another image"
        )
    pixels = torch.from_numpy(np.array(frame_object(cut, a.foreground))).permute(2, 0, 1)[None].float() / 255
    views = Views(pixels[:, :3].contiguous(), pixels[:, 3:].contiguous(), camera)
    return Photo(Scene(views, None, path.stem, (path.name,), path), cut.alpha_source)


def decode_photo(data: bytes, where: str) -> Image.Image:
    """Decode an image with its EXIF orientation applied.

    Args:
        data: The encoded file.
        where: Name of the file for error messages.

    Returns:
        RGB or RGBA image of at most `WIDEST` pixels a side.

    Raises:
        ValueError: It is not a valid PNG, JPEG or WebP, is animated, or is too large.
    """
    image = images.open_image(data, where, enough=WIDEST, upright=True)
    image.thumbnail((WIDEST, WIDEST))  # colours are weighted by alpha
    return image


def cut_out(image: Image.Image, where: str = "the image") -> DecodedImage:
    """Separate the object from the background: by the image's transparency, else by a white background, else by rembg.

    Args:
        image: RGB or RGBA image of H x W pixels.
        where: Name of the image for the warning.

    Returns:
        Colours (H, W, 3) and opacity (H, W) in uint8, and which of the three ways gave them. A warning is issued if it
        was rembg.

    Raises:
        ValueError: rembg is needed but not installed, or cannot be run.
    """
    if image.mode == "RGBA":
        pixels = np.asarray(image)
        if (pixels[..., 3] < 128).mean() >= CLEAR:
            return DecodedImage(pixels[..., :3], pixels[..., 3], "alpha")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    rgb = np.asarray(image)
    white = opacity_mask(rgb.astype(np.float32) / 255)
    if white is not None:
        straight, alpha = ((part * 255).round().astype(np.uint8) for part in white)
        return DecodedImage(straight, alpha, "white")
    alpha = background_removal.foreground_mask(image)
    warnings.warn(
        f"{where} has neither transparency nor a white background; its background is removed by rembg", stacklevel=2
    )
    return DecodedImage(rgb, alpha, "rembg")


def frame_object(cut: DecodedImage, share: float) -> Image.Image:
    """Crop or pad an image to a square with the object in its middle.

    Args:
        cut: Colours and opacity of the object.
        share: The longer side of the object relative to the square's. 0: the image is not cropped, only padded to a
            square as wide as its longer side.

    Returns:
        Square RGBA image.
    """
    left, top, side = crop_window(cut.alpha, share)
    corner = math.floor(left), math.floor(top)
    end = math.ceil(left + side), math.ceil(top + side)
    image = Image.fromarray(np.dstack([cut.rgb, cut.alpha])).crop((*corner, *end))  # transparent where it was not
    x, y = left - corner[0], top - corner[1]
    box = (x, y, min(x + side, image.width), min(y + side, image.height))
    pixels = max(1, round(side))
    return image.resize((pixels, pixels), Image.Resampling.BICUBIC, box=box)


def crop_window(alpha: np.ndarray, share: float) -> tuple[float, float, float]:
    """Compute the square that `frame_object` crops to.

    Args:
        alpha: Opacity (H, W) in uint8, `FAINT` or more somewhere.
        share: The longer side of the object relative to the square's; 0 for the whole image.

    Returns:
        Left, top and side of the square in pixels; it may reach beyond the image.
    """
    height, width = alpha.shape
    ends = (0, width), (0, height)
    if share:
        solid = _without_specks(alpha >= FAINT)
        columns, rows = (np.flatnonzero(solid.any(axis)) for axis in (0, 1))
        ends = (int(columns[0]), int(columns[-1]) + 1), (int(rows[0]), int(rows[-1]) + 1)
    side = max(end - start for start, end in ends) / (share or 1.0)
    left, top = ((start + end - side) / 2 for start, end in ends)
    return left, top, side


def _without_specks(solid: np.ndarray) -> np.ndarray:
    """Remove the pieces that are tiny beside the largest one, such as artefacts of compression or matting."""
    from scipy import ndimage

    pieces, _ = ndimage.label(solid)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= SPECK * sizes.max())[pieces] & solid
