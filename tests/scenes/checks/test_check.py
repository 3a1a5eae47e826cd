"""The doctor against scenes drawn by closed form, whole or with one fault planted in each."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from instant3d import scenes
from instant3d.cameras import Cameras, intrinsics_from_fov, orbit, structured_cameras
from instant3d.cli.main import main
from instant3d.scenes.checks import check
from instant3d.scenes.checks.conventions import READINGS
from instant3d.views import Views

SIZE = 96
AZIMUTHS, ELEVATIONS = (10.0, 75.0, 130.0, 200.0, 265.0, 320.0), (20.0, -15.0, 50.0, 5.0, 35.0, 65.0)
AROUND = orbit(AZIMUTHS, ELEVATIONS, (2.4, 3.0, 2.6, 2.9, 2.5, 2.8))
BALLS = {  # objects as unions of balls (x, y, z, radius), all within the unit sphere
    "sphere": [(0, 0, 0, 0.9)],
    "vase": [(0, 0, -0.35, 0.5), (0, 0, 0.1, 0.32), (0, 0, 0.45, 0.42)],
    "dumbbell": [(0.55, 0, 0, 0.3), (-0.55, 0, 0, 0.3), (0, 0, 0, 0.15)],
    "tripod": [(0.5, 0.1, -0.3, 0.3), (-0.45, 0.4, -0.2, 0.25), (0, -0.6, -0.1, 0.2), (0.1, 0, 0.5, 0.4)],
}


def drawn(balls, cameras: Cameras = AROUND, color=(0.2, 0.5, 0.7)) -> Views:
    """A ray meets a ball if it passes its centre nearer than the radius: exact outlines of 9 rays a pixel."""
    rays = cameras.rays(3 * SIZE, 3 * SIZE)
    hit = torch.zeros(rays.origins.shape[:-1])
    for x, y, z, radius in balls:
        toward = torch.tensor([float(x), float(y), float(z)]) - rays.origins
        along = (toward * rays.directions).sum(-1, keepdim=True)
        near = (toward - along * rays.directions).norm(dim=-1) < radius
        hit = torch.maximum(hit, (near & (along[..., 0] > 0)).float())
    alpha = torch.nn.functional.avg_pool2d(hit[:, None], 3)
    shade = torch.linspace(0.8, 1.2, SIZE)[:, None]
    rgb = (torch.tensor(color)[:, None, None] * shade).expand(len(alpha), 3, SIZE, SIZE)
    return Views(rgb.clamp(0, 1), alpha, cameras)


def put(folder, name="tripod", *, balls=None, cameras=AROUND, written=None, caption="a thing", **how):
    """A scene of `balls` seen by `cameras`, whose document contains `written` instead."""
    views = drawn(balls or BALLS[name], cameras, **how)
    scenes.write(folder, Views(views.rgb, views.alpha, written or cameras), caption=caption)
    return folder


def edit(folder, change) -> None:
    """Change the document in place."""
    content = json.loads((folder / "transforms.json").read_text())
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))


def write_matrices(folder, meaning) -> None:
    """Matrices as another project's code would write them, from its own definition of its axes."""
    axes = {"OpenGL": [1, -1, -1], "OpenCV": [1, 1, 1], "PyTorch3D": [-1, -1, 1]}[meaning.split(", ")[1]]

    def change(content):
        for frame, camera in zip(content["frames"], AROUND.cam_to_world.double().numpy(), strict=True):
            matrix = camera @ np.diag([*axes, 1.0])
            turned = np.linalg.inv(matrix) if meaning.startswith("world-to-camera") else matrix
            frame["transform_matrix"] = turned.tolist()

    edit(folder, change)


def findings(*folders, **how):
    return check.check_scenes(folders, jobs=1, **how)[1]


def kinds(*folders, **how):
    return sorted(finding.kind for finding in findings(*folders, **how))


@pytest.mark.slow
@pytest.mark.parametrize("cameras", [AROUND, structured_cameras()], ids=["around", "structured"])
@pytest.mark.parametrize("name", BALLS)
def test_check_raises_no_alarm_for_a_healthy_scene(tmp_path, name, cameras):
    assert findings(put(tmp_path / name, name, cameras=cameras)) == []


@pytest.mark.parametrize("turn_deg", [40.0, 90.0])
def test_check_accepts_any_choice_of_the_world_s_axes(tmp_path, turn_deg):
    # cameras and object turned together, about the x axis: another project's up
    s, c = math.sin(math.radians(turn_deg)), math.cos(math.radians(turn_deg))
    turn = torch.tensor([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])
    written = Cameras(turn @ AROUND.cam_to_world, AROUND.intrinsics)
    assert findings(put(tmp_path / "turned", written=written)) == []


@pytest.mark.slow
@pytest.mark.parametrize("meaning", list(READINGS)[1:])
def test_check_names_and_repairs_a_mistaken_convention(tmp_path, meaning):
    folder = put(tmp_path / "tripod")
    before = scenes.document(folder)
    write_matrices(folder, meaning)
    wrong = (folder / "transforms.json").read_bytes()
    (found,) = findings(folder)
    assert (found.kind, found.fix) == ("camera convention", meaning)
    assert found.sure > 0.9
    assert "px" in found.evidence
    (repaired,) = check.fix_scenes([found])
    assert repaired.fixed
    assert (folder / "transforms.json.before-doctor").read_bytes() == wrong
    after = scenes.document(folder)
    for k in range(before.count):
        np.testing.assert_allclose(after.frame(k).cam_to_world, before.frame(k).cam_to_world, atol=1e-6)
    assert findings(folder) == []


def test_check_cannot_tell_two_conventions_of_a_ball_apart_and_leaves_it_alone(tmp_path):
    # an image of a ball rotated by half a circle is the same image: OpenCV's axes fit as well as PyTorch3D's
    folder = put(tmp_path / "ball", "sphere")
    write_matrices(folder, "camera-to-world, OpenCV")
    wrong = (folder / "transforms.json").read_bytes()
    (found,) = findings(folder)
    assert (found.kind, found.fix) == ("camera convention", None)
    assert not check.fix_scenes([found])[0].fixed
    assert (folder / "transforms.json").read_bytes() == wrong
    assert not list(folder.glob("*.before-doctor"))


@pytest.mark.slow
@pytest.mark.parametrize(("others", "repaired"), [(9, True), (3, False)])
def test_check_repairs_a_ball_with_enough_scenes_of_one_convention_beside_it(tmp_path, others, repaired):
    ball, first = put(tmp_path / "ball", "sphere"), put(tmp_path / "thing0")
    for k in range(1, others):
        shutil.copytree(first, tmp_path / f"thing{k}")
    for folder in tmp_path.iterdir():
        write_matrices(folder, "camera-to-world, OpenCV")
    found = [finding for finding in check.fix_scenes(findings(tmp_path)) if finding.scene == str(ball)]
    assert [(finding.kind, finding.fixed) for finding in found] == [("camera convention", repaired)]
    exact = np.allclose(scenes.document(ball).frame(0).cam_to_world, AROUND.cam_to_world[0], atol=1e-6)
    assert exact == repaired


@pytest.mark.slow
def test_check_repairs_the_others_when_a_frame_cannot_be_read(tmp_path):
    folder = put(tmp_path / "tripod")
    write_matrices(folder, "world-to-camera, OpenCV")
    edit(folder, lambda content: content["frames"].__setitem__(2, {"file_path": "images/0002.png"}))
    check.fix_scenes(findings(folder))
    assert kinds(folder) == ["unreadable"]
    np.testing.assert_allclose(scenes.document(folder).frame(3).cam_to_world, AROUND.cam_to_world[3], atol=1e-6)


@pytest.mark.slow
def test_check_gives_the_same_findings_for_images_larger_than_are_compared(tmp_path):
    folder = put(tmp_path / "tripod")
    for k in range(6):
        paint(folder, lambda image: image.resize((300, 300), Image.Resampling.BICUBIC), f"images/{k:04d}.png")
    assert findings(folder) == []
    write_matrices(folder, "world-to-camera, OpenGL")
    assert [found.fix for found in findings(folder)] == ["world-to-camera, OpenGL"]


@pytest.mark.slow
def test_repair_does_not_overwrite_the_first_copy(tmp_path):
    folder = put(tmp_path / "tripod")
    for meaning in ("camera-to-world, OpenCV", "world-to-camera, OpenGL"):
        write_matrices(folder, meaning)
        check.fix_scenes(findings(folder))
    assert len(list(folder.glob("transforms.json.before-doctor*"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.6, 0.7, 1.5])
def test_check_reports_a_field_of_view_that_the_outlines_refute(tmp_path, factor):
    lens = AROUND.intrinsics * torch.tensor([factor, factor, 1, 1])
    (found,) = findings(put(tmp_path / "tripod", written=Cameras(AROUND.cam_to_world, lens)))
    assert (found.kind, found.fix) == ("field of view", None)
    suggested = float(found.advice.split("about ")[1].split(" degrees")[0])
    assert suggested == pytest.approx(50, abs=6)


def test_check_reports_no_field_of_view_of_a_ball_as_each_fits(tmp_path):
    lens = intrinsics_from_fov(torch.full((6,), 44.0))
    cameras = orbit(AZIMUTHS, ELEVATIONS, 2.7)
    written = Cameras(cameras.cam_to_world, lens)
    assert findings(put(tmp_path / "ball", "sphere", cameras=cameras, written=written)) == []


@pytest.mark.slow
def test_check_suspects_frames_in_another_order_than_their_cameras(tmp_path):
    folder = put(tmp_path / "tripod", written=Cameras(AROUND.cam_to_world.roll(2, 0), AROUND.intrinsics))
    (found,) = findings(folder)
    assert (found.kind, found.fix) == ("cameras", None)


@pytest.mark.slow
def test_check_reports_an_object_that_leaves_the_box(tmp_path):
    wide = orbit(AZIMUTHS, ELEVATIONS, 4.0)
    out = [(x + 0.8, y, z, r) for x, y, z, r in BALLS["tripod"]]
    assert kinds(put(tmp_path / "out", balls=out, cameras=wide)) == ["leaves the box"]
    assert kinds(put(tmp_path / "in", cameras=wide)) == []


def test_check_reports_an_object_that_leaves_the_frame(tmp_path):
    near = orbit(AZIMUTHS, ELEVATIONS, 2.7, 24.0)
    assert kinds(put(tmp_path / "near", cameras=near)) == ["leaves the frame"]


def test_check_reports_a_tiny_object(tmp_path):
    small = [tuple(0.18 * value for value in ball) for ball in BALLS["tripod"]]
    assert kinds(put(tmp_path / "small", balls=small)) == ["tiny object"]


def paint(folder, change, name="images/0002.png") -> None:
    change(Image.open(folder / name).convert("RGBA")).save(folder / name)


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["black", "white"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_check_reports_a_black_or_white_frame(tmp_path, colour, mode):
    folder = put(tmp_path / "tripod")
    paint(folder, lambda image: Image.new(mode, image.size, colour))
    (found,) = findings(folder)
    assert (found.kind, found.frames) == (f"{colour} frame", (2,))


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["black", "white"])
def test_check_reports_a_blackened_object_unless_it_is_black_from_all_sides(tmp_path, colour):
    folder = put(tmp_path / "tripod")

    def blacken(image):
        plain = Image.new("RGBA", image.size, colour)
        plain.putalpha(image.getchannel("A"))
        return plain

    paint(folder, blacken)
    (found,) = findings(folder)
    assert (found.kind, found.frames) == (f"{colour} frame", (2,))
    for k in range(6):
        paint(folder, blacken, f"images/{k:04d}.png")
    assert findings(folder) == []


def test_check_reports_a_frame_that_shows_nothing(tmp_path):
    folder = put(tmp_path / "tripod")
    paint(folder, lambda image: Image.new("RGBA", image.size, (90, 90, 90, 0)))
    assert [(found.kind, found.frames) for found in findings(folder)] == [("empty frame", (2,))]


@pytest.mark.slow
@pytest.mark.parametrize(("background", "level"), [((30, 60, 20), "fault"), ((255, 255, 255), "note")])
def test_check_reports_missing_alpha_as_a_fault_only_where_it_cannot_be_cut(tmp_path, background, level):
    folder = put(tmp_path / "tripod")
    for k in range(6):
        paint(
            folder,
            lambda image: Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB"),
            f"images/{k:04d}.png",
        )
    (found,) = findings(folder)
    assert (found.kind, found.level, found.frames) == ("missing alpha", level, tuple(range(6)))


@pytest.mark.parametrize("caption", [None, "  "])
def test_check_notes_a_missing_caption(tmp_path, caption):
    folder = put(tmp_path / "tripod", caption=caption)
    assert [(found.kind, found.level) for found in findings(folder)] == [("caption missing", "note")]


@pytest.fixture(scope="module")
def six_scenes(tmp_path_factory):
    """Six scenes of differing objects."""
    folder = tmp_path_factory.mktemp("six_scenes")
    for k in range(6):
        balls = [(*ball[:3], ball[3] * (1 - 0.1 * k)) for ball in BALLS["tripod"]]
        put(folder / f"thing{k}", balls=balls, color=(0.1 + 0.15 * k, 0.5, 0.9 - 0.15 * k))
    return folder


@pytest.fixture
def scenes_folder(six_scenes, tmp_path):
    """Copy some of the six scenes to a folder, where a test may damage them."""

    def some(count):
        for k in range(count):
            shutil.copytree(six_scenes / f"thing{k}", tmp_path / "scenes_folder" / f"thing{k}")
        return tmp_path / "scenes_folder"

    return some


@pytest.mark.slow
def test_check_reports_a_scene_of_another_length_than_those_beside_it(scenes_folder):
    folder = scenes_folder(6)
    edit(folder / "thing3", lambda content: content["frames"].pop())
    (folder / "thing3" / "images" / "0005.png").unlink()
    assert [(found.kind, found.scene) for found in findings(folder)] == [("frame count", str(folder / "thing3"))]
    assert len(findings(folder, frames=5)) == 5


def test_check_reports_an_image_that_no_frame_names(tmp_path):
    folder = put(tmp_path / "tripod")
    edit(folder, lambda content: content["frames"].pop())
    assert kinds(folder) == ["frame count"]


@pytest.mark.slow
def test_check_reports_an_object_rendered_twice_once(scenes_folder):
    folder = scenes_folder(3)
    shutil.copytree(folder / "thing1", folder / "copy")
    edit(folder / "copy", lambda content: content.update(id="another"))
    (found,) = findings(folder)
    assert (found.kind, found.scene) == ("duplicate", str(folder / "thing1"))
    assert "copy" in found.evidence


@pytest.mark.slow
def test_check_reports_an_id_given_twice(scenes_folder):
    folder = scenes_folder(2)
    edit(folder / "thing1", lambda content: content.update(id="thing0"))
    assert kinds(folder) == ["duplicate"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "transforms.json").write_text("{"),
        lambda folder: (folder / "transforms.json").unlink(),
        lambda folder: (folder / "images" / "0001.png").unlink(),
        lambda folder: (folder / "images" / "0001.png").write_bytes(b"not an image"),
        lambda folder: paint(folder, lambda image: image.resize((32, 32))),
        lambda folder: edit(folder, lambda content: content["frames"][1].pop("transform_matrix")),
        lambda folder: edit(folder, lambda content: content["frames"][1].update(fl_x=-1)),
        lambda folder: edit(folder, lambda content: content["frames"].__setitem__(1, "frame")),
    ],
    ids=["document", "no document", "missing", "image", "size", "matrix", "lens", "entry"],
)
def test_check_reports_what_cannot_be_read_and_goes_on(scenes_folder, spoil):
    folder = scenes_folder(2)
    spoil(folder / "thing1")
    (found,) = findings(folder)
    assert (found.kind, found.scene) == ("unreadable", str(folder / "thing1"))


@pytest.mark.slow
def test_doctor_command_prints_repairs_and_reports(scenes_folder, tmp_path, capsys):
    folder = scenes_folder(3)
    write_matrices(folder / "thing0", "world-to-camera, OpenCV")
    asked = ["doctor", str(folder), "--jobs", "1", "-o", str(tmp_path / "report.json")]
    assert main(asked) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["scenes"], report["healthy"], report["kinds"]) == (3, 2, {"camera convention": 1})
    assert report["findings"][0]["cure"] == "world-to-camera, OpenCV"
    assert main([*asked, "--fix"]) == 0
    assert "1 repaired" in capsys.readouterr().out
    assert main(asked) == 0
    assert json.loads((tmp_path / "report.json").read_text())["findings"] == []


@pytest.mark.slow
def test_check_finds_the_same_with_two_processes_as_with_one(scenes_folder, monkeypatch):
    monkeypatch.setattr(check, "AT_ONCE", 1)
    folder = scenes_folder(3)
    write_matrices(folder / "thing0", "world-to-camera, OpenCV")
    assert check.check_scenes([folder], jobs=2) == check.check_scenes([folder], jobs=1)


def test_doctor_command_without_a_scene_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(ValueError, match="name scene folders"):
        check.check_scenes([tmp_path])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check.check_scenes([tmp_path / "nowhere"])
