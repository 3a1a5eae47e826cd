"""Other projects' layouts: the cameras and images in their files are those of the imported scene."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from balls import ball_views
from foreign_layouts import DEPTH_RANGE, WRITERS, gobjaverse, instantmesh, nerf_synthetic, openlrm, zero123
from PIL import Image

from instant3d import scenes
from instant3d.cameras import Cameras, intrinsics_from_fov, orbit
from instant3d.cli.main import main
from instant3d.cli.scene_options import LAYOUTS as OFFERED
from instant3d.scenes import images, importers
from instant3d.scenes.layouts import LAYOUTS, LayoutOptions
from instant3d.views import Views

FOVS = {"instantmesh": 50.0, "zero123": 49.1343, "gobjaverse": 39.6}  # elsewhere any is written in the files

# One camera, at (0, -3, 0) of our world, that looks along +y with +z up, as the sources of each layout would write it.
CAMERA_TO_WORLD = [[1, 0, 0, 0], [0, 0, -1, -3], [0, 1, 0, 0]]  # columns: right, up, backward, position
WORLD_TO_CAMERA = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, -3]]  # the origin is 3 in front, hence at z = -3


def views(layout: str, count: int = 4, size: int = 12, maps: bool = False) -> Views:
    """Random views of exact 8-bit values."""
    generator = torch.Generator().manual_seed(0)

    def levels(channels: int, low: int = 0) -> torch.Tensor:
        return torch.randint(low, 256, (count, channels, size, size), generator=generator) / 255

    cameras = orbit(torch.arange(count) * 77.0, torch.arange(count) * 9.0 - 10, 2.2, FOVS.get(layout, 40.0))
    normals = torch.nn.functional.normalize(torch.randn(count, 3, size, size, generator=generator), dim=1)
    given = Views(levels(3), levels(1, low=1), cameras)
    return replace(given, depth=levels(1, low=1) * DEPTH_RANGE, normals=normals) if maps else given


def imported(source: Path, target: Path, layout: str, **settings: object) -> list[importers.ImportResult]:
    return list(importers.convert(source, target, importers.ImportSettings(layout, **settings)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convert_gives_back_the_views_of_every_layout(tmp_path, layout):
    given = views(layout)
    WRITERS[layout](tmp_path / "in" / "cup", given)
    assert [outcome.state for outcome in imported(tmp_path / "in", tmp_path / "out", layout)] == ["new"]
    scene = scenes.read(tmp_path / "out" / "cup")
    assert scene.id == "cup"
    assert torch.equal(scene.views.rgb, given.rgb)
    assert torch.equal(scene.views.alpha, given.alpha)
    torch.testing.assert_close(scene.views.cameras.cam_to_world, given.cameras.cam_to_world, atol=1e-6, rtol=0)
    torch.testing.assert_close(scene.views.cameras.intrinsics, given.cameras.intrinsics, atol=1e-5, rtol=0)


def red(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (8, 8), (200, 30, 30, 255)).save(path)


def one_openlrm(folder: Path) -> float:
    red(folder / "rgba" / "000.png")
    (folder / "pose").mkdir()
    np.save(folder / "pose" / "000.npy", np.array(CAMERA_TO_WORLD, float))
    np.save(folder / "intrinsics.npy", np.array([[6.0, 6.0], [4.0, 4.0], [8.0, 8.0]]))
    return 24 / 32  # the lens and the sensor of its script, in millimetres


def one_instantmesh(folder: Path) -> float:
    red(folder / "000.png")
    np.savez(folder / "cameras.npz", cam_poses=np.array([WORLD_TO_CAMERA], float))
    return 0.5 / np.tan(np.radians(25))


def one_zero123(folder: Path) -> float:
    red(folder / "000.png")
    matrix = np.array(WORLD_TO_CAMERA, float)
    matrix[2, 3] = -1.5  # its object is half as large as ours
    np.save(folder / "000.npy", matrix)
    return 35 / 32


def one_gobjaverse(folder: Path) -> float:
    red(folder / "00000" / "00000.png")
    camera = {"origin": [0, -1.5, 0], "x": [1, 0, 0], "y": [0, 0, -1], "z": [0, 1, 0]}  # right, down, forward
    (folder / "00000" / "00000.json").write_text(json.dumps(camera))
    return 1422.222 / 1024  # what its own example takes


def one_nerf_synthetic(folder: Path) -> float:
    red(folder / "train" / "r_0.png")
    matrix = np.array([*CAMERA_TO_WORLD, [0, 0, 0, 1]], float)
    matrix[1, 3] = -3 / 0.66
    frame = {"file_path": "./train/r_0", "transform_matrix": matrix.tolist()}
    angle = 2 * np.arctan(0.5 / 1.25)
    (folder / "transforms_train.json").write_text(json.dumps({"camera_angle_x": angle, "frames": [frame]}))
    return 1.25


ONES = {
    "openlrm": one_openlrm,
    "instantmesh": one_instantmesh,
    "zero123": one_zero123,
    "gobjaverse": one_gobjaverse,
    "nerf-synthetic": one_nerf_synthetic,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convert_puts_a_known_point_on_the_pixel_of_the_layouts_own_matrix(tmp_path, layout):
    focal = ONES[layout](tmp_path / "in")
    imported(tmp_path / "in", tmp_path / "out", layout)
    camera = scenes.read(tmp_path / "out" / "in").views.cameras
    image, depth = camera.project(torch.tensor([[0.6, 1.0, 0.3]]))  # right of the axis and above it, 4 away
    expected = torch.tensor([0.5 + focal * 0.6 / 4, 0.5 - focal * 0.3 / 4])
    torch.testing.assert_close(image[0, 0], expected.float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(depth[0, 0], torch.tensor(4.0), atol=1e-5, rtol=0)


def test_layouts_are_all_offered_and_tested():
    assert set(OFFERED) == set(LAYOUTS) == set(WRITERS) == set(ONES)


def test_convert_keeps_depth_and_normals_of_instantmesh(tmp_path):
    given = views("instantmesh", maps=True)
    given.alpha[:, :, :3] = 0
    instantmesh(tmp_path / "cup", given)
    imported(tmp_path / "cup", tmp_path / "out", "instantmesh")
    scene = scenes.read(tmp_path / "out" / "cup").views
    assert scene.depth is not None
    assert scene.normals is not None
    shown = given.alpha > 0
    torch.testing.assert_close(scene.depth, torch.where(shown, given.depth, 0), atol=1e-4, rtol=0)
    assert (torch.where(shown, given.normals, 0) - scene.normals).abs().max() < 0.02


def test_convert_scales_cameras_and_depth_alike(tmp_path):
    given = views("instantmesh", maps=True)
    instantmesh(tmp_path / "cup", given)
    imported(tmp_path / "cup", tmp_path / "out", "instantmesh", scale=0.8, options=LayoutOptions(depth_range=3.0))
    scene = scenes.read(tmp_path / "out" / "cup").views
    torch.testing.assert_close(scene.cameras.positions, given.cameras.positions * 0.8)
    torch.testing.assert_close(scene.depth, given.depth * 0.4, atol=1e-4, rtol=0)


def test_convert_stands_a_world_with_y_up_upright_with_its_normals(tmp_path):
    given = views("instantmesh", maps=True)
    toppled = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # our (x, y, z) is (x, z, -y)
    normals = torch.einsum("ij,vjhw->vihw", toppled[:3, :3], given.normals)
    cameras = Cameras(toppled @ given.cameras.cam_to_world, given.cameras.intrinsics)
    instantmesh(tmp_path / "cup", replace(given, cameras=cameras, normals=normals))
    imported(tmp_path / "cup", tmp_path / "out", "instantmesh", up="y")
    scene = scenes.read(tmp_path / "out" / "cup").views
    torch.testing.assert_close(scene.cameras.cam_to_world, given.cameras.cam_to_world, atol=1e-6, rtol=0)
    assert (scene.normals - given.normals).abs().max() < 0.02


def test_convert_accepts_a_field_of_view_that_the_files_do_not_contain(tmp_path):
    instantmesh(tmp_path / "cup", views("instantmesh"))
    imported(tmp_path / "cup", tmp_path / "out", "instantmesh", options=LayoutOptions(fov_deg=30.0))
    intrinsics = scenes.read(tmp_path / "out" / "cup").views.cameras.intrinsics
    torch.testing.assert_close(intrinsics, intrinsics_from_fov(30.0).expand(4, 4), atol=1e-6, rtol=0)


def test_convert_gives_oblong_images_square_pixels(tmp_path):
    zero123(tmp_path / "cup", replace(views("zero123"), rgb=torch.rand(4, 3, 6, 12), alpha=torch.ones(4, 1, 6, 12)))
    imported(tmp_path / "cup", tmp_path / "out", "zero123")
    fx, fy, _, _ = scenes.read(tmp_path / "out" / "cup").views.cameras.intrinsics[0].tolist()
    assert fy * 6 == pytest.approx(fx * 12)


def test_convert_copies_an_image_that_fits_byte_for_byte_and_cuts_out_one_on_white(tmp_path):
    zero123(tmp_path / "cup", views("zero123"))
    white = Image.new("RGB", (12, 12), (255, 255, 255))
    white.paste((20, 90, 200), (3, 3, 9, 9))
    white.save(tmp_path / "cup" / "001.png")
    imported(tmp_path / "cup", tmp_path / "out", "zero123")
    image = tmp_path / "out" / "cup" / "images"
    assert (image / "0000.png").read_bytes() == (tmp_path / "cup" / "000.png").read_bytes()
    cut = images.decode((image / "0001.png").read_bytes(), None, "")
    assert (cut.alpha_source, cut.alpha[0, 0], cut.alpha[6, 6]) == ("alpha", 0, 255)


def test_convert_of_nerf_synthetic_removes_lens_distortion_as_reading_a_scene_does(tmp_path):
    nerf_synthetic(tmp_path / "in" / "cup", views("nerf-synthetic", size=64))
    document = tmp_path / "in" / "cup" / "transforms_train.json"
    content = json.loads(document.read_text()) | {"k1": 0.3}
    document.write_text(json.dumps(content))
    (outcome,) = imported(tmp_path / "in", tmp_path / "out", "nerf-synthetic")
    assert outcome.state == "new", outcome.reason
    with pytest.warns(UserWarning, match=r"lens distortion \(k1 0\.3\)"):
        expected = scenes.read(document).views
    read = scenes.read(tmp_path / "out" / "cup", frames=[0]).views
    assert torch.equal(read.rgb, expected.rgb)
    assert torch.equal(read.alpha, expected.alpha)


def test_convert_warns_of_objects_that_leave_the_cube_by_the_name_of_their_scene(tmp_path):
    openlrm(tmp_path / "in" / "cup", ball_views((0.8, 0.2, 0.2), size=48))
    with pytest.warns(UserWarning, match=rf"{tmp_path / 'out' / 'cup'}: leaves the box"):
        imported(tmp_path / "in", tmp_path / "out", "openlrm", scale=3.0)


def test_convert_names_and_leaves_out_a_broken_object_and_imports_the_others(tmp_path, capsys):
    for name in ("a", "sub/b", "c"):
        gobjaverse(tmp_path / "in" / name, views("gobjaverse"))
    (tmp_path / "in" / "sub" / "b" / "campos_512_v4" / "00002" / "00002.png").write_bytes(b"no image")
    command = ["import", "gobjaverse", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "left out sub/b: 00002/00002.png" in captured.err
    assert "2 scenes imported, 1 left out" in captured.out
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("transforms.json")) == ["a", "c"]


def test_convert_does_not_import_again_unless_the_settings_differ(tmp_path):
    zero123(tmp_path / "cup", views("zero123"))
    states = [
        imported(tmp_path / "cup", tmp_path / "out", "zero123", **settings)[0].state
        for settings in ({}, {}, {"scale": 1.5}, {"scale": 1.5}, {})
    ]
    assert states == ["new", "there", "new", "there", "new"]


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_convert_unpickles_nothing(tmp_path):
    zero123(tmp_path / "in" / "npy", views("zero123"))
    np.save(tmp_path / "in" / "npy" / "000.npy", np.array([Trap(tmp_path / "trap")], dtype=object), allow_pickle=True)
    (raw := tmp_path / "in" / "raw").mkdir()
    (raw / "000.npy").write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    outcomes = imported(tmp_path / "in", tmp_path / "out", "zero123")
    assert [outcome.state for outcome in outcomes] == ["failed", "failed"]
    assert all("is not a usable .npy file" in outcome.reason for outcome in outcomes)
    assert not (tmp_path / "trap").exists()


@pytest.mark.slow
def test_read_npy_refuses_arrays_that_declare_or_hold_too_much(tmp_path):
    header = np.lib.format.header_data_from_array_1_0(np.zeros((3, 4))) | {"shape": (10**6, 10**6)}
    zero123(tmp_path / "claims", views("zero123"))
    with (tmp_path / "claims" / "000.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    instantmesh(tmp_path / "holds", views("instantmesh"))
    np.savez_compressed(tmp_path / "holds" / "cameras.npz", cam_poses=np.zeros((400_000, 3, 4)))
    for name, layout in (("claims", "zero123"), ("holds", "instantmesh")):
        (outcome,) = imported(tmp_path / name, tmp_path / "out", layout)
        assert "larger than" in outcome.reason


def test_convert_reads_nothing_outside_the_source(tmp_path):
    red(tmp_path / "secret.png")
    nerf_synthetic(tmp_path / "in" / "named", views("nerf-synthetic"))
    document = tmp_path / "in" / "named" / "transforms_val.json"
    document.write_text(document.read_text().replace("./val/r_1", "../../secret"))
    nerf_synthetic(tmp_path / "in" / "linked", views("nerf-synthetic"))
    (tmp_path / "in" / "linked" / "val" / "r_1.png").unlink()
    (tmp_path / "in" / "linked" / "val" / "r_1.png").symlink_to(tmp_path / "secret.png")
    outcomes = imported(tmp_path / "in", tmp_path / "out", "nerf-synthetic")
    assert ["outside the scene folder" in outcome.reason for outcome in outcomes] == [True, True]
    assert not list((tmp_path / "out").glob("*"))


def test_convert_names_a_matrix_that_is_no_camera(tmp_path):
    openlrm(tmp_path / "cup", views("openlrm"))
    np.save(tmp_path / "cup" / "pose" / "002.npy", np.array(CAMERA_TO_WORLD, float) * 2)
    (outcome,) = imported(tmp_path / "cup", tmp_path / "out", "openlrm")
    assert "002.npy is not a rotation with a position" in outcome.reason


def test_convert_of_a_folder_of_another_layout_is_an_error_in_one_line(tmp_path, capsys):
    zero123(tmp_path / "cup", views("zero123"))
    assert main(["import", "openlrm", str(tmp_path / "cup"), "-o", str(tmp_path / "out")]) == 2
    assert "holds nothing in the layout openlrm (no intrinsics.npy)" in capsys.readouterr().err
