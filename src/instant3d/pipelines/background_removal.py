"""Background removal from photos, by rembg."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from PIL import Image

MODEL = "u2net"  # Apache-2.0, and what the peers use; rembg's own first choice is not for commercial use
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
