"""The commands `reconstruct` and `generate` with converted weights, as a user meets them."""

import json
from dataclasses import replace

import pytest
import torch
from golden_sets import Golden
from PIL import Image
from tiny_sdxl import tiny_sdxl_folder

from instant3d import scenes
from instant3d.cameras import orbit, structured_cameras
from instant3d.cli import main as cli
from instant3d.nerf.asset import Asset
from instant3d.pipelines import convert
from instant3d.stage2.network import Reconstructor
from instant3d.stage2.view_checks import assumed_camera
from instant3d.views import Views

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_images(monkeypatch):
    """Films and sheets of a few small images: random weights fill the whole cube, which is slow to see through."""
    monkeypatch.setattr("instant3d.pipelines.results.SMALLEST", 8)
    monkeypatch.setattr("instant3d.pipelines.results.LARGEST", 8)
    monkeypatch.setattr("instant3d.pipelines.results.FRAMES", 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Converted folders by family."""
    folder, sizes = tmp_path_factory.mktemp("weights"), {"instantmesh": 64, "openlrm": 56, "triposr": 64}
    for family, size in sizes.items():
        convert.convert(family, Golden(family).folder, folder / family, image_size=size)
    return folder


@pytest.fixture
def image(tmp_path):
    """A red oblong right of the middle of nothing."""
    image = Image.new("RGBA", (90, 60))
    image.paste((220, 30, 20, 255), (50, 10, 80, 50))
    image.save(tmp_path / "mug.png")
    return tmp_path / "mug.png"


def scene(folder, cameras):
    rgb = torch.rand(len(cameras.intrinsics), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scenes.write(folder, Views(rgb, torch.ones_like(rgb[:, :1]), cameras))
    return folder


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = cli.main(
            [str(argument) for argument in (*arguments, "--resolution", 8, "--texture", 64, "--device", "cpu")]
        )
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("family", ["openlrm", "triposr"])
def test_reconstruct_turns_an_image_into_a_folder_of_results_and_one_line(run, image, weights, tmp_path, family):
    code, out, err = run("reconstruct", image, "--weights", weights / family, "-o", tmp_path / "out")
    assert (code, out.count("\n"), err) == (0, 1, "")
    assert "from 1 view in" in out
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (record["scene"], record["views"], record["cut_by"]) == ("mug", ["mug.png"], "alpha")
    assert all((tmp_path / "out" / name).exists() for name in record["files"])
    assert {"views", "mesh.glb", "triplane.safetensors", "turntable.mp4", "sheet.png"} <= set(record["files"])


def test_reconstruct_writes_its_input_as_a_scene_that_gives_the_same_result(run, image, weights, tmp_path):
    run("reconstruct", image, "--weights", weights / "triposr", "-o", tmp_path / "out")
    shown = scenes.read(tmp_path / "out" / "views")
    architecture = Reconstructor.from_pretrained(weights / "triposr").architecture
    torch.testing.assert_close(
        shown.views.cameras.cam_to_world, assumed_camera(architecture).cam_to_world, atol=1e-6, rtol=0
    )
    side = shown.views.width
    assert side == round(40 / 0.85)
    columns = shown.views.alpha[0, 0].sum(0)
    assert float(columns.sum()) == pytest.approx(30 * 40, rel=0.02)
    assert float((columns * (torch.arange(side) + 0.5)).sum() / columns.sum()) == pytest.approx(side / 2, abs=0.05)
    run("reconstruct", tmp_path / "out" / "views", "--weights", weights / "triposr", "-o", tmp_path / "again")
    planes = [Asset.load(tmp_path / name).triplane.planes for name in ("out", "again")]
    torch.testing.assert_close(*planes, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("instantmesh", [], "makes an object of several posed views"),
        ("triposr", ["--views", "0"], "leave out --views"),
    ],
)
def test_reconstruct_with_an_unsuitable_image_is_one_sentence(
    run, image, weights, tmp_path, family, options, message
):  # fmt: skip
    code, out, err = run("reconstruct", image, "--weights", weights / family, "-o", tmp_path / "out", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert "--debug" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("cameras", "notes"),
    [
        (structured_cameras(), []),
        (orbit([0.0, 90.0], 80.0), ["elevations of 80"]),
        (orbit([0.0, 90.0], 20.0, fov_deg=70.0), ["fields of view of 70", "trained on 30 to 50 degrees"]),
        (orbit([0.0, 90.0], -60.0, fov_deg=70.0), ["elevations of -60", "fields of view of 70"]),
    ],
)
def test_reconstruct_warns_of_cameras_outside_a_checkpoints_training(run, weights, tmp_path, cameras, notes):
    views = scene(tmp_path / "scene", cameras)
    code, _, err = run("reconstruct", views, "--weights", weights / "instantmesh", "-o", tmp_path / "out")
    assert code == 0
    assert err.count("not trained with cameras") == bool(notes)
    assert all(note in err for note in notes)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory):
    return tiny_sdxl_folder(tmp_path_factory.mktemp("weights") / "stage1")


def generated(run, stage1, stage2, out):
    return run("generate", "a hat", "--stage1", stage1, "--stage2", stage2, "--steps", 1, "-o", out)


def test_generate_works_with_converted_weights(run, stage1, weights, tmp_path):
    code, out, err = generated(run, stage1, weights / "instantmesh", tmp_path / "out")
    assert (code, out.count("\n")) == (0, 1)
    assert "note" not in err
    run("reconstruct", tmp_path / "out" / "views", "--weights", weights / "instantmesh", "-o", tmp_path / "again")
    meshes = [json.loads((tmp_path / name / "result.json").read_text())["mesh"] for name in ("out", "again")]
    assert meshes[0]["faces"] == pytest.approx(meshes[1]["faces"], rel=0.02)  # views were rounded to eight bits


def test_generate_warns_of_structured_views_outside_a_checkpoints_training(run, stage1, weights, tmp_path):
    network = Reconstructor.from_pretrained(weights / "instantmesh")
    network.architecture = replace(network.architecture, known_fovs_deg=(25.0, 35.0))
    network.save_pretrained(tmp_path / "narrow", torch.float32)
    code, _, err = generated(run, stage1, tmp_path / "narrow", tmp_path / "out")
    assert code == 0
    assert "fields of view of 50 (trained on 25 to 35 degrees)" in err


def test_generate_refuses_a_single_image_network_before_sampling(run, stage1, weights, tmp_path):
    code, out, err = generated(run, stage1, weights / "triposr", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "makes an object of one image, but stage 1 generates four views" in err
    assert not (tmp_path / "out").exists()
