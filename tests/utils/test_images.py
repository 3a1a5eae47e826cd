"""Untrusted images: what is decoded, what is refused before it is decoded, and the meaning of a mask's values."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from instant3d.scenes import images as scene_images
from instant3d.utils import images

RED = (200, 30, 30)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "a PostScript file"),
        (encoded(Image.new("RGB", (8, 8)), "GIF"), "a GIF image"),
        (encoded(Image.new("RGB", (8, 8)), "BMP"), "a BMP image"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"", "empty"),
    ],
)
def test_open_image_names_another_kind_of_file_and_never_hands_it_to_its_decoder(monkeypatch, data, kind):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(ValueError, match=rf"0000\.png is not a readable image: it is {kind}"):
        images.open_image(data, "0000.png")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_open_image_refuses_an_animation_with_its_number_of_frames(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="animation of 3 frames"):
        images.open_image(data, "a.png")


def test_open_image_raises_a_value_error_wherever_a_byte_is_flipped():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)))
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 0xFF
        with contextlib.suppress(ValueError):  # and nothing else
            assert images.open_image(bytes(spoilt), "a.png").mode in ("RGB", "RGBA")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((2, 2), 40000, np.uint16)), (156, 156, 156)),  # 40000 / 65535 of 255
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("LA", (2, 2), (77, 9)), (77, 77, 77, 9)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGB", (2, 2), RED).quantize(4), RED),
    ],
    ids=["16 bits", "grey", "grey with alpha", "one bit", "palette"],
)
def test_open_image_turns_every_mode_into_the_colours_that_it_shows(image, expected):
    assert images.open_image(encoded(image), "a.png").getpixel((1, 1)) == expected


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_open_image_reduces_a_large_image_with_its_halves_where_they_were(kind):
    pixels = np.zeros((800, 1600, 3), np.uint8)
    pixels[:, 800:] = 250
    image = images.open_image(encoded(Image.fromarray(pixels), kind), "a", enough=200)
    assert image.size == (200, 100)
    small = np.asarray(image).astype(int)
    assert abs(small[:, :99]).max() < 8
    assert abs(small[:, 101:] - 250).max() < 8


def test_open_image_refuses_a_palette_image_without_its_palette():
    data = encoded(palette_of_labels())
    start = data.index(b"PLTE") - 4
    without = data[:start] + data[start + 12 + int.from_bytes(data[start : start + 4]) :]
    with pytest.raises(ValueError, match=r"x\.png is not a readable image \(it lacks its palette\)"):
        images.open_image(without, "x.png")


def with_transparent_color() -> bytes:
    return encoded(Image.fromarray(NOISE).quantize(16), transparency=3)


NOISE = np.random.default_rng(0).integers(0, 256, (71, 97, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(NOISE[..., :3])),
        encoded(Image.fromarray(NOISE)),
        encoded(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)),
        with_transparent_color(),
    ],
    ids=["rgb", "rgba", "16 bits", "palette with transparency"],
)
def test_open_image_reduces_in_strips_to_what_pillow_makes_of_the_whole_image(monkeypatch, data):
    monkeypatch.setattr(images, "STRIP_PIXELS", 97 * 9)
    whole = images.open_image(data, "a.png")
    reduced = images.open_image(data, "a.png", enough=23)
    expected = whole.resize((24, 18), Image.Resampling.BOX)
    assert np.abs(np.asarray(reduced).astype(int) - np.asarray(expected)).max() <= 1


def covered(mask: Image.Image) -> np.ndarray:
    white = encoded(Image.new("RGB", mask.size, RED))
    return scene_images.decode(white, encoded(mask), "a.png").alpha


INSIDE = np.zeros((6, 6), np.uint8)
INSIDE[2:4, 1:5] = 1


def palette_of_labels() -> Image.Image:
    image = Image.fromarray(INSIDE * 2).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 128, 0])
    return image


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(INSIDE),
        Image.fromarray(INSIDE * 255),
        Image.fromarray(INSIDE * 7),
        Image.fromarray(INSIDE.astype(np.uint16)),
        Image.fromarray(INSIDE.astype(bool)),
        Image.fromarray(np.where(np.eye(6, dtype=bool), 2, 1).astype(np.uint8) * INSIDE),
        Image.fromarray(np.dstack([INSIDE * 255, INSIDE * 0, INSIDE * 0])),
        Image.fromarray(np.dstack([INSIDE * 0 + 255] * 3 + [INSIDE])),
        palette_of_labels(),
    ],
    ids=["0 and 1", "0 and 255", "0 and 7", "16 bits", "one bit", "labels", "red on black", "alpha 0 and 1", "palette"],
)
def test_decode_mask_of_labels_covers_all_that_is_not_zero(mask):
    assert (covered(mask) == INSIDE * 255).all()


def test_decode_mask_in_strips_has_one_meaning_for_all_of_them(monkeypatch):
    monkeypatch.setattr(images, "STRIP_PIXELS", 1)
    assert (covered(Image.fromarray(INSIDE * 7)) == INSIDE * 255).all()


def test_decode_soft_mask_is_as_opaque_as_it_is_bright():
    soft = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7
    assert (covered(Image.fromarray(soft)) == soft).all()


def test_decode_alpha_written_as_zero_and_one_is_opaque_where_it_is_one():
    pixels = np.dstack([np.full((6, 6, 3), 90, np.uint8), INSIDE])
    assert (scene_images.decode(encoded(Image.fromarray(pixels)), None, "a.png").alpha == INSIDE * 255).all()
