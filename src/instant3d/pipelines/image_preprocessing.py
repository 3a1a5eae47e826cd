"""Preprocessing of photos: orientation, background removal, centring and scale.

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
from instant3d.utils import exif, images
from instant3d.views import Views

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif")
WIDEST = 2048  # pixels a side that are processed: networks take at most a quarter
CLEAR = 0.01  # share of transparent pixels from which transparency is a background, not the corner of a window
SPECK = 0.002  # of the largest piece: pieces smaller than that do not count where its extent is measured
AT_BORDER = 0.02  # share of a border's pixels that may be opaque in an image that shows a whole object
FAINT = 25  # of 255: what is less opaque is no part of the object where its extent is measured


@dataclass(frozen=True)
class Photo:
    """A photo that is prepared for a single-image network.

    Attributes:
        scene: One square view by the camera that the network assumes, with the object's opacity as its alpha.
        cut_by: How the background was removed: "alpha" by the image's transparency, "white" off a white background,
            "rembg" by rembg's model, "matting" by a network that the user named.
    """

    scene: Scene
    cut_by: str


@dataclass(frozen=True)
class CutPhoto:
    """A photo whose object is separated from the background.

    Attributes:
        cut: Colours and opacity; `alpha_source` is how the background was removed, see `Photo`.
        focal_mm: Focal length as if on 35 mm film, from the EXIF data; None if there is none.
    """

    cut: DecodedImage
    focal_mm: float | None


def is_photo(path: Path) -> bool:
    """Whether a path is an image file, or would be one by its suffix if it existed; if not, use `scenes.read`."""
    if path.is_file():
        return path.suffix.lower() != ".json"
    return not path.exists() and path.suffix.lower() in SUFFIXES


def read_photo(path: Path, a: Architecture, matting: Path | None = None) -> Photo:
    """Read an image file and prepare it for a single-image network.

    Args:
        path: A PNG, JPEG or WebP file.
        a: The network's architecture, whose camera, share of the object and image size apply.
        matting: See `cut_out`.

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
            "two to four photos, or the --weights of a network of one image (`instant3d convert triposr` or `openlrm`)"
        )
    cut = read_cut_photo(path, matting).cut
    pixels = torch.from_numpy(np.array(frame_object(cut, a.foreground))).permute(2, 0, 1)[None].float() / 255
    views = Views(pixels[:, :3].contiguous(), pixels[:, 3:].contiguous(), camera)
    return Photo(Scene(views, None, path.stem, (path.name,), path), cut.alpha_source)


def read_cut_photo(path: Path, matting: Path | None = None) -> CutPhoto:
    """Read an image file, upright, and separate its object from the background.

    Args:
        path: A PNG, JPEG or WebP file, or a HEIC if pillow-heif is installed.
        matting: See `cut_out`.

    Raises:
        ValueError: The file is too large, no valid image or without object.
        FileNotFoundError: There is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name an image, or a scene folder")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes; make it smaller")
    data = path.read_bytes()
    image = decode_photo(data, str(path))
    cut = cut_out(image, str(path), matting)
    if cut.alpha.max() < FAINT:
        empty = {"alpha": "is transparent everywhere", "white": "is white everywhere"}
        raise ValueError(
            f"{path} {empty.get(cut.alpha_source, f'shows no object that {cut.alpha_source} finds')}; "
            "give another image"
        )
    described = image if images.is_heif(data) else images.header(data, str(path))
    return CutPhoto(cut, exif.focal_length_35mm(described))


def decode_photo(data: bytes, where: str) -> Image.Image:
    """Decode an image with its EXIF orientation applied.

    Args:
        data: The encoded file.
        where: Name of the file for error messages.

    Returns:
        RGB or RGBA image of at most `WIDEST` pixels a side.

    Raises:
        ValueError: It is not a valid PNG, JPEG, WebP or HEIC, is animated, or is too large.
    """
    if images.is_heif(data):
        image = images.open_heif(data, where)
    else:
        image = images.open_image(data, where, enough=WIDEST, upright=True)
    image.thumbnail((WIDEST, WIDEST))  # colours are weighted by alpha
    return image


def cut_out(image: Image.Image, where: str = "the image", matting: Path | None = None) -> DecodedImage:
    """Separate the object from the background: by transparency, else by a white background, else by a network.

    Args:
        image: RGB or RGBA image of H x W pixels.
        where: Name of the image for the warning.
        matting: ONNX file of a matting network such as IS-Net, in place of rembg.

    Returns:
        Colours (H, W, 3) and opacity (H, W) in uint8, and which of the ways gave them. A warning is issued if it was
        rembg.

    Raises:
        ValueError: A network is needed, but what runs it is not installed, or it cannot be run.
        FileNotFoundError: A network is needed, but its file is missing.
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
    if matting is not None:
        return DecodedImage(rgb, background_removal.matting_mask(image, matting), "matting")
    alpha = background_removal.foreground_mask(image)
    warnings.warn(
        f"{where} has neither transparency nor a white background; its background is removed by rembg", stacklevel=2
    )
    return DecodedImage(rgb, alpha, "rembg")


def reaches_border(alpha: np.ndarray) -> bool:
    """Whether an image's border cuts what its opacity (H, W) in uint8 shows, as that of a hand that reaches in."""
    edges = (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
    return any((edge > FAINT).mean() > AT_BORDER for edge in edges)


def frame_object(cut: DecodedImage, share: float) -> Image.Image:
    """Crop or pad an image to a square with the object in its middle.

    Args:
        cut: Colours and opacity of the object.
        share: The longer side of the object relative to the square's. 0: the image is not cropped, only padded to a
            square as wide as its longer side.

    Returns:
        Square RGBA image.
    """
    return crop_square(cut, *crop_window(cut.alpha, share))


def crop_square(cut: DecodedImage, left: float, top: float, side: float) -> Image.Image:
    """Crop a square whose edges may lie between pixels and beyond the image, which is transparent there.

    Args:
        cut: Colours and opacity of an image.
        left: Left edge of the square in pixels.
        top: Its top edge.
        side: Its side.

    Returns:
        RGBA image of `side` pixels a side, rounded.
    """
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
    left, top, right, bottom = object_box(alpha) if share else (0, 0, width, height)
    side = max(right - left, bottom - top) / (share or 1.0)
    return (left + right - side) / 2, (top + bottom - side) / 2, side


def object_box(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """Measure the extent of the object, without specks.

    Args:
        alpha: Opacity (H, W) in uint8, `FAINT` or more somewhere.

    Returns:
        Left, top, right and bottom in pixels.
    """
    solid = _without_specks(alpha >= FAINT)
    columns, rows = (np.flatnonzero(solid.any(axis)) for axis in (0, 1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _without_specks(solid: np.ndarray) -> np.ndarray:
    """Remove the pieces that are tiny beside the largest one, such as artefacts of compression or matting."""
    from scipy import ndimage

    pieces, _ = ndimage.label(solid)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= SPECK * sizes.max())[pieces] & solid
