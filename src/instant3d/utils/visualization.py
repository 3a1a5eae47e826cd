"""Videos, animations and contact sheets of images."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, PAPER = (40, 40, 40), (255, 255, 255)
MARGIN, TITLE, CAPTION = 8, 26, 18  # pixels of a contact sheet: between images, above a row, below an image


@dataclass(frozen=True)
class Row:
    """A labelled row of a contact sheet.

    Attributes:
        title: Text above the row.
        images: (N, 3, H, W) in [0, 1].
        captions: Text below each image.
    """

    title: str
    images: Tensor
    captions: Sequence[str] = ()


def has_video_encoder() -> bool:
    """Whether PyAV, which encodes videos, is installed."""
    return importlib.util.find_spec("av") is not None


def write_video(frames: Tensor, path: str | Path, *, frames_per_second: int = 24) -> None:
    """Write images as an H.264 MP4 that browsers and editors play (yuv420p, BT.709).

    That format halves the colour resolution, so odd sizes gain a row or a column, a copy of the last.

    Args:
        frames: (F, 3, H, W) in [0, 1].
        path: File to write.
        frames_per_second: Frame rate.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    images = _to_uint8(_even(frames))
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(frames_per_second), options={"crf": "16", "preset": "medium"}
        )
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.MPEG
        stream.codec_context.color_primaries = stream.codec_context.color_trc = 1  # BT.709
        stream.codec_context.thread_count = 1  # threads change the bytes, and a short video needs none
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            # the source's colours are full-range sRGB, the video's are BT.709 in the narrow range that players expect
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_animation(frames: Tensor, path: str | Path, *, frames_per_second: int = 24) -> None:
    """Write images as an endless .webp or .gif animation.

    Args:
        frames: (F, 3, H, W) in [0, 1].
        path: File to write; its suffix selects the format.
        frames_per_second: Frame rate.

    Raises:
        ValueError: The suffix is neither .webp nor .gif.
    """
    images = [Image.fromarray(image) for image in _to_uint8(frames)]
    path = Path(path)
    if path.suffix not in (".webp", ".gif"):
        raise ValueError(f"an animation is a .webp or a .gif, not {path.name}")
    duration = round(1000 / frames_per_second)
    kept: dict[str, Any] = {"save_all": True, "append_images": images[1:], "duration": duration, "loop": 0}
    if path.suffix == ".webp":
        kept |= {"quality": 85, "method": 2}
    images[0].save(path, **kept)


def write_image(pixels: Tensor, path: str | Path) -> None:
    """Write one image (3, H, W) in [0, 1] as a PNG."""
    Image.fromarray(_to_uint8(pixels[None])[0]).save(path, "PNG")


def write_contact_sheet(rows: Sequence[Row], path: str | Path, *, heading: str = "") -> None:
    """Write rows of images, each under its title, as one PNG.

    Args:
        rows: The rows, each with at least one image.
        path: File to write.
        heading: Text above all rows.

    Raises:
        ValueError: There is no row, or a row without images.
    """
    if not rows or not all(len(row.images) for row in rows):
        raise ValueError("a contact sheet needs at least one row, and an image in every row")
    top = TITLE if heading else 0
    heights = [TITLE + row.images.shape[-2] + (CAPTION if row.captions else 0) + MARGIN for row in rows]
    width = max(MARGIN + len(row.images) * (row.images.shape[-1] + MARGIN) for row in rows)
    page = Image.new("RGB", (width, top + sum(heights) + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    _print(pen, heading, MARGIN, MARGIN // 2, size=16, width=width)
    for row, height in zip(rows, heights, strict=True):
        _draw_row(page, pen, row, top)
        top += height
    page.save(path, "PNG")


def _draw_row(page: Image.Image, pen: ImageDraw.ImageDraw, row: Row, top: int) -> None:
    height, width = row.images.shape[-2:]
    _print(pen, row.title, MARGIN, top + MARGIN // 2, size=14, width=page.width - MARGIN)
    for k, image in enumerate(_to_uint8(row.images)):
        left = MARGIN + k * (width + MARGIN)
        page.paste(Image.fromarray(image), (left, top + TITLE))
        pen.rectangle((left - 1, top + TITLE - 1, left + width, top + TITLE + height), outline=(225, 225, 225))
        if k < len(row.captions):
            _print(pen, row.captions[k], left, top + TITLE + height + 3, size=11, width=width)


def _print(pen: ImageDraw.ImageDraw, text: str, left: int, top: int, *, size: int, width: int) -> None:
    """Draw one line of text, shortened to fit its `width` in pixels."""
    font = ImageFont.load_default(size)
    while text and pen.textlength(text, font=font) > width:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    pen.text((left, top), text, fill=INK, font=font)


def _even(frames: Tensor) -> Tensor:
    return torch.nn.functional.pad(frames, (0, frames.shape[-1] % 2, 0, frames.shape[-2] % 2), mode="replicate")


def _to_uint8(images: Tensor) -> np.ndarray:
    """Convert (N, 3, H, W) in [0, 1] to uint8 (N, H, W, 3)."""
    if images.dim() != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"images to write must be (N, 3, H, W) with N > 0, got {tuple(images.shape)}")
    scaled = (images.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).numpy())


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spaced and starting at 0."""
    shown = min(count, most)
    return [k * count // shown for k in range(shown)]
