"""Small images and escaped text for HTML pages."""

from __future__ import annotations

import base64
import html
import io
import json
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

PREFIX = "data:image/webp;base64,"


def webp(pixels: Tensor, width: int, quality: int = 80) -> bytes:
    """Encode an image as WebP.

    Args:
        pixels: (3, H, W) in [0, 1].
        width: Pixels across; a wider image is reduced to it, a narrower one keeps its size.
        quality: Quality of WebP, 0 ... 100.
    """
    levels = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(np.ascontiguousarray(levels))
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality)
    return stream.getvalue()


def data_uri(data: bytes) -> str:
    """A WebP as the address of an image."""
    return PREFIX + base64.b64encode(data).decode()


def escaped(text: Any, longest: int = 200) -> str:
    """Text that cannot be markup, cut where it is long."""
    words = str(text)
    return html.escape(words if len(words) <= longest else words[: longest - 1] + "…", quote=True)


def script_data(content: Any) -> str:
    """JSON that may stand in a <script>: it cannot end it, nor begin a comment."""
    text = json.dumps(content, ensure_ascii=True)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
