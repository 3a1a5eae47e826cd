"""Safe decoding of encoded images from any source: scenes, photos, masks, depth and textures.

Only PNG, JPEG and WebP are decoded, so that no file starts another program (PostScript would start Ghostscript). Size
and number of frames are checked before pixels are decoded, and whatever is wrong with a file is one `ValueError`.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from instant3d.utils import exif
from instant3d.utils.errors import LIBRARY_ERRORS

FORMATS = ("PNG", "JPEG", "WEBP")
JPEGS = ("JPEG", "MPO")  # a phone's JPEG with a preview or a second view beside it is MPO; the first is taken
MAX_PIXELS = 2**26  # 8192 x 8192, of one image
STRIP_PIXELS = 2**21  # of an image, which are converted at once while it is reduced
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")
SIGNATURES = {
    b"%!PS": "a PostScript file",
    b"%PDF": "a PDF file",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\x76\x2f\x31\x01": "an OpenEXR image",
    b"#?RADIANCE": "a Radiance HDR image",
    b"\xabKTX": "a KTX texture",
    b"DDS ": "a DDS texture",
    b"PK": "a zip archive",
    b"version https://git-lfs": "a Git LFS pointer (download the file itself)",
    b"\0\5\26\7": "what macOS leaves beside a file (AppleDouble)",
    b"<": "a web page or an SVG drawing",
}


class TooManyPixels(ValueError):
    """The header declares more pixels than are decoded."""


Check = Callable[[int, int], None]  # of width and height; raises to refuse them
Convert = Callable[[Image.Image], Image.Image]  # to another mode, with the same pixels


def open_image(
    data: bytes, where: str, *, enough: int | None = None, upright: bool = False, check: Check | None = None
) -> Image.Image:
    """Decode an image as RGB, or as RGBA if it has transparency of any kind, with 8 bits per channel.

    Args:
        data: The encoded file.
        where: Name of the file for error messages.
        enough: Side length in pixels that suffices. An image at least twice as large is reduced by area averaging, so
            that its longer side is from `enough` to twice that.
        upright: Apply the EXIF orientation.
        check: Called with width and height before anything is decoded, to refuse a size by raising; by default more
            than `MAX_PIXELS` are refused.

    Raises:
        ValueError: It is not a valid PNG, JPEG or WebP, is animated, or is too large.
    """
    image = open_raw(data, where, enough=enough, check=check)
    turn = exif.orientation(image) if upright else 1
    size = _divided(image.size, _factor(image.size, enough))
    return exif.oriented(reduced(image, size, lambda strip: to_color(strip, where)), turn)


def open_raw(data: bytes, where: str, *, enough: int | None = None, check: Check | None = None) -> Image.Image:
    """Decode an image in the mode of its file, such as 16-bit grey or a palette.

    Args:
        data: The encoded file.
        where: Name of the file for error messages.
        enough: As in `open_image`, but only JPEG is reduced.
        check: As in `open_image`.

    Raises:
        ValueError: As for `open_image`.
    """
    image = header(data, where, check)
    try:
        factor = _factor(image.size, enough)
        if factor > 1 and image.format in JPEGS:
            image.draft("", _divided(image.size, factor))
        image.load()
    except LIBRARY_ERRORS as error:
        raise ValueError(f"{where} is not a readable image ({error or 'no detail'}); export it again") from error
    if image.mode == "P" and image.palette is None:
        raise ValueError(f"{where} is not a readable image (it lacks its palette); export it again")
    return image


def header(data: bytes, where: str, check: Check | None = None) -> Image.Image:
    """Read and check only the header of an image: its format, mode and size.

    Args:
        data: The encoded file.
        where: Name of the file for error messages.
        check: As in `open_image`.

    Raises:
        ValueError: As for `open_image`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning about large images; the limit here is stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            frames = 1 if image.format in JPEGS else int(getattr(image, "n_frames", 1))
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"{where} has more than {MAX_PIXELS} pixels; make it smaller") from error
    except LIBRARY_ERRORS as error:
        known = ", ".join(FORMATS)
        raise ValueError(
            f"{where} is not a readable image: it is {_kind(data)}, not {known}; export it again as one of these"
        ) from error
    if check is not None:
        check(*image.size)
    elif image.width * image.height > MAX_PIXELS:
        raise TooManyPixels(f"{where} has more than {MAX_PIXELS} pixels; make it smaller")
    if frames > 1:
        raise ValueError(f"{where} is an animation of {frames} frames; give one still image")
    return image


def convert(image: Image.Image, mode: str, where: str) -> Image.Image:
    """Convert a decoded image to another mode.

    Args:
        image: The image.
        mode: Pillow's name of the mode, such as "RGB".
        where: Name of the file for error messages.

    Raises:
        ValueError: Its palette and its transparency do not fit each other.
    """
    try:
        return image.convert(mode)
    except LIBRARY_ERRORS as error:
        raise ValueError(f"{where} is not a readable image ({error or 'no detail'}); export it again") from error


def reduced(image: Image.Image, size: tuple[int, int], convert: Convert) -> Image.Image:
    """Convert a decoded image, and reduce it by area averaging.

    A large image is converted strip by strip, as its converted copy may need several times its memory.

    Args:
        image: The image.
        size: Width and height of the result.
        convert: Converts a strip of the image.
    """
    if image.size == size:
        return convert(image)
    rows = max(1, STRIP_PIXELS * size[1] // (image.width * image.height))  # of the result, in a strip
    strips = [_strip(image, size, row, min(row + rows, size[1]), convert) for row in range(0, size[1], rows)]
    return strips[0] if len(strips) == 1 else Image.fromarray(np.concatenate([np.asarray(strip) for strip in strips]))


def strips(image: Image.Image) -> Iterator[Image.Image]:
    """Yield an image in strips of at most `STRIP_PIXELS`, at least one row each, from the top."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _strip(image: Image.Image, size: tuple[int, int], first: int, end: int, convert: Convert) -> Image.Image:
    """Return the rows from `first` to `end` of an image that is converted and reduced to `size`."""
    scale = image.height / size[1]
    top, bottom = math.floor(first * scale), min(math.ceil(end * scale), image.height)
    strip = convert(image.crop((0, top, image.width, bottom)))
    box = (0, first * scale - top, image.width, min(end * scale - top, bottom - top))
    return strip.resize((size[0], end - first), Image.Resampling.BOX, box)


def check_size(got: tuple[int, ...], expected: tuple[int, ...], where: str) -> None:
    """Refuse a mask or a map of another size than its image.

    Args:
        got: Its height and width in pixels.
        expected: Height and width of the image.
        where: Name of the mask or map for error messages.

    Raises:
        ValueError: The sizes differ.
    """
    if tuple(got) != tuple(expected):
        raise ValueError(f"{where} is {got[1]} x {got[0]} pixels, but its image is {expected[1]} x {expected[0]}")


def to_color(image: Image.Image, where: str) -> Image.Image:
    """Convert a decoded image to RGB, or to RGBA if it has transparency of any kind, with 8 bits per channel.

    Arguments and errors are those of `convert`.
    """
    image = to_uint8(image)
    return convert(image, "RGBA" if image.has_transparency_data else "RGB", where)


def to_uint8(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to 8-bit grey, rounded; other modes are returned unchanged."""
    if not image.mode.startswith("I"):
        return image
    steps = np.asarray(image).astype(np.int32).clip(0, 65535)
    grey = Image.fromarray(((steps + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # one of the 65,536 levels
        grey.putalpha(Image.fromarray(np.where(steps == clear, 0, 255).astype(np.uint8)))
    return grey


def is_heif(data: bytes) -> bool:
    """Whether a file is a HEIF image, such as a phone's HEIC."""
    return data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS


def open_heif(data: bytes, where: str) -> Image.Image:
    """Decode a HEIF image, upright, as RGB or RGBA with 8 bits per channel.

    Args:
        data: The encoded file.
        where: Name of the file for error messages.

    Raises:
        ValueError: pillow-heif is not installed, or it is not a valid image or too large.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ValueError(
            f"{where} is a HEIC image, which needs pillow-heif: pip install 'instant3d[photos]', or export it as JPEG"
        ) from error
    try:
        file = pillow_heif.open_heif(io.BytesIO(data))
        if file.size[0] * file.size[1] > MAX_PIXELS:
            raise TooManyPixels(f"{where} has more than {MAX_PIXELS} pixels; make it smaller")
        return file.to_pillow()
    except TooManyPixels:
        raise
    except LIBRARY_ERRORS as error:
        raise ValueError(f"{where} is not a readable image ({error or 'no detail'}); export it again") from error


def _factor(size: tuple[int, int], enough: int | None) -> int:
    return 1 if enough is None else max(1, max(size) // enough)


def _divided(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return max(1, round(size[0] / factor)), max(1, round(size[1] / factor))


def _kind(data: bytes) -> str:
    """Describe an unsupported file by its first bytes."""
    if not data:
        return "empty"
    if data[4:8] == b"ftyp":
        return "a HEIC or AVIF image, or a video"
    begin = data[:64].lstrip(b"\xef\xbb\xbf \r\n\t")
    return next((name for sign, name in SIGNATURES.items() if begin.startswith(sign)), "of an unknown kind")


def encode_png(pixels: np.ndarray, compress_level: int = 6) -> bytes:
    """Pixels (H, W), (H, W, 3) or (H, W, 4) uint8 as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()
