"""Evaluation against answers known beforehand: who is nearest, what a mean is, what a wrong image scores."""

import json
import math

import pytest
import torch
import trimesh
from torch.nn import functional as F

from instant3d import scenes
from instant3d.cameras import Cameras, orbit
from instant3d.evaluation import reconstruction
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.views import Views

TINY = Architecture(
    image_size=32, encoder="plucker", encoder_width=32, encoder_depth=1, encoder_heads=2, patch=16, width=32, depth=1,
    heads=2, token_side=4, plane_side=8, channels=8, decoder_width=16, decoder_layers=2,
)  # fmt: skip


def ball(cameras: Cameras, colour: tuple[float, float, float] = (0.8, 0.2, 0.1), size: int = 32) -> Views:
    """Exact images and depths of a sphere of radius 0.7 in one colour."""
    rays = cameras.rays(size, size)
    along = (rays.origins * rays.directions).sum(-1)
    beneath = along**2 - (rays.origins**2).sum(-1) + 0.49
    hit = (beneath > 0).float()
    forward = (rays.directions * cameras.cam_to_world[:, None, None, :3, 2]).sum(-1)
    depth = hit * (-along - beneath.clamp(min=0).sqrt()) * forward
    rgb = torch.tensor(colour)[:, None, None].expand(len(hit), 3, size, size)
    return Views(rgb, hit[:, None], cameras, depth[:, None])


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


class Ball:
    """The field of a sphere of radius 0.7."""

    def __init__(self, centre: tuple[float, float, float] = (0.0, 0.0, 0.0), density: float = 400.0) -> None:
        self.centre, self.full = torch.tensor(centre), density

    def density(self, points):
        return self.full * ((0.7 - (points - self.centre).norm(dim=-1)) * 500 + 0.5).clamp(0, 1)

    def __call__(self, points):
        return self.density(points), torch.tensor([0.8, 0.2, 0.1]).expand_as(points)


def test_compare_scores_the_field_of_the_object_high_with_small_depth_error():
    wanted = ball(orbit([30.0, 160.0], [10.0, 50.0]), size=64)
    numbers = reconstruction.compare(reconstruction.render_like(Ball(), wanted), wanted)
    assert numbers["psnr"] > 22  # the exact images' edges are hard, half a pixel off
    assert numbers["mask_iou"] > 0.97
    assert numbers["depth_error"] < 0.02


@pytest.mark.slow
def test_geometry_metrics_of_a_moved_ball_are_half_the_move_on_average_and_less_for_half():
    # a point of a sphere moved by d lies d |cos| away from where the sphere was: evenly spread between 0 and d
    truth = 0.7 * F.normalize(torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    still, moved = (reconstruction.geometry_metrics(Ball((0.0, shift, 0.0)), truth) for shift in (0.0, 0.1))
    assert still["f_score"] == 1
    assert still["chamfer"] < 0.01
    assert moved["f_score"] == pytest.approx(0.5, abs=0.05)
    assert moved["chamfer"] == pytest.approx(0.05, abs=0.01)


def test_geometry_metrics_of_an_empty_field_find_no_surface():
    numbers = reconstruction.geometry_metrics(Ball(density=0.0), torch.zeros(10, 3))
    assert numbers["f_score"] == 0
    assert math.isnan(numbers["chamfer"])


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


def test_compare_scores_what_is_missing_by_the_colours_distance_from_white():
    wanted = Views(torch.full((2, 3, 16, 16), 0.5), torch.ones(2, 1, 16, 16), orbit([0.0, 90.0], 0.0))
    nothing = Views(torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 16, 16), wanted.cameras)
    numbers = reconstruction.compare(nothing, wanted)
    assert numbers["psnr"] == pytest.approx(-10 * math.log10(0.25), abs=1e-4)
    assert numbers["mask_iou"] == 0
    assert "depth_error" not in numbers


def test_compare_reports_lpips_under_the_name_of_its_network():
    shown, wanted = ball(orbit([0.0], 0.0), (0.5, 0.5, 0.5)), ball(orbit([0.0], 0.0), (0.2, 0.2, 0.2))
    numbers = reconstruction.compare(shown, wanted, similarity=lambda a, b: (a - b).abs().amax())
    assert numbers["lpips_vgg"] == pytest.approx(0.3)
    assert "lpips_vgg" not in reconstruction.compare(shown, wanted)


def test_mean_takes_the_rows_that_have_the_number():
    rows = [{"psnr": 20.0, "depth_error": math.nan}, {"psnr": 30.0, "depth_error": 0.1}, {"psnr": 10.0}]
    assert reconstruction.mean(rows) == {"psnr": 20.0, "depth_error": 0.1}


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


def test_metrics_that_are_nan_are_written_as_null(tmp_path):
    reconstruction.write({"mean": {"depth_error": math.nan, "psnr": 1.5}}, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"mean": {"depth_error": None, "psnr": 1.5}}
