"""Scenes whose files can be read in two ways: distorted, turned, rounded, scaled, or with values for single frames."""

import dataclasses
import json
import math
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from balls import ball_views
from PIL import Image
from scipy.spatial.transform import Rotation

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.scenes.checks.view_notes import view_notes

FROM_THE_FRONT = [[1, 0, 0, 0], [0, 0, -1, -3], [0, 1, 0, 0], [0, 0, 0, 1]]
# cv2.projectPoints (OpenCV 4.11) of five points, with and without this lens
LENS = {"fl_x": 120.0, "fl_y": 110.0, "cx": 66.0, "cy": 47.0, "w": 132, "h": 96}
DISTORTION = {"k1": 0.15, "k2": -0.05, "p1": 0.004, "p2": -0.003, "k3": 0.01}
DISTORTED = [(16.2525, 12.9705), (66.0, 47.0), (108.8906, 69.5686), (41.4186, 80.7923), (117.8394, 15.3764)]
STRAIGHT = [(18.0, 14.0), (66.0, 47.0), (108.0, 69.0), (42.0, 80.0), (116.4, 16.2)]


def document(folder, matrix=FROM_THE_FRONT, frame=(), **shared):
    (folder / "transforms.json").write_text(
        json.dumps({**shared, "frames": [{"file_path": "a.png", "transform_matrix": matrix, **dict(frame)}]})
    )


def dots(width, height, points):
    """RGBA image of a smooth red dot at each point."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    alpha = sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4.5) for x, y in points)
    image = np.zeros((height, width, 4), np.uint8)
    image[..., 0], image[..., 3] = 255, (255 * alpha.clip(0, 1)).round()
    return Image.fromarray(image)


def centres(alpha, points, reach=4):
    """Centroid of alpha (H, W) around each point."""
    rows, columns = np.mgrid[: alpha.shape[0], : alpha.shape[1]] + 0.5
    for x, y in points:
        near = alpha * (np.hypot(columns - x, rows - y) < reach)
        yield (near * columns).sum() / near.sum(), (near * rows).sum() / near.sum()


def test_scene_read_removes_distortion_as_opencv_defines_it_and_warns_once(tmp_path):
    dots(132, 96, DISTORTED).save(tmp_path / "a.png")
    document(tmp_path, **LENS, **DISTORTION)
    with pytest.warns(UserWarning, match=r"lens distortion \(k1 0\.15, k2 -0\.05, k3 0\.01, p1 0\.004, p2 -0\.003\)"):
        views = scenes.read(tmp_path).views
    found = list(centres(views.alpha[0, 0].numpy(), STRAIGHT))
    np.testing.assert_allclose(found, STRAIGHT, atol=0.1)
    assert views.rgb[0, 0][views.alpha[0, 0] > 0.1].min() > 0.98
    torch.testing.assert_close(views.cameras.intrinsics[0], torch.tensor([120 / 132, 110 / 96, 0.5, 47 / 96]))


def test_scene_read_leaves_an_image_alone_whose_distortion_moves_no_point_by_a_pixel(tmp_path):
    dots(132, 96, STRAIGHT).save(tmp_path / "a.png")
    document(tmp_path, **LENS, k1=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alpha = scenes.read(tmp_path).views.alpha[0, 0]
    assert (alpha * 255).round().int().tolist() == np.asarray(Image.open(tmp_path / "a.png"))[..., 3].tolist()


@pytest.mark.parametrize("tag", [6, 8])
def test_scene_read_turns_a_photo_whose_camera_fits_only_its_upright_size(tmp_path, tag):
    upright = dots(48, 64, [(10, 20), (30, 50)])
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[tag]  # as a phone stores it
    exif = Image.Exif()
    exif[0x0112] = tag
    upright.transpose(turn).save(tmp_path / "a.png", exif=exif)
    document(tmp_path, camera_angle_x=0.8, w=48, h=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alpha = scenes.read(tmp_path).views.alpha[0, 0]
    assert (alpha * 255).round().int().tolist() == np.asarray(upright)[..., 3].tolist()


@pytest.mark.parametrize("stored", ["as the image", "upright", "as the image, .npy"])
def test_scene_read_turns_the_maps_of_a_turned_photo_that_are_stored_as_its_pixels(tmp_path, stored):
    depth = np.full((64, 48), 1000, np.uint16)
    depth[:32] = 2000  # the upper half of the upright photo
    exif = Image.Exif()
    exif[0x0112] = 6
    turn = Image.Transpose.ROTATE_90
    dots(48, 64, [(10, 20)]).transpose(turn).save(tmp_path / "a.png", exif=exif)
    stored_name = np.asarray(Image.fromarray(depth).transpose(turn))
    if stored.endswith("npy"):
        np.save(tmp_path / "d.npy", stored_name / np.float32(1000))
    else:
        Image.fromarray(depth if stored == "upright" else stored_name).save(tmp_path / "d.png")
    frame = {"depth_file_path": "d.npy" if stored.endswith("npy") else "d.png"}
    document(tmp_path, frame=frame, camera_angle_x=0.8, w=48, h=64)
    read = scenes.read(tmp_path).views.depth[0, 0]
    np.testing.assert_allclose(read, depth / 1000)


@pytest.mark.parametrize(("size", "given", "warned"), [((64, 48), (64, 48), False), ((64, 64), (64, 64), True)])
def test_scene_read_warns_of_an_orientation_unless_the_camera_fits_the_stored_pixels(tmp_path, size, given, warned):
    exif = Image.Exif()
    exif[0x0112] = 6
    dots(*size, [(30, 20)]).save(tmp_path / "a.png", exif=exif)
    document(tmp_path, camera_angle_x=0.8, w=given[0], h=given[1])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert scenes.read(tmp_path).views.rgb.shape[-2:] == size[::-1]
    assert [("EXIF orientation 6 is not applied" in str(each.message)) for each in found] == [True] * warned


def test_transforms_focal_length_of_one_frame_replaces_both_of_the_document(tmp_path):
    dots(40, 20, [(20, 10)]).save(tmp_path / "a.png")
    document(tmp_path, frame={"fl_x": 50.0}, camera_angle_x=0.8, camera_angle_y=0.8, w=40, h=20)
    fx, fy, *_ = scenes.read(tmp_path).views.cameras.intrinsics[0].tolist()
    assert (fx * 40, fy * 20) == (pytest.approx(50), pytest.approx(50))


@pytest.mark.parametrize("frame", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}, {"camera_model": [1]}])
def test_transforms_refuse_a_camera_of_one_frame_that_is_no_pinhole(tmp_path, frame):
    dots(8, 8, [(4, 4)]).save(tmp_path / "a.png")
    document(tmp_path, frame=frame, camera_angle_x=0.8)
    with pytest.raises(ValueError, match=r"frame 0 \(a\.png\).*only pinhole cameras"):
        scenes.read(tmp_path)


def pose(seed, decimals):
    """A camera 3 away from the origin that looks at it: exact and rounded."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = 3 * matrix[:3, 2]
    return matrix, np.round(matrix, decimals)


@pytest.mark.parametrize("seed", range(20))
def test_transforms_of_three_decimals_are_rotations_again(seed):
    exact, rounded = pose(seed, 3)
    content = {"camera_angle_x": 0.8, "frames": [{"file_path": "a.png", "transform_matrix": rounded.tolist()}]}
    found = scenes.transforms.parse(json.dumps(content).encode(), "x").frame(0).cam_to_world @ np.diag([1, -1, -1, 1])
    np.testing.assert_allclose(found[:3, :3].T @ found[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found, exact, atol=1.2e-3)


def test_transforms_of_one_decimal_are_refused_as_rounded():
    content = {"frames": [{"file_path": "a.png", "transform_matrix": pose(3, 2)[1].tolist()}]}
    with pytest.raises(ValueError, match="rounded to too few digits; write at least four decimals"):
        scenes.transforms.parse(json.dumps(content).encode(), "x").frame(0)


def test_scene_read_opens_an_absolute_path_inside_the_scene_folder(tmp_path):
    dots(8, 8, [(4, 4)]).save(tmp_path / "a.png")
    document(tmp_path, frame={"file_path": str(tmp_path / "a.png")}, camera_angle_x=0.8)
    assert scenes.read(tmp_path).names == ("a",)


@pytest.mark.parametrize(("named", "stored_name"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_scene_read_finds_an_image_whose_accents_are_composed_otherwise_in_its_name(tmp_path, named, stored_name):
    dots(8, 8, [(4, 4)]).save(tmp_path / unicodedata.normalize(stored_name, "möbel.png"))
    frame = {"file_path": unicodedata.normalize(named, "möbel.png")}
    document(tmp_path, frame=frame, camera_angle_x=0.8)
    assert scenes.read(tmp_path).views.rgb.shape[-1] == 8


def test_scene_read_reports_a_link_that_leads_outside_as_a_link(tmp_path):
    (tmp_path / "s").mkdir()
    dots(8, 8, [(4, 4)]).save(tmp_path / "far.png")
    (tmp_path / "s" / "a.png").symlink_to(tmp_path / "far.png")
    document(tmp_path / "s", camera_angle_x=0.8)
    with pytest.raises(ValueError, match=r"a link to .*far\.png outside the scene folder; copy the files into it"):
        scenes.read(tmp_path / "s")


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, []), (10.0, [("leaves the box", 1 / 6)]), (0.1, [("tiny object", 1 / 0.06)])],
)
def test_view_notes_name_the_factor_of_cameras_at_another_scale(tmp_path, factor, expected):
    views = ball_views((0.8, 0.2, 0.2), radius=0.6, size=64)
    matrices = views.cameras.cam_to_world.clone()
    matrices[:, :3, 3] *= factor
    scenes.write(tmp_path, dataclasses.replace(views, cameras=Cameras(matrices, views.cameras.intrinsics)))
    notes = view_notes(scenes.read(tmp_path))
    assert len(notes) == len(expected)
    for note, (kind, factor) in zip(notes, expected, strict=True):
        assert kind in note
        assert float(note.split("by about ")[1].split(",")[0]) == pytest.approx(factor, rel=0.35)


def test_view_notes_advise_to_move_an_object_of_the_right_size_outside_the_cube(tmp_path):
    views = ball_views((0.8, 0.2, 0.2), radius=0.6, size=64)
    matrices = views.cameras.cam_to_world.clone()
    matrices[:, 0, 3] += 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the origin is not shown
        scenes.write(tmp_path, dataclasses.replace(views, cameras=Cameras(matrices, views.cameras.intrinsics)))
        (note,) = view_notes(scenes.read(tmp_path))
    assert "leaves the box" in note
    assert "scale or move the object" in note


def test_world_note_states_the_factor_and_the_offset_of_instant_ngp():
    content = {"scale": 0.25, "offset": [0.5, 0.5, 1.0], "frames": [{"file_path": "a.png"}]}
    note = scenes.transforms.parse(json.dumps(content).encode(), "x").world_note
    assert "multiplied by 0.5 and then moved by (0, 0, 1)" in note
    assert scenes.transforms.parse(b'{"frames": [1]}', "x").world_note == ""


def test_scene_read_refuses_distortion_that_folds_the_image(tmp_path):
    dots(132, 96, STRAIGHT).save(tmp_path / "a.png")
    document(tmp_path, **LENS, k1=-4 * math.pi)
    with pytest.raises(ValueError, match="folds the image onto itself"):
        scenes.read(tmp_path)
