"""First cameras of photos, worked out by hand from rectangles of known size; what photos are refused."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from instant3d.pipelines import background_removal, image_preprocessing
from instant3d.pipelines.photo_set import PhotoOptions, read_photos

FILM = math.hypot(36, 24)


def photo(path, box, size=(120, 80), **options):
    """A red rectangle on nothing."""
    image = Image.new("RGBA", size)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), (200, 40, 30, 255))
    image.save(path, **options)
    return path


@pytest.fixture
def pair(tmp_path):
    """40 and 20 pixels high, 20 wide."""
    return [photo(tmp_path / "a.png", (40, 10, 60, 50)), photo(tmp_path / "b.png", (70, 30, 90, 50))]


def test_photos_of_half_the_height_are_taken_from_twice_the_distance(pair):
    distances = read_photos(pair, PhotoOptions()).views.cameras.positions.norm(dim=-1)
    assert float(distances[1] / distances[0]) == pytest.approx(2, abs=1e-4)


def test_photos_show_the_object_in_the_middle_and_inside_the_unit_sphere(pair):
    views = read_photos(pair, PhotoOptions()).views
    solid = views.alpha[:, 0] > 0.5
    for k in range(2):
        rows, columns = (np.flatnonzero(solid[k].any(axis)) for axis in (1, 0))
        assert (rows[0] + rows[-1]) / 2 == pytest.approx((views.height - 1) / 2, abs=1)
        assert (columns[0] + columns[-1]) / 2 == pytest.approx((views.width - 1) / 2, abs=1)
        half = max(rows[-1] - rows[0], columns[-1] - columns[0]) / 2 / views.width
        reach = half / float(views.cameras.intrinsics[k, 0]) * float(views.cameras.positions[k].norm())
        assert 0.3 < reach <= 0.95


def test_photos_go_round_the_object_from_the_front_to_the_right(pair):
    positions = read_photos(pair, PhotoOptions(azimuths_deg=[0.0, 90.0], elevation_deg=0.0)).views.cameras.positions
    front, right = torch.nn.functional.normalize(positions, dim=-1)
    torch.testing.assert_close(front, torch.tensor([0.0, -1.0, 0.0]), atol=1e-5, rtol=0)  # the front faces -y
    torch.testing.assert_close(right, torch.tensor([1.0, 0.0, 0.0]), atol=1e-5, rtol=0)  # +x is to its viewer's right


@pytest.mark.parametrize("focal_mm", [26, 52])
def test_photos_take_their_field_of_view_from_exif(tmp_path, focal_mm):
    exif = Image.Exif()
    exif[0x8769] = {0xA405: focal_mm}
    boxes = {"a.png": (40, 10, 60, 50), "b.png": (41, 10, 61, 50)}
    views = read_photos([photo(tmp_path / name, box, exif=exif) for name, box in boxes.items()], PhotoOptions()).views
    tall = 40 / (focal_mm / FILM * math.hypot(120, 80))  # height of the object over its distance
    radius = 0.9 * 40 / math.hypot(20, 40)  # half its height in the world
    assert float(views.cameras.positions[0].norm()) == pytest.approx(2 * radius / tall, rel=1e-3)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [(5, {}, "5 photos were given"), (2, {"azimuths_deg": [0.0]}, "1 azimuths were given for 2 photos")],
)
def test_photos_of_a_wrong_number_are_refused(pair, count, options, message):
    with pytest.raises(ValueError, match=message):
        read_photos((pair * 3)[:count], PhotoOptions(**options))


def test_photos_that_are_one_file_twice_are_refused(pair):
    with pytest.raises(ValueError, match=r"a\.png and .*a\.png are the same photo"):
        read_photos([pair[0], pair[0]], PhotoOptions())


def test_options_with_azimuths_and_a_guess_contradict_each_other():
    with pytest.raises(ValueError, match="leave out one of the two"):
        PhotoOptions(azimuths_deg=[0.0, 90.0], poses="guess")


def test_matting_network_gets_centred_colours_and_its_opacity_is_stretched(monkeypatch, tmp_path):
    class Session:
        def __init__(self, path, providers):
            assert path.endswith("isnet.onnx")

        def get_inputs(self):
            return [types.SimpleNamespace(name="image", shape=[1, 3, 8, 8])]

        def run(self, outputs, feed):
            red = feed["image"][:, :1]
            assert feed["image"].shape == (1, 3, 8, 8)
            assert (red.min(), red.max()) == (-0.5, 0.5)
            return [0.2 + 0.1 * red]

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    (tmp_path / "isnet.onnx").write_bytes(b"")
    image = Image.new("RGB", (16, 16))
    image.paste((255, 0, 0), (8, 0, 16, 16))
    mask = background_removal.matting_mask(image, tmp_path / "isnet.onnx")
    assert mask.shape == (16, 16)
    assert (mask[:, :5] == 0).all()
    assert (mask[:, 11:] == 255).all()


def test_matting_network_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; name the ONNX file"):
        background_removal.matting_mask(Image.new("RGB", (8, 8)), tmp_path / "no.onnx")


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 48), (30, 160, 60))
    heif.from_pillow(image).save(tmp_path / "a.heic")
    decoded = image_preprocessing.decode_photo((tmp_path / "a.heic").read_bytes(), "a.heic")
    assert decoded.size == (64, 48)
    np.testing.assert_allclose(np.asarray(decoded.convert("RGB")).mean((0, 1)), (30, 160, 60), atol=6)


def test_heic_is_one_sentence_where_pillow_heif_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match="needs pillow-heif"):
        image_preprocessing.decode_photo(b"\0\0\0\x18ftypheic" + bytes(16), "a.heic")


def on_white(path, boxes):
    image = Image.new("RGB", (120, 80), "white")
    for box in boxes:
        ImageDraw.Draw(image).rectangle(box, (200, 40, 30))
    image.save(path)
    return path


def test_photos_with_a_hand_at_the_border_are_named_in_one_warning(tmp_path, recwarn):
    whole = on_white(tmp_path / "whole.png", [(40, 10, 60, 50)])
    held = on_white(tmp_path / "held.png", [(50, 20, 70, 60), (0, 45, 55, 52)])
    read_photos([whole, held], PhotoOptions())
    (warning,) = [str(one.message) for one in recwarn if "border" in str(one.message)]
    assert warning.startswith("in held.png what was cut out reaches the border")


def test_photos_that_are_cropped_to_a_transparent_object_get_no_warning(tmp_path, recwarn):
    cropped = [photo(tmp_path / f"{k}.png", (0, 0, 100 - k, 80), size=(120, 80)) for k in range(2)]
    read_photos(cropped, PhotoOptions())
    assert not [one for one in recwarn if "border" in str(one.message)]
