"""EXIF of an image: its orientation and focal length, and whether the orientation applies to its stored pixels."""

from __future__ import annotations

from PIL import Image

from instant3d.utils.errors import LIBRARY_ERRORS

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
    """Whether a stored image has the expected aspect ratio only after its orientation is applied.

    Args:
        stored: Width and height in pixels, as in the file.
        orientation: EXIF orientation, 1 to 8; 5 to 8 exchange width and height.
        expected: Expected width and height; None if they are unknown, which makes it False.
    """
    fits_stored, fits_upright = _fits(stored, expected), _fits(stored[::-1], expected)
    return orientation >= 5 and fits_upright and not fits_stored


def is_raw_size(stored: tuple[int, int], orientation: int, expected: tuple[float, float] | None) -> bool:
    """Whether a stored image has the expected aspect ratio only before its orientation is applied.

    Args:
        stored: As in `is_upright_size`.
        orientation: As in `is_upright_size`.
        expected: As in `is_upright_size`.
    """
    fits_stored, fits_upright = _fits(stored, expected), _fits(stored[::-1], expected)
    return orientation >= 5 and fits_stored and not fits_upright


def _fits(size: tuple[int, int], expected: tuple[float, float] | None) -> bool:
    """Whether a size has the expected aspect ratio, within a pixel and a hundredth."""
    return expected is not None and abs(expected[0] / expected[1] * size[1] - size[0]) <= 1.5 + 0.01 * size[0]
