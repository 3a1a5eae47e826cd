"""Safe decoding of encoded images from any source: scenes, photos, masks, depth and textures.

Only PNG, JPEG and WebP are decoded, so that no file starts another program (PostScript would start Ghostscript). Size
and number of frames are checked before pixels are decoded, and whatever is wrong with a file is one `ValueError`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image

from instant3d.utils.errors import LIBRARY_ERRORS

FORMATS = ("PNG", "JPEG", "WEBP")
JPEGS = ("JPEG", "MPO")  # a phone's JPEG with a preview or a second view beside it is MPO; the first is taken
MAX_PIXELS = 2**26  # 8192 x 8192, of one image
ORIENTATION, EXIF, FOCAL_LENGTH_35MM = 0x0112, 0x8769, 0xA405  # EXIF tags
TURNS = {  # the transpose that makes an image upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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
    image = to_uint8(_upright(image) if upright else image)
    image = convert(image, "RGBA" if image.has_transparency_data else "RGB", where)
    factor = _factor(image.size, enough)
    return image if factor == 1 else image.resize(_divided(image.size, factor), Image.Resampling.BOX)


def open_raw(data: bytes, where: str, *, enough: int | None = None, check: Check | None = None) -> Image.Image:
    """Decode an image in the mode of its file, such as 16-bit grey or a palette; only JPEG is reduced to `enough`.

    Arguments and errors are those of `open_image`.
    """
    image = header(data, where, check)
    try:
        factor = _factor(image.size, enough)
        if factor > 1 and image.format in JPEGS:
            image.draft("", _divided(image.size, factor))
        image.load()
    except LIBRARY_ERRORS as error:
        raise ValueError(f"{where} is not a readable image ({error or 'no detail'}); export it again") from error
    return image


def header(data: bytes, where: str, check: Check | None = None) -> Image.Image:
    """Read and check only the header of an image: its format, mode and size.

    Arguments and errors are those of `open_image`.
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


def to_uint8(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to 8-bit grey, rounded; other modes are returned unchanged."""
    if not image.mode.startswith("I"):
        return image
    steps = np.asarray(image).astype(np.int64).clip(0, 65535)
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


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, which is upright, if there is none or it is invalid."""
    try:
        value = Image.Image.getexif(image).get(ORIENTATION, 1)  # that of PNG would decode all of it
    except LIBRARY_ERRORS:
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def focal_length_35mm(image: Image.Image) -> float | None:
    """Return the EXIF focal length in mm as if on 35 mm film; None if there is none or it is invalid."""
    try:
        value = float(Image.Image.getexif(image).get_ifd(EXIF).get(FOCAL_LENGTH_35MM, 0))
    except LIBRARY_ERRORS:
        return None
    return value if 1 <= value <= 2000 else None


def oriented(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation, 1 to 8."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def is_upright_size(stored: tuple[int, int], orientation: int, expected: tuple[float, float] | None) -> bool:
    """Whether an expected width and height fit an image of the stored size only if its orientation is applied."""
    fits_stored, fits_upright = _fits(stored, expected), _fits(stored[::-1], expected)
    return orientation >= 5 and fits_upright and not fits_stored


def is_raw_size(stored: tuple[int, int], orientation: int, expected: tuple[float, float] | None) -> bool:
    """Whether an expected width and height fit an image of the stored size only if its orientation is not applied."""
    fits_stored, fits_upright = _fits(stored, expected), _fits(stored[::-1], expected)
    return orientation >= 5 and fits_stored and not fits_upright


def _fits(size: tuple[int, int], expected: tuple[float, float] | None) -> bool:
    """Whether a size has the expected aspect ratio, within a pixel and a hundredth."""
    return expected is not None and abs(expected[0] / expected[1] * size[1] - size[0]) <= 1.5 + 0.01 * size[0]


def _upright(image: Image.Image) -> Image.Image:
    return oriented(image, orientation(image))


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
