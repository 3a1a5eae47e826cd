"""Preprocessing of drawn photos, each with a rectangle at a known place, for a single-image network."""

import io
import sys
import types
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from sphere_network import SPHERE

from instant3d.pipelines import image_preprocessing
from instant3d.stage2.view_checks import assumed_camera, resize_inputs

ONE_IMAGE = replace(SPHERE, image_size=100, foreground=0.8, assumed_camera=(30.0, 10.0, 2.0, 40.0))
BOX = (40, 10, 60, 50)  # left, top, right, bottom: 20 wide, 40 high
RED = (200, 40, 30)


def drawn(mode="RGBA", size=(120, 80), background=(0, 0, 0, 0)):
    """A red rectangle with a blue corner, upper left, on the background."""
    image = Image.new("RGBA", size, background)
    pen = ImageDraw.Draw(image)
    pen.rectangle((BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1), (*RED, 255))
    pen.rectangle((BOX[0], BOX[1], BOX[0] + 7, BOX[1] + 7), (20, 40, 210, 255))
    return image.convert(mode)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def shown(path, architecture=ONE_IMAGE):
    """What the network is shown: rgb over white and alpha, (H, W, 3) and (H, W)."""
    views = resize_inputs(image_preprocessing.read_photo(path, architecture).scene.views, architecture)
    return views.composite(1.0)[0].permute(1, 2, 0).numpy(), views.alpha[0, 0].numpy()


def extent(alpha):
    """Left, top, right, bottom of what is more than half opaque, as shares of the side."""
    columns, rows = (np.flatnonzero((alpha > 0.5).any(axis)) for axis in (0, 1))
    return [columns[0] / alpha.shape[1], rows[0] / alpha.shape[0],
            (columns[-1] + 1) / alpha.shape[1], (rows[-1] + 1) / alpha.shape[0]]  # fmt: skip


CENTRED = [0.3, 0.1, 0.7, 0.9]  # 40 of 50 high, 20 of 50 wide, in the middle


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 3, 17])
def test_photo_has_its_object_in_the_middle_at_the_share_of_the_training(tmp_path, scale):
    image = drawn().resize((120 * scale, 80 * scale), Image.Resampling.NEAREST)
    rgb, alpha = shown(saved(image, tmp_path / "a.png"))
    np.testing.assert_allclose(extent(alpha), CENTRED, atol=0.011)
    np.testing.assert_allclose(rgb[50, 50], np.array(RED) / 255, atol=0.01)
    assert rgb[16, 36, 2] > 0.7  # the blue corner is at the upper left
    assert rgb[16, 64, 0] > 0.7
    assert rgb[84, 36, 0] > 0.7


@pytest.mark.parametrize("share", [0.5, 0.85, 1.0])
def test_photo_share_is_that_of_the_longer_side(tmp_path, share):
    architecture = replace(ONE_IMAGE, foreground=share)
    left, top, right, bottom = extent(shown(saved(drawn(), tmp_path / "a.png"), architecture)[1])
    assert bottom - top == pytest.approx(share, abs=0.011)
    assert right - left == pytest.approx(share / 2, abs=0.021)
    assert (left + right, top + bottom) == (pytest.approx(1, abs=0.011), pytest.approx(1, abs=0.011))


def test_photo_keeps_a_middle_between_pixels_by_soft_edges():
    """An object of 3 pixels in a square of 3 / 0.85: its centre of mass is the square's."""
    alpha = np.zeros((9, 11), np.uint8)
    alpha[2:5, 6:9] = 255
    framed = image_preprocessing.frame_object(
        image_preprocessing.DecodedImage(np.zeros((9, 11, 3), np.uint8), alpha, "alpha"), 0.85
    )
    weight = np.asarray(framed)[..., 3].astype(float)
    places = np.arange(framed.width) + 0.5
    for sums in (weight.sum(0), weight.sum(1)):
        assert (sums * places).sum() / sums.sum() == pytest.approx(framed.width / 2, abs=0.02)


def test_photo_is_only_padded_to_a_square_without_a_share(tmp_path):
    architecture = replace(ONE_IMAGE, foreground=0.0, image_size=120)
    alpha = shown(saved(drawn(), tmp_path / "a.png"), architecture)[1]
    assert extent(alpha) == pytest.approx([40 / 120, 30 / 120, 60 / 120, 70 / 120])


def test_photo_crop_ignores_a_speck_far_from_the_object(tmp_path):
    image = drawn()
    image.putpixel((110, 75), (0, 0, 0, 255))
    np.testing.assert_allclose(extent(shown(saved(image, tmp_path / "a.png"))[1]), CENTRED, atol=0.011)


def test_photo_camera_is_the_one_that_the_network_assumes(tmp_path):
    views = image_preprocessing.read_photo(saved(drawn(), tmp_path / "a.png"), ONE_IMAGE).scene.views
    assert torch.equal(views.cameras.cam_to_world, assumed_camera(ONE_IMAGE).cam_to_world)
    assert views.rgb.shape == (1, 3, 50, 50)


TURNS = {  # EXIF orientation: what was done to the upright image before it was stored
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_photo_is_turned_upright_by_its_exif_orientation(tmp_path, orientation, extension):
    """Six says that the stored image's first row is the right-hand side; stored so, it was turned left."""
    upright = drawn("RGB", background=(255, 255, 255, 255))
    turn = TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if turn is None else upright.transpose(turn)
    options = {"quality": 95, "subsampling": 0} if extension == "jpg" else {"quality": 95}
    rgb, alpha = shown(saved(stored, tmp_path / f"a.{extension}", exif=exif, **options))
    np.testing.assert_allclose(extent(alpha), CENTRED, atol=0.04)
    assert rgb[17, 37, 2] > 0.6  # blue at the upper left
    for row, column in ((17, 63), (83, 37), (83, 63)):
        assert rgb[row, column, 0] > 0.6


def test_photo_is_not_turned_by_an_invalid_orientation(tmp_path):
    path = saved(drawn("RGB", background=(255, 255, 255, 255)), tmp_path / "a.jpg", exif=b"Exif\x00\x00nonsense")
    np.testing.assert_allclose(extent(shown(path)[1]), CENTRED, atol=0.04)


def palette_with_transparency():
    """Colour 0, a loud green, is the transparent one."""
    numbers = np.zeros((80, 120), np.uint8)
    numbers[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    image = Image.fromarray(numbers).convert("P")
    image.putpalette([0, 255, 0, *RED])
    return image, {"transparency": 0}


def sixteen_bits():
    grey = np.full((80, 120), 65535, np.uint16)
    grey[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 0x3000
    return Image.fromarray(grey), {}


MODES = {
    "RGBA": lambda: (drawn(), {}),
    "LA": lambda: (drawn("LA"), {}),
    "P with a transparent colour": palette_with_transparency,
    "RGB with a transparent colour": lambda: (drawn("RGB", background=(9, 8, 7, 255)), {"transparency": (9, 8, 7)}),
    "RGB": lambda: (drawn("RGB", background=(255,) * 4), {}),
    "L": lambda: (drawn("L", background=(255,) * 4), {}),
    "1": lambda: (drawn("1", background=(255,) * 4), {}),
    "P": lambda: (drawn("RGB", background=(255,) * 4).quantize(8), {}),
    "16 bits": sixteen_bits,
}


@pytest.mark.parametrize("mode", MODES)
def test_photo_shows_the_same_object_in_each_image_mode(tmp_path, mode):
    image, options = MODES[mode]()
    rgb, alpha = shown(saved(image, tmp_path / "a.png", **options))
    np.testing.assert_allclose(extent(alpha), CENTRED, atol=0.03)
    red = mode.startswith(("RGB", "P"))
    wanted = np.array(RED) / 255 if red else np.array({"1": 0, "16 bits": 0x30 / 255}.get(mode, 87 / 255))
    if mode != "1":  # which is dithered
        np.testing.assert_allclose(rgb[60, 55], np.broadcast_to(wanted, 3), atol=0.03)


def test_photo_in_cmyk_is_converted_to_rgb(tmp_path):
    path = saved(drawn("RGB", background=(255,) * 4).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    rgb, alpha = shown(path)
    np.testing.assert_allclose(extent(alpha), CENTRED, atol=0.04)
    np.testing.assert_allclose(rgb[60, 55], np.array(RED) / 255, atol=0.06)


@pytest.mark.slow
def test_photo_colours_under_transparency_do_not_bleed_in(tmp_path):
    """The hidden background is bright green; shrunk, the object's edge must not be."""
    image = drawn(background=(0, 255, 0, 0)).resize((2400, 1600), Image.Resampling.NEAREST)
    rgb, _ = shown(saved(image, tmp_path / "a.png"))
    assert (rgb[..., 1] <= rgb[..., 0] + 0.35)[rgb[..., 2] < 0.5].all()
    assert not ((rgb[..., 1] > 0.6) & (rgb[..., 0] < 0.4)).any()


def test_cut_out_ignores_an_alpha_channel_that_hides_next_to_nothing(tmp_path):
    image = drawn(background=(255, 255, 255, 255))
    for corner in ((0, 0), (119, 0), (0, 79), (119, 79)):
        image.putpixel(corner, (0, 0, 0, 0))
    read = image_preprocessing.read_photo(saved(image, tmp_path / "a.png"), ONE_IMAGE)
    assert read.cut_by == "white"
    np.testing.assert_allclose(extent(shown(tmp_path / "a.png")[1]), CENTRED, atol=0.03)


class StandIn:
    """A session of rembg's that finds the rectangle."""

    def predict(self, image, *args, **kwargs):
        mask = Image.new("L", image.size)
        mask.paste(255, BOX)
        return [mask]


@pytest.fixture
def rembg(monkeypatch):
    """A library with rembg's two functions; what it is asked is kept."""
    asked = []

    def new_session(name):
        asked.append(name)
        return StandIn()

    def remove(image, *, session, only_mask):
        assert only_mask
        return session.predict(image)[0]

    library = types.SimpleNamespace(new_session=new_session, remove=remove, asked=asked)
    monkeypatch.setitem(sys.modules, "rembg", library)
    return library


GREEN = (60, 160, 60, 255)


def test_cut_out_uses_rembg_for_a_background_neither_clear_nor_white(tmp_path, rembg):
    path = saved(drawn("RGB", background=GREEN), tmp_path / "a.png")
    with pytest.warns(UserWarning, match="removed by rembg"):
        read = image_preprocessing.read_photo(path, ONE_IMAGE)
    assert (read.cut_by, rembg.asked) == ("rembg", ["u2net"])
    alpha = read.scene.views.alpha[0, 0].numpy()
    np.testing.assert_allclose(extent(alpha), CENTRED, atol=0.03)


@pytest.mark.parametrize("background", [(0, 0, 0, 0), (255, 255, 255, 255)])
def test_cut_out_needs_no_rembg_for_a_clear_or_white_background(tmp_path, rembg, background):
    image_preprocessing.read_photo(saved(drawn(background=background), tmp_path / "a.png"), ONE_IMAGE)
    assert rembg.asked == []


def test_cut_out_without_rembg_is_one_sentence_with_three_ways_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    path = saved(drawn("RGB", background=GREEN), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"instant3d\[photos\].*transparent background.*on white"):
        image_preprocessing.read_photo(path, ONE_IMAGE)


def test_cut_out_with_a_model_that_cannot_be_downloaded_is_one_sentence(tmp_path, rembg):
    def offline(name):
        raise ConnectionError("no route to a long address")

    rembg.new_session = offline
    path = saved(drawn("RGB", background=GREEN), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"u2net cannot be downloaded.*connect to the network"):
        image_preprocessing.read_photo(path, ONE_IMAGE)


def huge():
    """A PNG whose header claims 2^15 x 2^15 pixels."""
    stream = io.BytesIO()
    drawn().save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = (2**15).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def of_another_format():
    stream = io.BytesIO()
    drawn("RGB").save(stream, "TIFF")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not PNG, JPEG, WEBP"),
        (b"no picture", "not PNG, JPEG, WEBP"),
        (of_another_format(), "not PNG, JPEG, WEBP"),
        (huge(), "more than 67108864 pixels"),
        (None, "does not exist"),
    ],
)
def test_photo_that_is_no_usable_image_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        image_preprocessing.read_photo(path, ONE_IMAGE)


@pytest.mark.parametrize("where", range(30, 400, 37))
def test_photo_cut_off_anywhere_is_one_sentence(tmp_path, where):
    stream = io.BytesIO()
    drawn().save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue()[:where])
    if where < len(stream.getvalue()) - 20:
        with pytest.raises(ValueError, match=r"a\.png is not a readable image"):
            image_preprocessing.read_photo(tmp_path / "a.png", ONE_IMAGE)


@pytest.mark.parametrize(
    ("background", "message"), [((0, 0, 0, 0), "transparent everywhere"), ((255,) * 4, "white everywhere")]
)
def test_photo_of_nothing_is_refused(tmp_path, background, message):
    path = saved(Image.new("RGBA", (30, 20), background), tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        image_preprocessing.read_photo(path, ONE_IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (5000, 30)])
def test_photo_of_any_shape_becomes_a_square(tmp_path, size):
    image = Image.new("RGBA", size, (*RED, 255))
    canvas = Image.new("RGBA", (size[0] + 20, size[1] + 20))
    canvas.paste(image, (10, 10))
    views = image_preprocessing.read_photo(saved(canvas, tmp_path / "a.png"), ONE_IMAGE).scene.views
    assert views.width == views.height <= image_preprocessing.WIDEST / 0.8 + 1


def test_photo_is_refused_by_a_network_of_several_views(tmp_path):
    with pytest.raises(ValueError, match=r"several posed views.*is one image"):
        image_preprocessing.read_photo(saved(drawn(), tmp_path / "a.png"), SPHERE)


def test_is_photo_distinguishes_an_image_from_a_scene(tmp_path):
    (tmp_path / "transforms.json").write_text("{}")
    (tmp_path / "a.png").mkdir()
    names = {"transforms.json": False, "a.png": False, "b.PNG": True, "c": False, "d.json": False}
    assert {name: image_preprocessing.is_photo(tmp_path / name) for name in names} == names
    (tmp_path / "c").write_bytes(b"")
    assert image_preprocessing.is_photo(tmp_path / "c")
