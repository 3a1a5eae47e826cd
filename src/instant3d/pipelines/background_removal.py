"""Background removal from photos: by rembg, or by a matting network in an ONNX file such as IS-Net's."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instant3d.utils.errors import LIBRARY_ERRORS

MODEL = "u2net"  # Apache-2.0, and what the peers use; rembg's own first choice is not for commercial use
MATTING_SIDE = 1024  # pixels a side for networks that take any size
ALTERNATIVES = "give a PNG with a transparent background, or an image on white"


def foreground_mask(image: Image.Image) -> np.ndarray:
    """Estimate the opacity of the object in a photo.

    Args:
        image: RGB image of H x W pixels.

    Returns:
        Opacity (H, W) in uint8: 0 for background, 255 for object.

    Raises:
        ValueError: rembg is not installed, its model cannot be downloaded, or its mask has another size.
    """
    remove, new_session = _library()
    try:
        session = new_session(MODEL)
    except (OSError, ValueError) as error:  # of the network, of the disk, of a file that is not what was expected
        raise ValueError(
            f"the background cannot be removed, for rembg's model {MODEL} cannot be downloaded "
            f"({type(error).__name__}); connect to the network once, or {ALTERNATIVES}"
        ) from error
    found = remove(image, session=session, only_mask=True)
    if found.size != image.size:
        raise ValueError(
            f"rembg gave a mask of {found.width} x {found.height} pixels for an image of {image.width} x "
            f"{image.height}; {ALTERNATIVES}"
        )
    return np.asarray(found.convert("L"))


def matting_mask(image: Image.Image, model: Path) -> np.ndarray:
    """Estimate the opacity of the object in a photo by a matting network.

    The network takes a square RGB image, (1, 3, S, S) with values from -0.5 to 0.5, and its first output
    (1, 1, S, S) is the opacity up to scale, as in IS-Net's releases (arXiv 2203.03041).

    Args:
        image: RGB image of H x W pixels.
        model: The network's ONNX file.

    Returns:
        Opacity (H, W) in uint8.

    Raises:
        ValueError: onnxruntime is not installed, or the file is no such network.
        FileNotFoundError: There is no such file.
    """
    if not model.is_file():
        raise FileNotFoundError(f"{model} does not exist; name the ONNX file of a matting network, or {ALTERNATIVES}")
    session = _session(model)
    entry = session.get_inputs()[0]
    side = entry.shape[-1] if isinstance(entry.shape[-1], int) else MATTING_SIDE
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255 - 0.5
    found = np.asarray(session.run(None, {entry.name: pixels.transpose(2, 0, 1)[None]})[0], np.float32)
    if found.shape != (1, 1, side, side) or not np.isfinite(found).all():
        raise ValueError(f"{model} gave an array of shape {found.shape}, not an opacity of (1, 1, {side}, {side})")
    span = max(float(found.max() - found.min()), 1e-6)
    mask = Image.fromarray(((found[0, 0] - found.min()) / span * 255).round().astype(np.uint8))
    return np.asarray(mask.resize(image.size, Image.Resampling.BILINEAR))


def _session(model: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"{model} needs onnxruntime, which is not installed: pip install 'instant3d[photos]', or {ALTERNATIVES}"
        ) from error
    try:
        return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    except LIBRARY_ERRORS as error:
        raise ValueError(
            f"{model} is not a readable ONNX network ({type(error).__name__}); download it again"
        ) from error


def _library() -> tuple[Any, Any]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints and exits where onnxruntime is missing
            from rembg import new_session, remove
    except (ImportError, SystemExit) as error:
        raise ValueError(
            "this image has neither transparency nor a white background, and removing the background needs rembg, "
            f"which is not installed: pip install 'instant3d[photos]', or {ALTERNATIVES}"
        ) from error
    return remove, new_session
