"""Our PNG files against Pillow's decoder, which is libpng's heir."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from instant3d.utils import png

SHAPES = [(5, 7), (1, 1), (4, 9, 3), (6, 3, 4), (1, 8, 4)]


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("compress", [png._compressor(), zlib.compress], ids=["installed", "zlib"])
@pytest.mark.parametrize("pixels", [*map(noise, SHAPES), noise((5, 7), np.uint16), noise((9, 9, 4))[::2, ::3]])
def test_png_encode_is_read_back_pixel_for_pixel_by_pillow(pixels, compress, monkeypatch):
    monkeypatch.setattr(png, "_compressor", lambda: compress)
    image = Image.open(io.BytesIO(png.encode(pixels)))
    image.verify()  # the checksums too
    decoded = np.asarray(Image.open(io.BytesIO(png.encode(pixels))))
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)


def test_png_encode_of_a_smooth_image_takes_a_twentieth_of_its_bytes():
    rows, columns = np.mgrid[:64, :64]
    smooth = np.stack([rows, columns, rows + columns, np.full_like(rows, 255)], -1).astype(np.uint8)
    assert len(png.encode(smooth)) < smooth.nbytes / 20  # unfiltered, deflate finds no repetition in such gradients


@pytest.mark.parametrize(
    "pixels", [noise((4, 4, 2)), noise((0, 4)), noise((4,)), np.zeros((4, 4)), noise((2, 2, 2, 3))]
)
def test_png_encode_refuses_what_is_no_image_in_one_sentence(pixels):
    with pytest.raises(ValueError, match="a PNG is written from"):
        png.encode(pixels)
