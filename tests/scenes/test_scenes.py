"""Scenes on disk: what is written comes back, other tools' flavours mean the same cameras, and broken ones say why."""

import io
import json
import math
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instant3d import scenes
from instant3d.cameras import Cameras, orbit, structured_cameras
from instant3d.scenes import shards
from instant3d.views import Views

# A camera at (0, -3, 0) that looks along +y with +z up, as OpenGL writes it: x right, y up, z backward.
FROM_THE_FRONT = [[1, 0, 0, 0], [0, 0, -1, -3], [0, 1, 0, 0], [0, 0, 0, 1]]


def views(height: int = 12, width: int = 12, count: int = 4) -> Views:
    generator = torch.Generator().manual_seed(0)
    cameras = orbit(torch.arange(count) * 360.0 / count, 20.0)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, height, width, generator=generator), dim=1)
    return Views(
        torch.rand(count, 3, height, width, generator=generator),
        torch.rand(count, 1, height, width, generator=generator),
        Cameras(cameras.cam_to_world, cameras.intrinsics * torch.rand(count, 4, generator=generator).add(0.5)),
        torch.rand(count, 1, height, width, generator=generator) * 3 + 0.1,
        normals,
    )


def save_image(path: Path, color: tuple[int, ...] = (200, 30, 30, 255), size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(path)


def document(folder: Path, frames: list[dict], name: str = "transforms.json", **shared: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({**shared, "frames": frames}))
    return folder


def one_frame(folder: Path, matrix: object = FROM_THE_FRONT, file: str = "a.png", **fields: object) -> Path:
    """A scene of one red 8 x 8 image."""
    save_image(folder / "a.png")
    return document(folder, [{"file_path": file, "transform_matrix": matrix}], **{"camera_angle_x": 0.8, **fields})


@pytest.mark.parametrize(("height", "width"), [(12, 12), (5, 9)])
def test_scene_comes_back_exact_to_eight_bits_and_its_cameras_exactly(tmp_path, height, width):
    given = views(height, width)
    scenes.write(tmp_path / "s", given, caption="a red cup", object_id="cup-1")
    scene = scenes.read(tmp_path / "s")
    assert (scene.views.rgb - given.rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert (scene.views.alpha - given.alpha).abs().max() <= 0.5 / 255 + 1e-6
    assert (scene.views.depth - given.depth).abs().max() <= 0.5 * 3.1 / 65535 + 1e-6
    assert (scene.views.normals * given.normals).sum(1).min() > math.cos(math.radians(0.5))
    assert torch.equal(scene.views.cameras.cam_to_world, given.cameras.cam_to_world)
    assert torch.equal(scene.views.cameras.intrinsics, given.cameras.intrinsics)
    assert (scene.caption, scene.id, scene.names) == ("a red cup", "cup-1", ("0000", "0001", "0002", "0003"))


def test_scene_write_of_what_was_read_changes_no_pixel(tmp_path):
    scenes.write(tmp_path / "a", views())
    first = scenes.read(tmp_path / "a").views
    scenes.write(tmp_path / "b", first)
    second = scenes.read(tmp_path / "b").views
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(second, name), getattr(first, name), atol=1e-6, rtol=0)


def test_scene_pixels_without_a_surface_stay_without_depth_and_normal(tmp_path):
    given = views()
    empty = torch.zeros_like(given.depth).bool()
    empty[..., :6] = True
    given = replace(given, depth=given.depth * ~empty, normals=given.normals * ~empty)
    scenes.write(tmp_path / "s", given)
    read = scenes.read(tmp_path / "s").views
    assert torch.equal(read.depth == 0, empty)
    assert torch.equal(read.normals.norm(dim=1, keepdim=True) == 0, empty)


def test_scene_matrices_on_disk_are_opengl_and_intrinsics_are_pixels(tmp_path):
    """A camera on the +x axis: OpenGL's third column points backward, away from the object, towards +x."""
    camera = orbit(torch.tensor([0.0]), 0.0, radius=2.0, fov_deg=90.0)
    scenes.write(tmp_path / "s", Views(torch.rand(1, 3, 10, 20), torch.ones(1, 1, 10, 20), camera))
    written = json.loads((tmp_path / "s" / "transforms.json").read_text())
    np.testing.assert_allclose(
        written["frames"][0]["transform_matrix"],
        [[0, 0, 1, 2], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
        atol=1e-6,
    )
    assert [written[key] for key in ("w", "h", "cx", "cy")] == [20, 10, 10.0, 5.0]
    assert (written["fl_x"], written["fl_y"]) == (pytest.approx(10.0), pytest.approx(5.0))


def test_scene_read_gives_chosen_frames_in_order_and_opens_no_other(tmp_path):
    given = views()
    scenes.write(tmp_path / "s", given)
    (tmp_path / "s" / "images" / "0001.png").write_bytes(b"broken")
    scene = scenes.read(tmp_path / "s", frames=[3, 0])
    assert scene.names == ("0003", "0000")
    assert torch.equal(scene.views.cameras.cam_to_world, given.cameras.cam_to_world[[3, 0]])
    assert scenes.names(tmp_path / "s") == ("0000", "0001", "0002", "0003")


def test_scene_read_widens_an_oblong_image_to_a_square_that_its_camera_still_fits(tmp_path):
    """A spot drawn where the camera projects a point must be where the new camera projects it."""
    camera = orbit(torch.tensor([30.0]), 20.0)
    camera = Cameras(camera.cam_to_world, torch.tensor([[1.2, 1.8, 0.45, 0.55]]))
    point = torch.tensor([[[0.3, -0.2, 0.25]]])
    where, _ = camera.project(point)
    u, v = (torch.arange(90) + 0.5) / 90, (torch.arange(60) + 0.5) / 60
    spot = torch.exp(-((u[None] - where[0, 0, 0]) ** 2 / 2 + (v[:, None] - where[0, 0, 1]) ** 2 / 4.5) / 0.03**2)
    scenes.write(tmp_path / "s", Views(torch.ones(1, 3, 60, 90), spot[None, None], camera))
    square = scenes.read(tmp_path / "s", size=45).views
    weight = square.alpha[0, 0] / square.alpha.sum()
    middles = (torch.arange(45) + 0.5) / 45
    centre = torch.stack([weight.sum(0) @ middles, weight.sum(1) @ middles])
    expected, _ = square.cameras.project(point)
    torch.testing.assert_close(centre, expected[0, 0], atol=2e-3, rtol=0)
    assert square.alpha[0, 0, :5].max() < 1e-3  # the strip that was added above


def test_scene_write_stores_extra_fields_which_may_not_change_the_cameras(tmp_path):
    scenes.write(tmp_path / "s", views(), extra={"licence": "CC0-1.0"})
    assert json.loads((tmp_path / "s" / "transforms.json").read_text())["licence"] == "CC0-1.0"
    with pytest.raises(ValueError, match="scale already has a meaning"):
        scenes.write(tmp_path / "t", views(), extra={"scale": 2.0})
    assert not (tmp_path / "t").exists()


def test_scene_write_replaces_an_older_scene_and_nothing_else(tmp_path):
    scenes.write(tmp_path / "s", views(count=4))
    scenes.write(tmp_path / "s", views(count=2))
    assert len(list((tmp_path / "s" / "images").iterdir())) == 2
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "only-copy.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"holds files but no transforms\.json"):
        scenes.write(tmp_path / "thesis", views())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "thesis"]


def test_scene_write_that_fails_leaves_the_older_scene_and_no_rubbish(tmp_path, monkeypatch):
    scenes.write(tmp_path / "s", views(count=4))

    def full_disk(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        scenes.write(tmp_path / "s", views(count=2))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert len(scenes.read(tmp_path / "s").names) == 4


def test_scene_write_refuses_numbers_that_are_not_finite(tmp_path):
    given = views()
    given.rgb[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="rgb holds a number that is not finite"):
        scenes.write(tmp_path / "s", given)
    assert not (tmp_path / "s").exists()


def test_transforms_of_a_blender_scene_have_one_angle_for_all_and_names_without_extension(tmp_path):
    save_image(tmp_path / "train" / "r_0.png", size=(8, 8))
    frame = {"file_path": "./train/r_0", "rotation": 0.01, "transform_matrix": FROM_THE_FRONT}
    document(tmp_path, [frame], name="transforms_train.json", camera_angle_x=2 * math.atan(0.5))
    scene = scenes.read(tmp_path / "transforms_train.json")
    torch.testing.assert_close(scene.views.cameras.intrinsics[0], torch.tensor([1.0, 1.0, 0.5, 0.5]))
    torch.testing.assert_close(scene.views.cameras.positions[0], torch.tensor([0.0, -3.0, 0.0]))
    torch.testing.assert_close(scene.views.cameras.cam_to_world[0, :3, 2], torch.tensor([0.0, 1.0, 0.0]))
    assert scene.names == ("r_0",)


def test_transforms_of_a_nerfstudio_scene_may_give_each_frame_its_own_intrinsics(tmp_path):
    lenses = [{"fl_x": 10.0, "fl_y": 12.0, "cx": 3.0, "cy": 5.0}, {"fl_x": 20.0}]
    for name in ("a.jpg", "b.jpg"):
        save_image(tmp_path / "images" / name, (0, 0, 0))
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": FROM_THE_FRONT, **lens}
        for name, lens in zip(("a.jpg", "b.jpg"), lenses, strict=True)
    ]
    document(tmp_path, frames, w=8, h=8, cx=4.0, cy=4.0, camera_model="OPENCV", k1=0.0)
    with pytest.warns(UserWarning, match="neither alpha, nor a mask"):
        intrinsics = scenes.read(tmp_path).views.cameras.intrinsics
    torch.testing.assert_close(intrinsics, torch.tensor([[1.25, 1.5, 0.375, 0.625], [2.5, 2.5, 0.5, 0.5]]))


def test_transforms_intrinsics_of_a_larger_original_hold_for_a_smaller_copy(tmp_path):
    one_frame(tmp_path, w=800, h=800, fl_x=1000.0, cx=390.0, cy=410.0)
    intrinsics = scenes.read(tmp_path).views.cameras.intrinsics[0]
    torch.testing.assert_close(intrinsics, torch.tensor([1.25, 1.25, 0.4875, 0.5125]))


def test_transforms_scale_and_offset_of_instant_ngp_carry_its_unit_cube_to_ours(tmp_path):
    """p * 0.5 + (0.5, 1.0, 0.5) lies in [0, 1]: the camera at y = -3 is at -0.5 there, so at 2 * -0.5 - 1 = -2 here."""
    one_frame(tmp_path, scale=0.5, offset=[0.5, 1.0, 0.5], aabb_scale=4)
    torch.testing.assert_close(scenes.read(tmp_path).views.cameras.positions[0], torch.tensor([0.0, -2.0, 0.0]))


def test_decode_turns_a_mask_into_alpha(tmp_path):
    save_image(tmp_path / "a.png", (9, 9, 9), size=(4, 2))
    Image.fromarray(np.array([[0, 255, 128, 255], [0, 0, 255, 255]], np.uint8)).save(tmp_path / "m.png")
    frame = {"file_path": "a.png", "mask_path": "m.png", "transform_matrix": FROM_THE_FRONT}
    alpha = scenes.read(document(tmp_path, [frame], camera_angle_x=0.8)).views.alpha[0, 0]
    torch.testing.assert_close(alpha, torch.tensor([[0, 1, 128 / 255, 1], [0, 0, 1, 1]]))


def test_decode_takes_white_around_the_object_as_background_but_not_white_inside_it(tmp_path):
    image = np.full((9, 9, 3), 252, np.uint8)
    image[2:7, 2:7] = (180, 20, 20)
    image[4, 4] = 255  # a white spot on the object
    one_frame(tmp_path)
    Image.fromarray(image).save(tmp_path / "a.png")
    alpha = scenes.read(tmp_path).views.alpha[0, 0]
    expected = torch.zeros(9, 9)
    expected[2:7, 2:7] = 1
    assert torch.equal(alpha, expected)


def test_decode_counts_an_image_without_any_alpha_as_object_and_warns(tmp_path):
    one_frame(tmp_path)
    save_image(tmp_path / "a.png", (10, 120, 10))
    with pytest.warns(UserWarning, match="all of it counts as the object"):
        assert scenes.read(tmp_path).views.alpha.min() == 1


def test_decode_depth_uses_the_unit_that_the_document_names(tmp_path):
    steps = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(steps).save(tmp_path / "d.png")
    np.save(tmp_path / "d.npy", steps.astype(np.float16) / 4)
    for file, fields, unit in (
        ("d.png", {}, 1e-3),
        ("d.png", {"depth_unit_scale_factor": 1e-4}, 1e-4),
        ("d.npy", {}, 0.25),
    ):
        one_frame(tmp_path, **fields)
        content = json.loads((tmp_path / "transforms.json").read_text())
        content["frames"][0]["depth_file_path"] = file
        (tmp_path / "transforms.json").write_text(json.dumps(content))
        depth = scenes.read(tmp_path).views.depth[0, 0].numpy()
        np.testing.assert_allclose(depth, steps * unit, rtol=1e-3)


def matrix(**changes: float) -> list[list[float]]:
    """FROM_THE_FRONT with entries such as `m03` changed."""
    rows = [[float(value) for value in row] for row in FROM_THE_FRONT]
    for name, value in changes.items():
        rows[int(name[1])][int(name[2])] = value
    return rows


MIRRORED = [[-1, 0, 0, 0], [0, 0, -1, -3], [0, 1, 0, 0], [0, 0, 0, 1]]
LOOKING_AWAY = [[1, 0, 0, 0], [0, 0, 1, -3], [0, -1, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (matrix(m03=math.nan), "not finite"),
        (matrix(m03=math.inf), "not finite"),
        (matrix(m00=0.0), "is singular"),
        (matrix(m00=2.0), "is not a rotation"),
        (MIRRORED, "is mirrored"),
        (matrix(m33=2.0), r"ends in the row \[0\.0, 0\.0, 0\.0, 2\.0\]"),
        (FROM_THE_FRONT[:2], r"has shape \(2, 4\)"),
        ("front", "not made of numbers"),
        (None, "missing"),
        ([[1, 2], [3]], "not made of numbers"),
        (LOOKING_AWAY, "looks away from the object"),
        (matrix(m03=50.0), "looks away from the object"),
        (matrix(m13=-1e9), "is more than 1000 away"),
    ],
)
def test_transforms_name_a_broken_matrix_with_its_frame(tmp_path, broken, message):
    one_frame(tmp_path, matrix=broken)
    with pytest.raises(ValueError, match=message) as error:
        scenes.read(tmp_path)
    assert "frame 0 (a.png)" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fl_x": 0.0}, "fl_x .* is 0.0; expected a number above 0"),
        ({"fl_x": -5.0}, "expected a number above 0"),
        ({"camera_angle_x": 0.0}, "expected a number above 0"),
        ({"camera_angle_x": 4.0}, "has no focal length"),
        ({"camera_angle_x": "wide"}, "expected a finite number"),
        ({"fl_x": math.nan}, "expected a finite number"),
        ({"fl_x": 10**400}, "expected a finite number"),
        ({"w": 16, "h": 8}, "is 8 x 8 pixels, but its camera was given for 16 x 8"),
        ({"k1": -4.0}, "lens distortion .* folds"),
        ({"k1": "wide"}, "expected a finite number"),
        ({"camera_model": "OPENCV_FISHEYE"}, "only pinhole cameras"),
        ({"scale": -1.0}, "scale .* above 0"),
        ({"offset": [1.0]}, "offset .* right length"),
    ],
)
def test_transforms_explain_a_broken_lens_or_world(tmp_path, fields, message):
    one_frame(tmp_path, **fields)
    with pytest.raises(ValueError, match=message):
        scenes.read(tmp_path)


def test_transforms_explain_a_missing_focal_length(tmp_path):
    save_image(tmp_path / "a.png")
    document(tmp_path, [{"file_path": "a.png", "transform_matrix": FROM_THE_FRONT}])
    with pytest.raises(ValueError, match="has no focal length"):
        scenes.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("\xff\xfe", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "no list of `frames`"),
        ("{}", "no list of `frames`"),
        ('{"frames": {}}', "no list of `frames`"),
        ('{"frames": []}', "has no frames"),
        ('{"frames": [3]}', "frame 0 .* names no image"),
        ('{"frames": [{"file_path": 3}]}', "frame 0 .* names no image"),
    ],
)
def test_transforms_explain_a_broken_document(tmp_path, text, message):
    (tmp_path / "transforms.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        scenes.read(tmp_path)


def test_scene_read_explains_a_folder_without_a_document(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no transforms\.json"):
        scenes.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        scenes.read(tmp_path / "nowhere")
    document(tmp_path, [], name="transforms_test.json")
    with pytest.raises(FileNotFoundError, match=r"name one of its documents, such as .*transforms_test\.json"):
        scenes.read(tmp_path)


@pytest.mark.parametrize(("asked", "message"), [([7], "frame 7 does not exist"), ([-1], "frame -1"), ([], "no frames")])
def test_scene_read_names_missing_frames_and_how_many_there_are(tmp_path, asked, message):
    scenes.write(tmp_path / "s", views())
    with pytest.raises(ValueError, match=message) as error:
        scenes.read(tmp_path / "s", frames=asked)
    assert "0 to 3" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a readable image"), (b"no image", "not a readable image"), (None, "does not exist, but")],
)
def test_scene_read_names_a_missing_or_corrupt_image(tmp_path, content, message):
    one_frame(tmp_path)
    (tmp_path / "a.png").unlink()
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        scenes.read(tmp_path)
    assert "a.png" in str(error.value)


def test_scene_read_names_an_image_cut_off_in_the_middle(tmp_path):
    one_frame(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.png.* is not a readable image"):
        scenes.read(tmp_path)


@pytest.mark.slow
def test_scene_read_refuses_an_image_that_declares_a_huge_size_before_it_is_decoded(tmp_path):
    one_frame(tmp_path)
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match="more than 67108864 pixels"):
        scenes.read(tmp_path)


def test_scene_read_names_images_of_mixed_sizes(tmp_path):
    save_image(tmp_path / "a.png", size=(8, 8))
    save_image(tmp_path / "b.png", size=(6, 8))
    frames = [{"file_path": name, "transform_matrix": FROM_THE_FRONT} for name in ("a.png", "b.png")]
    document(tmp_path, frames, camera_angle_x=0.8)
    with pytest.raises(ValueError, match=r"b\.png.* is 6 x 8 pixels, but .*a\.png.* is 8 x 8"):
        scenes.read(tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "link.png", "ABSOLUTE", "a\0.png"])
def test_scene_read_opens_no_file_outside_the_scene_folder(tmp_path, name):
    save_image(tmp_path / "secret.png")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "link.png").symlink_to(tmp_path / "secret.png")
    file = str(tmp_path / "secret.png") if name == "ABSOLUTE" else name
    one_frame(tmp_path / "s", file=file)
    with pytest.raises(ValueError, match="outside the scene folder"):
        scenes.read(tmp_path / "s")


def test_decode_depth_never_loads_a_pickle(tmp_path):
    np.save(tmp_path / "d.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    save_image(tmp_path / "a.png", size=(1, 1))
    frame = {"file_path": "a.png", "depth_file_path": "d.npy", "transform_matrix": FROM_THE_FRONT}
    document(tmp_path, [frame], camera_angle_x=0.8)
    with pytest.raises(ValueError, match="not a usable depth map"):
        scenes.read(tmp_path)


def test_decode_depth_takes_no_memory_for_an_npy_that_declares_a_huge_size(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    one_frame(tmp_path)
    (tmp_path / "d.npy").write_bytes(header.getvalue())
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"][0]["depth_file_path"] = "d.npy"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"shape \(1000000, 1000000\)"):
        scenes.read(tmp_path)


def test_scene_read_warns_of_a_camera_that_shows_only_a_corner_of_the_cube(tmp_path):
    one_frame(tmp_path, matrix=matrix(m03=2.0))
    with pytest.warns(UserWarning, match=r"a\.png.* does not show the origin"):
        scenes.read(tmp_path)


@pytest.mark.parametrize("distance", [0.0, 0.5, 3.0, 500.0])
def test_scene_read_accepts_a_camera_that_shows_the_object_from_any_distance(tmp_path, distance):
    one_frame(tmp_path, matrix=matrix(m13=-distance))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(scenes.read(tmp_path).names) == 1


def test_shards_give_back_what_the_folders_hold(tmp_path):
    for k in range(3):
        scenes.write(tmp_path / f"s{k}", views(count=k + 2), caption=f"object {k}")
    folders = [tmp_path / f"s{k}" for k in range(3)]
    tars = shards.write(folders, tmp_path / "shards", per_shard=2)
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar"]
    for folder, packed in zip(folders, shards.read(tmp_path / "shards"), strict=True):
        scene = scenes.read(folder)
        assert (packed.id, packed.caption, packed.names) == (scene.id, scene.caption, scene.names)
        assert torch.equal(packed.views.rgb, scene.views.rgb)
        assert torch.equal(packed.views.cameras.cam_to_world, scene.views.cameras.cam_to_world)
        torch.testing.assert_close(packed.views.depth, scene.views.depth, atol=1e-6, rtol=0)


def test_shards_read_decodes_only_the_chosen_frames(tmp_path):
    scenes.write(tmp_path / "s", views(count=5))
    shards.write([tmp_path / "s"], tmp_path / "shards")
    (scene,) = shards.read(tmp_path / "shards" / "00000.tar", frames=lambda count: [count - 1, 0], size=6)
    assert scene.names == ("0004", "0000")
    assert scene.views.rgb.shape == (2, 3, 6, 6)


def test_shards_members_of_a_scene_share_the_key_before_their_first_dot(tmp_path):
    """WebDataset's rule for what belongs together; an id with dots and slashes must not break it."""
    scenes.write(tmp_path / "s", views(count=2))
    scene = replace(scenes.read(tmp_path / "s"), id="../evil/a.b")
    shards.write([scene, scene], tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "00000.tar") as tar:
        keys = [name.split(".", 1)[0] for name in tar.getnames()]
    assert all("/" not in key for key in keys)
    assert keys == sorted(keys)
    assert len(set(keys)) == 2
    assert [packed.id for packed in shards.read(tmp_path / "shards")] == ["../evil/a.b"] * 2


def test_shards_read_of_a_cut_off_tar_is_an_error_and_not_a_short_one(tmp_path):
    scenes.write(tmp_path / "s", views())
    (tar,) = shards.write([tmp_path / "s"], tmp_path / "shards")
    data = tar.read_bytes()
    tar.write_bytes(data[: data.index(b"\x89PNG") + 40])  # within the first image
    with pytest.raises(ValueError, match="not a whole tar file"):
        list(shards.read(tar))


def test_shards_write_makes_no_shards_of_no_scenes(tmp_path):
    with pytest.raises(ValueError, match="no scenes to pack"):
        shards.write([], tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []


def test_shards_read_names_a_folder_without_shards(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no \.tar files"):
        list(shards.read(tmp_path))


def test_structured_cameras_show_the_whole_object_and_raise_no_warning(tmp_path):
    scenes.write(tmp_path / "s", Views(torch.rand(4, 3, 8, 8), torch.ones(4, 1, 8, 8), structured_cameras()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scenes.read(tmp_path / "s")


def test_scenes_below_a_folder_are_found_at_any_depth_but_not_those_left_half_written(tmp_path):
    for name in ("a", "more/b", ".c.0123abcd.partial", ".hidden/d"):
        one_frame(tmp_path / name)
    assert scenes.below(tmp_path) == [tmp_path / "a", tmp_path / "more" / "b"]
    assert scenes.below(tmp_path / ".hidden") == [tmp_path / ".hidden" / "d"]  # asked for by name
