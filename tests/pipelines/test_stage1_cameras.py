"""A stage 1 folder states the cameras of its tiles, and the pipeline follows it."""

import json
from dataclasses import replace

import pytest
import torch
from sphere_network import sphere_network
from tiny_sdxl import tiny_sdxl_folder

from instant3d.cameras import orbit, structured_cameras
from instant3d.cli import main as cli
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.pipelines.text_to_3d import Sampling, TextTo3D
from instant3d.pipelines.two_stage_generator import TwoStageGenerator

pytestmark = pytest.mark.slow

GRM = [225, 315, 45, 135]


@pytest.fixture(scope="module")
def stage2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage2")
    sphere_network().save_pretrained(folder)
    return folder


@pytest.fixture
def stage1(tmp_path):
    def stage1(**layout):
        folder = tiny_sdxl_folder(tmp_path / "stage1")
        if layout:
            (folder / "views.json").write_text(json.dumps(layout))
        return folder

    return stage1


@pytest.mark.parametrize(
    ("layout", "azimuths", "turned"),
    [
        ({}, [45, 135, 225, 315], [45, 135, 225, 315]),
        ({"azimuths_deg": GRM}, GRM, GRM),
        ({"azimuths_deg": GRM, "front_azimuth_deg": 90}, GRM, [45, 135, 225, 315]),
        ({"azimuths_deg": GRM, "front_azimuth_deg": 0}, GRM, [135, 225, 315, 45]),
    ],
)
def test_text_to_3d_reconstructs_by_the_stated_cameras_and_turns_the_front_to_azimuth_270(
    stage1, stage2, layout, azimuths, turned
):
    model = TextTo3D.from_pretrained(stage1(**layout), stage2)
    (views,) = model.views(["a chair"], sampling=Sampling(steps=1))
    torch.testing.assert_close(views.cameras.cam_to_world, orbit(azimuths, 20.0).cam_to_world, atol=1e-5, rtol=0)
    asset = model.build(views, resolution=8)
    torch.testing.assert_close(asset.views.cameras.cam_to_world, orbit(turned, 20.0).cam_to_world, atol=1e-5, rtol=0)


def test_generator_with_other_sampling_still_records_the_stated_cameras(stage1, stage2):
    generator = TwoStageGenerator(stage1(azimuths_deg=GRM), stage2).with_sampling(Sampling(steps=7))
    assert generator.settings["view_layout"]["azimuths_deg"] == tuple(GRM)
    assert generator.settings["sampling"]["steps"] == 7


def test_components_keep_their_layout_when_they_are_saved(stage1, tmp_path):
    folder = stage1(azimuths_deg=GRM, sampling="legacy")
    Components.load(folder).save(tmp_path / "copy")
    assert ViewLayout.read(tmp_path / "copy") == ViewLayout(azimuths_deg=(225.0, 315.0, 45.0, 135.0), sampling="legacy")


def test_view_layout_without_a_file_is_that_of_the_paper(tmp_path):
    cameras = ViewLayout.read(tmp_path).cameras
    torch.testing.assert_close(cameras.cam_to_world, structured_cameras().cam_to_world)
    assert ViewLayout.read(tmp_path).quarter_turns == 0


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"azimuths_deg": [1, 2, 3]}', "got 3 azimuths_deg and 4 elevations_deg"),
        ('{"fov_deg": 0}', "fov_deg must lie from 1"),
        ('{"front_azimuth_deg": 45}', "a multiple of 90"),
        ('{"azimuths": [1]}', "unknown azimuths"),
        ('{"sampling": "ddim"}', "one of trailing, legacy"),
        ("[]", "holds no object"),
        ("{", "not valid JSON"),
    ],
)
def test_generate_refuses_invalid_cameras_in_one_sentence(stage1, stage2, tmp_path, capsys, content, fault):
    folder = stage1()
    (folder / "views.json").write_text(content)
    arguments = ["generate", "a hat", "--stage1", str(folder), "--stage2", str(stage2), "-o", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert fault in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_generate_warns_where_stage_2_was_not_trained_with_the_stated_cameras(stage1, tmp_path, capsys, monkeypatch):
    network = sphere_network()
    network.architecture = replace(network.architecture, known_radii=(2.6, 2.8))
    network.save_pretrained(tmp_path / "stage2")
    for name, value in (("SMALLEST", 8), ("LARGEST", 8), ("FRAMES", 2)):
        monkeypatch.setattr(f"instant3d.pipelines.results.{name}", value)
    arguments = ["--stage1", str(stage1(radius=4.0)), "--stage2", str(tmp_path / "stage2"), "-o", str(tmp_path / "out")]
    assert cli.main(["generate", "a hat", *arguments, "--steps", "1", "--resolution", "16"]) == 0
    assert "not trained with cameras at distances of 4 (trained on 2.6 to 2.8)" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["view_layout"]["radius"] == 4.0
    written = json.loads((tmp_path / "out" / "views" / "transforms.json").read_text())
    position = torch.tensor(written["frames"][0]["transform_matrix"])[:3, 3]
    assert float(position.norm()) == pytest.approx(4.0, abs=1e-4)
