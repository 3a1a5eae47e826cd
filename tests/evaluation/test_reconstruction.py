"""Evaluation against answers known beforehand: who is nearest, what a mean is, what a wrong image scores."""

import json

import pytest
import torch
import trimesh
from ball_views import Ball, BallAsset, ball

from instant3d import scenes
from instant3d.cameras import orbit
from instant3d.evaluation import reconstruction
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.utils.mesh_options import MeshOptions
from instant3d.views import Views

TINY = Architecture(
    image_size=32, encoder="plucker", encoder_width=32, encoder_depth=1, encoder_heads=2, patch=16, width=32, depth=1,
    heads=2, token_side=4, plane_side=8, channels=8, decoder_width=16, decoder_layers=2,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Two balls, each seen from four sides and from two more."""
    cameras = orbit([0.0, 90.0, 180.0, 270.0, 10.0, 200.0], [0.0, 0.0, 0.0, 0.0, 10.0, -20.0])
    scenes.write(tmp_path / "scenes" / "red", ball(cameras))
    scenes.write(tmp_path / "scenes" / "pale", ball(cameras, (0.9, 0.9, 0.8)))
    return tmp_path / "scenes"


def test_find_scenes_counts_a_folder_of_scenes_as_each_of_them(folder):
    assert list(reconstruction.find_scenes([folder])) == ["pale", "red"]
    assert reconstruction.find_scenes([folder / "red"]) == {"red": folder / "red"}
    assert len(reconstruction.find_scenes([folder / "red", folder / "pale" / ".." / "red"])) == 2


def test_read_case_takes_frames_that_are_not_inputs_as_targets_in_their_order(folder):
    task = reconstruction.read_case("red", folder / "red", (5, 0, 2))
    everything = scenes.read(folder / "red").views.cameras.positions
    torch.testing.assert_close(task.inputs.cameras.positions, everything[[5, 0, 2]])
    torch.testing.assert_close(task.targets.cameras.positions, everything[[1, 3, 4]])


@pytest.mark.parametrize("views", [(0, 6), (0, 0), (-1,), ()])
def test_read_case_refuses_frames_that_do_not_exist(folder, views):
    with pytest.raises(ValueError, match="frames 0 to 5"):
        reconstruction.read_case("red", folder / "red", views)


def test_read_case_refuses_a_scene_without_targets(folder):
    with pytest.raises(ValueError, match="so there is no target"):
        reconstruction.read_case("red", folder / "red", range(6))


def test_nearest_view_is_nearest_by_direction_and_not_by_distance_or_number():
    grey = torch.tensor([0.1, 0.4, 0.7])[:, None, None, None]
    given = Views(grey.expand(3, 3, 4, 4), torch.ones(3, 1, 4, 4), orbit([0.0, 120.0, 240.0], 20.0, [9.0, 2.0, 2.0]))
    found = reconstruction.nearest_view(given, orbit([350.0, 200.0, 100.0], 0.0, 2.0))
    torch.testing.assert_close(found.rgb[:, 0, 0, 0], torch.tensor([0.1, 0.7, 0.4]))


def test_reference_mesh_is_placed_as_the_renderer_places_it(folder, tmp_path):
    trimesh.creation.box((6.0, 2.0, 3.0), trimesh.transformations.translation_matrix([5, 5, 5])).export(
        tmp_path / "red.glb"
    )
    surface = reconstruction.read_case(
        "red", folder / "red", (0, 1), truth=reconstruction.reference_mesh("red", tmp_path)
    ).surface
    half = surface.amax(0)  # the file's +y is the world's +z
    torch.testing.assert_close(half, torch.tensor([3.0, 1.5, 1.0]) / 3.5, atol=2e-3, rtol=0)
    torch.testing.assert_close(surface.amin(0), -half, atol=2e-3, rtol=0)


def test_evaluate_reconstruction_names_a_scene_without_its_true_mesh(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pale\.glb"):
        reconstruction.evaluate_reconstruction([folder], reference=tmp_path)


@pytest.mark.slow
def test_evaluate_reconstruction_of_baselines_needs_no_network_and_the_hull_beats_a_copied_image(folder):
    report = reconstruction.evaluate_reconstruction([folder])
    hull, nearest = report["baselines"]["visual_hull"], report["baselines"]["nearest_view"]
    assert report["mean"] == {}
    assert hull["mask_iou"] > 0.9
    assert nearest["mask_iou"] > 0.9  # a ball looks alike from all sides
    assert hull["depth_error"] < 0.1


@pytest.mark.slow
def test_evaluate_reconstruction_reports_every_object_its_mean_and_both_baselines(folder, tmp_path, capsys):
    torch.manual_seed(0)
    report = reconstruction.evaluate_reconstruction(
        [folder], network=Reconstructor(TINY), output=tmp_path / "out", resolution=16
    )
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["scenes"].keys() == {"pale", "red"}
    psnr = [row["psnr"] for row in written["scenes"].values()]
    assert written["mean"]["psnr"] == pytest.approx(sum(psnr) / 2)
    assert written["baselines"].keys() == {"nearest_view", "visual_hull"}
    assert written["settings"]["views"] == [0, 1, 2, 3]
    assert written["mean"]["psnr"] == report["mean"]["psnr"]
    table = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in table] == ["PSNR", "pale", "red", "mean"]
    assert f"{report['mean']['psnr']:.3f}" == table[-1].split()[1]


@pytest.mark.slow
def test_evaluation_twice_gives_the_same_numbers(folder):
    torch.manual_seed(0)
    network = Reconstructor(TINY)
    first, second = (
        reconstruction.evaluate_reconstruction([folder / "red"], network=network, resolution=16) for _ in range(2)
    )
    assert first == second


@pytest.mark.slow
def test_evaluate_reconstruction_of_the_hull_keeps_its_numbers(folder):
    (row,) = reconstruction.evaluate_reconstruction([folder / "red"])["baseline_scenes"]["visual_hull"].values()
    # recorded before density was read without colour and points were projected once
    assert row == pytest.approx(
        {"psnr": 20.64219, "ssim": 0.856723, "mask_iou": 0.929281, "depth_error": 0.0361969}, rel=2e-6
    )


@pytest.mark.slow
def test_evaluate_reconstruction_gives_the_same_numbers_with_scenes_side_by_side(folder, request):
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    reports = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        reports.append(reconstruction.evaluate_reconstruction([folder]))
    assert reports[0] == reports[1]


def test_evaluate_reconstruction_resumes_an_interrupted_run_with_the_missing_scenes(folder, tmp_path, monkeypatch):
    record = {"nearest_view": {"psnr": 10.0}, "visual_hull": {"psnr": 20.0}}
    measured = []

    def measure(case, *others):
        if case.name == "red" and not measured[1:]:
            measured.append("interrupted")
            raise KeyboardInterrupt
        measured.append(case.name)
        return record

    monkeypatch.setattr(reconstruction, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        reconstruction.evaluate_reconstruction([folder], output=tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()
    reconstruction.evaluate_reconstruction([folder], output=tmp_path / "out")
    assert measured == ["pale", "interrupted", "red"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "table.md"]


def test_evaluate_reconstruction_refuses_meshes_without_a_network(folder):
    with pytest.raises(ValueError, match="give weights or a network"):
        reconstruction.evaluate_reconstruction([folder], mesh=MeshOptions())


@pytest.mark.slow
def test_measure_has_a_row_for_the_mesh_only_if_meshes_are_asked_for(folder):
    case = reconstruction.read_case("red", folder / "red", (0, 1, 2, 3), 24)

    def model(inputs):
        return BallAsset(Ball())

    rows = reconstruction.measure(case, model, mesh=MeshOptions(faces=600, texture=None))
    assert rows["mesh"]["mask_iou"] > 0.9
    assert rows["network"]["mask_iou"] > 0.9
    assert "normal_error" in rows["network"]
    rows = reconstruction.measure(case, model)
    assert "mesh" not in rows
    assert "normal_error" not in rows["network"]
