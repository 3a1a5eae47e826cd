"""Import of captures: the chosen views, and where a known ball and its cameras end up."""

import json
import struct

import numpy as np
import pytest
import torch
from captures import CENTRE, RADIUS, SIZE, WRITERS, cameras, colmap, nerfstudio
from PIL import Image

from instant3d import scenes
from instant3d.cameras import orbit
from instant3d.cli.main import main
from instant3d.cli.scene_options import CAPTURES as OFFERED
from instant3d.pipelines import import_capture as module
from instant3d.pipelines.import_capture import CAPTURES, CaptureOptions, import_capture
from instant3d.pipelines.view_selection import choose_views, sharpness

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small images: what is tested is not their size."""
    monkeypatch.setattr(module, "SIZE", 64)


def ball_of(scene):
    """Where the outlines of a scene put a ball: each camera's angle to it, and the angle of its radius."""
    views = scene.views
    rays = views.cameras.rays(*views.alpha.shape[-2:])
    solid = views.alpha[:, 0] > 0.5
    middles = torch.stack([directions[mask].mean(0) for directions, mask in zip(rays.directions, solid, strict=True)])
    to_origin = -views.cameras.positions
    across = torch.linalg.cross(torch.nn.functional.normalize(middles, dim=-1), to_origin).norm(dim=-1)
    around = torch.linalg.cross(rays.directions, to_origin[:, None, None].expand_as(rays.directions)).norm(dim=-1)
    return across, torch.stack([reach[mask].max() for reach, mask in zip(around, solid, strict=True)])


@pytest.mark.parametrize("layout", CAPTURES)
def test_capture_becomes_a_scene_with_the_object_in_the_unit_sphere(tmp_path, layout):
    WRITERS[layout](tmp_path / "in", cameras())
    result = import_capture(layout, tmp_path / "in", tmp_path / "out", CaptureOptions(views=6))
    scene = scenes.read(tmp_path / "out")
    assert (len(scene.names), len(result.names), result.count, result.cut_off) == (6, 6, 16, 0)
    across, reach = ball_of(scene)
    assert across.max() < 0.06  # the ball's middle is at the origin
    assert 0.85 < reach.min() <= reach.max() < 1.05  # a hull of outlines is a little larger than the ball itself
    heights = scene.views.cameras.positions[:, 2] / scene.views.cameras.positions.norm(dim=-1)
    true = {round(float(np.sin(np.radians(elevation))), 2) for elevation in (15, 40)}
    assert {min(true, key=lambda t: abs(t - float(height))) for height in heights} <= true
    assert all(min(abs(float(height) - t) for t in true) < 0.06 for height in heights)  # +z is up


def test_capture_keeps_the_cameras_relative_to_the_object(tmp_path):
    given = cameras()
    nerfstudio(tmp_path / "in", given)
    result = import_capture("nerfstudio", tmp_path / "in", tmp_path / "out", CaptureOptions(views=8))
    found = scenes.read(tmp_path / "out").views.cameras
    numbers = [int(name.removeprefix("frame_")) for name in result.names]
    torch.testing.assert_close(found.cam_to_world[:, :3, :3], given.cam_to_world[numbers, :3, :3], atol=1e-5, rtol=0)
    expected = (given.positions[numbers] - CENTRE) / RADIUS
    scale = (found.positions.norm(dim=-1) / expected.norm(dim=-1)).mean()
    assert 0.85 < scale <= 1.05
    torch.testing.assert_close(found.positions, scale * expected, atol=0.25, rtol=0)


def test_colmap_text_and_binary_models_give_the_same_scene(tmp_path):
    for name, binary in (("text", False), ("binary", True)):
        colmap(tmp_path / name, cameras(), binary=binary)
        import_capture("colmap", tmp_path / name, tmp_path / f"{name}-out")
    first, second = (scenes.read(tmp_path / f"{name}-out") for name in ("text", "binary"))
    assert first.names == second.names
    for part in ("cam_to_world", "intrinsics"):
        torch.testing.assert_close(*(getattr(each.views.cameras, part) for each in (first, second)), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.views.rgb, second.views.rgb, atol=2 / 255, rtol=0)


def test_capture_chooses_views_all_around_and_none_that_is_blurred(tmp_path):
    blurred = (0, 1, 2, 8, 9)
    nerfstudio(tmp_path / "in", cameras(), blurred=blurred)
    result = import_capture("nerfstudio", tmp_path / "in", tmp_path / "out", CaptureOptions(views=4))
    numbers = sorted(int(name.removeprefix("frame_")) for name in result.names)
    assert not set(numbers) & set(blurred)
    gaps = np.diff([*numbers, numbers[0] + 16])
    assert gaps.max() <= 7  # of 16 around


def test_choose_views_takes_the_four_sides_of_a_ring():
    positions = orbit([10 * k for k in range(36)], 20, 2.0).positions
    sharp = torch.ones(36)
    sharp[5] = 1.5  # the first
    chosen = choose_views(positions, sharp, 4)
    assert chosen[:2] == [5, 23]  # the opposite side comes second
    assert sorted(chosen) == [5, 14, 23, 32]
    assert sorted(choose_views(positions[:3], sharp[:3], 4)) == [0, 1, 2]


def test_sharpness_falls_with_blur_and_ignores_the_background():
    rng = np.random.default_rng(0)
    image, alpha = rng.integers(0, 255, (32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    alpha[8:24, 8:24] = 255
    soft = np.asarray(Image.fromarray(image).resize((8, 8)).resize((32, 32)))
    assert sharpness(soft, alpha) < 0.2 * sharpness(image, alpha)
    other = image.copy()
    other[:6] = 0
    assert sharpness(other, alpha) == sharpness(image, alpha)
    assert sharpness(image, np.zeros_like(alpha)) == 0


def cover(path, box):
    """Paint into a mask what a hand that reaches in from the border would."""
    mask = np.array(Image.open(path))
    mask[box] = 255
    Image.fromarray(mask).save(path)


def test_capture_leaves_out_images_with_a_hand_at_the_border(tmp_path, capsys):
    nerfstudio(tmp_path / "in", cameras())
    for k in (3, 4):
        cover(tmp_path / "in" / "masks" / f"frame_{k:03d}.png.png", np.s_[20:30, :20])
    assert main(["import", "nerfstudio", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--views", "5"]) == 0
    captured = capsys.readouterr()
    assert "2 images were not used: the object, or something in front of it such as a hand" in captured.err
    assert "5 of 16 views" in captured.out
    assert "frame_003" not in captured.out


def test_capture_undistorts_the_images(tmp_path):
    nerfstudio(tmp_path / "in", cameras())
    import_capture("nerfstudio", tmp_path / "in", tmp_path / "plain")
    path = tmp_path / "in" / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"k1": 0.2}))
    import_capture("nerfstudio", tmp_path / "in", tmp_path / "out")
    assert "k1" not in (tmp_path / "out" / "transforms.json").read_text()
    plain, straight = (scenes.read(tmp_path / name).views for name in ("plain", "out"))
    assert not torch.allclose(plain.rgb, straight.rgb, atol=0.05)


def no_masks(folder):
    for path in (folder / "masks").iterdir():
        path.unlink()


def other_ball(folder):
    """Masks in opposite corners of the images: no point is inside all."""
    for k, path in enumerate(sorted((folder / "masks").iterdir())):
        mask = np.zeros(SIZE, np.uint8)
        mask[2:8, 2:8] = 255 * (k % 2)
        mask[-8:-2, -8:-2] = 255 * (1 - k % 2)
        Image.fromarray(mask).save(path)


def short_model(folder):
    (folder / "transforms.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (no_masks, "add masks/NAME.png"),
        (other_ball, "no point is inside all outlines"),
        (short_model, "not valid JSON"),
    ],
)
def test_capture_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, capsys, change, complaint):
    nerfstudio(tmp_path / "in", cameras())
    change(tmp_path / "in")
    assert main(["import", "nerfstudio", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", CAPTURES)
def test_capture_folder_of_another_program_is_refused(tmp_path, layout):
    (tmp_path / "in").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match=r"does not exist|no frames"):
        import_capture(layout, tmp_path / "in", tmp_path / "out")


def test_colmap_model_that_is_cut_short_or_of_a_fisheye_is_refused(tmp_path):
    colmap(tmp_path / "in", cameras())
    model = tmp_path / "in" / "sparse" / "0"
    whole = (model / "images.bin").read_bytes()
    (model / "images.bin").write_bytes(whole[:100])
    with pytest.raises(ValueError, match="cut short"):
        import_capture("colmap", tmp_path / "in", tmp_path / "out")
    (model / "images.bin").write_bytes(whole)
    (model / "cameras.bin").write_bytes(struct.pack("<QiiQQ8d", 1, 7, 5, 8, 8, *[1.0] * 8))
    with pytest.raises(ValueError, match="undistort the images first"):
        import_capture("colmap", tmp_path / "in", tmp_path / "out")


def test_import_offers_every_capture_and_refuses_options_of_the_other_kind(tmp_path, capsys):
    assert tuple(CAPTURES) == OFFERED
    assert main(["import", "colmap", str(tmp_path), "-o", str(tmp_path / "out"), "--fov", "50"]) == 2
    assert "--fov is not an option of colmap" in capsys.readouterr().err
    assert main(["import", "zero123", str(tmp_path), "-o", str(tmp_path / "out"), "--views", "5"]) == 2
    assert "--views is not an option of zero123" in capsys.readouterr().err
    assert main(["import", "colmap", str(tmp_path), "-o", str(tmp_path / "out"), "--views", "3"]) == 2
    assert "at least 4 views" in capsys.readouterr().err
