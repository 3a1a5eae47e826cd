"""One picture of an object as a network of one picture was taught to see it: upright, cut out, centred, to scale.

Knows of the network only its `Architecture`. The picture is untrusted: its size is bounded before it is decoded.
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
from instant3d.scenes import images as pictures
from instant3d.scenes.images import DecodedImage
from instant3d.scenes.scene_folder import MAX_FILE_BYTES
from instant3d.stage2.architecture import Architecture
from instant3d.stage2.view_checks import assumed_camera
from instant3d.utils import images
from instant3d.views import Views

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
WIDEST = 2048  # pixels a side that are worked on: networks see at most a quarter
CLEAR = 0.01  # share of transparent pixels from which transparency is a background, not the corner of a window
SPECK = 0.002  # of the largest piece: pieces smaller than that do not count where its extent is measured
FAINT = 25  # of 255: what is less opaque is no part of the object where its extent is measured


@dataclass(frozen=True)
class Photo:
    """`scene` has one square view by the camera that the network assumes; `cut_by` tells how it was cut out."""

    scene: Scene
    cut_by: str  # "alpha", "white" or "rembg"


def is_photo(path: Path) -> bool:
    """Whether a path names a picture, or would if it existed; anything else is for `scenes.read`."""
    if path.is_file():
        return path.suffix.lower() != ".json"
    return not path.exists() and path.suffix.lower() in SUFFIXES


def read_photo(path: Path, a: Architecture) -> Photo:
    """The picture in a file, prepared for a network of architecture `a`."""
    camera = assumed_camera(a)
    if camera is None:
        raise ValueError(
            f"this checkpoint makes an object of several posed views, but {path} is one picture; name a scene folder, "
            "or the --weights of a network of one picture (`instant3d convert triposr` or `openlrm`)"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a picture, or a scene folder")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes; make it smaller")
    cut = cut_out(decode_photo(path.read_bytes(), str(path)), str(path))
    if cut.alpha.max() < FAINT:
        empty = {"alpha": "is transparent everywhere", "white": "is white everywhere"}
        raise ValueError(
            f"{path} {empty.get(cut.alpha_source, 'shows no object that rembg finds')}; give another picture"
        )
    pixels = torch.from_numpy(np.array(frame_object(cut, a.foreground))).permute(2, 0, 1)[None].float() / 255
    views = Views(pixels[:, :3].contiguous(), pixels[:, 3:].contiguous(), camera)
    return Photo(Scene(views, None, path.stem, (path.name,), path), cut.alpha_source)


def decode_photo(data: bytes, where: str) -> Image.Image:
    """The picture as it is meant to be seen, in RGB or RGBA, at most `WIDEST` pixels a side."""
    image = images.open_image(data, where, enough=WIDEST, upright=True)
    image.thumbnail((WIDEST, WIDEST))  # colours are weighted by alpha
    return image


def cut_out(image: Image.Image, where: str = "the picture") -> DecodedImage:
    """The object: by the picture's own transparency, else off a white background, else as rembg sees it."""
    if image.mode == "RGBA":
        pixels = np.asarray(image)
        if (pixels[..., 3] < 128).mean() >= CLEAR:
            return DecodedImage(pixels[..., :3], pixels[..., 3], "alpha")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    rgb = np.asarray(image)
    white = pictures.opacity_mask(rgb.astype(np.float32) / 255)
    if white is not None:
        straight, alpha = ((part * 255).round().astype(np.uint8) for part in white)
        return DecodedImage(straight, alpha, "white")
    alpha = background_removal.foreground_mask(image)
    warnings.warn(f"{where} has no background to be told by; rembg was asked what its object is", stacklevel=2)
    return DecodedImage(rgb, alpha, "rembg")


def frame_object(cut: DecodedImage, share: float) -> Image.Image:
    """A square RGBA picture with the object in its middle, whose longer side takes that share of the square's.

    A share of 0 leaves the object as it is, in the middle of a square as wide as the picture's longer side.
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
    """Left, top and side, in pixels of alpha (H, W), of the square that becomes the whole picture."""
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
    """What is not tiny beside the largest piece: what compression or a matte leaves elsewhere is no object."""
    from scipy import ndimage

    pieces, _ = ndimage.label(solid)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= SPECK * sizes.max())[pieces] & solid
