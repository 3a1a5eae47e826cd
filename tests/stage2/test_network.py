"""The reconstructor: its size, its symmetries, its files."""

import dataclasses
import json

import pytest
import torch

from instant3d.cameras import Cameras, structured_cameras
from instant3d.nerf.plane_sampling import PLANE_AXES
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.stage2.visual_hull_input import carve_grid, extents
from instant3d.views import Views

TINY = Architecture(
    image_size=32, encoder="plucker", encoder_width=32, encoder_depth=1, encoder_heads=2, patch=16, width=32, depth=2,
    heads=2, token_side=4, plane_side=16, channels=12, decoder_width=16, decoder_layers=3, lift_side=16, lift_width=16,
)  # fmt: skip


def ball_views(radius=0.5, centre=(0.0, 0.0, 0.0), size=64):
    """Structured views of a white ball, by the distance of each pixel's ray from its centre."""
    cameras = structured_cameras()
    rays = cameras.rays(size, size)
    to_centre = torch.tensor(centre) - rays.origins
    along = (to_centre * rays.directions).sum(-1, keepdim=True)
    distance = (to_centre - along * rays.directions).norm(dim=-1)
    alpha = (distance < radius).float()[:, None]
    return Views(alpha.expand(-1, 3, -1, -1), alpha, cameras)


@pytest.mark.slow
def test_reconstructor_of_the_paper_has_the_size_that_its_widths_imply():
    with torch.device("meta"):
        network = Reconstructor()
    count = sum(parameter.numel() for parameter in network.parameters())
    # InstantMesh's network of the same widths counts 378,477,332; ours has six more 64 x 64 layers in its decoder
    assert count == 378_477_332 + 6 * (64 * 64 + 64)
    assert sum(parameter.numel() for parameter in network.encoder.parameters()) == 114_750_720


@pytest.mark.parametrize("encoder", ["plucker", "dino"])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_reconstructor_gives_planes_of_one_shape_for_any_number_of_views(encoder, count):
    network = Reconstructor(dataclasses.replace(TINY, encoder=encoder, encoder_heads=2))
    views = ball_views(size=32)
    views = views[[k % 4 for k in range(count)]][None]
    assert network.triplane(views).planes.shape == (1, 3, 12, 16, 16)


def test_reconstructor_does_not_depend_on_the_order_of_the_views():
    torch.manual_seed(0)
    network = Reconstructor(TINY).eval()
    views = ball_views(centre=(0.2, 0.1, 0), size=32)[None]
    planes = network.triplane(views).planes
    torch.testing.assert_close(network.triplane(views[:, [2, 0, 3, 1]]).planes, planes, atol=1e-5, rtol=1e-4)


def test_upsampler_keeps_rows_and_columns_in_place():
    torch.manual_seed(0)
    network = Reconstructor(dataclasses.replace(TINY, lift_side=0, depth=0)).eval()
    views = ball_views(size=32)[None]
    base = network.triplane(views).planes
    with torch.no_grad():
        network.tokens[0, 1 * 16 + 2 * 4 + 3] += torch.randn(32)  # plane 1 (xz), row 2, column 3
    changed = (network.triplane(views).planes - base).abs().amax((0, 2)) > 1e-6
    expected = torch.zeros(3, 16, 16, dtype=torch.bool)
    expected[1, 8:12, 12:16] = True
    assert torch.equal(changed, expected)


def test_carve_grid_finds_a_ball_where_it_is():
    centre = (0.35, -0.2, 0.1)
    volume = carve_grid(ball_views(0.4, centre, size=96)[None], 32)[0, 0]  # z, y, x
    line = (torch.arange(32) + 0.5) / 16 - 1
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    distance = (torch.stack([x, y, z], -1) - torch.tensor(centre)).norm(dim=-1)
    assert (volume[distance < 0.35] > 0.5).all(), "the hull contains the object"
    assert (volume[distance > 0.75] < 0.5).all(), "and not much more"


def test_carve_grid_moves_with_its_cameras():
    views = ball_views(0.4, (0.0, 0.0, 0.0), size=64)
    shift = torch.zeros(3, requires_grad=True)
    matrix = views.cameras.cam_to_world + torch.nn.functional.pad(shift[:, None], (3, 0, 0, 1))
    volume = carve_grid(dataclasses.replace(views, cameras=Cameras(matrix, views.cameras.intrinsics))[None], 32)[0]
    line = (torch.arange(32) + 0.5) / 16 - 1
    along_x = (volume[0] * line).sum() / volume[0].sum()
    (slope,) = torch.autograd.grad(along_x, shift, retain_graph=True)
    torch.testing.assert_close(slope, torch.tensor([1.0, 0.0, 0.0]), atol=0.05, rtol=0)
    (slope,) = torch.autograd.grad(volume[4].sum(), shift)  # of the colours' deviation, which is 0 in a white ball
    assert slope.isfinite().all()


def test_plane_unet_starts_with_the_hulls_extents():
    torch.manual_seed(0)
    network = Reconstructor(TINY)
    views = ball_views(0.5, (0.2, 0.1, -0.1), size=64)[None]
    planes = network.triplane(views).planes[0]
    volume = carve_grid(views, TINY.lift_side)
    bias = network.lift.to_planes.bias[:, None, None]
    for plane in range(3):
        torch.testing.assert_close(planes[plane, :11] - bias[:11], extents(volume, plane)[0])
        torch.testing.assert_close(planes[plane, 11:] - bias[11:], torch.zeros(1, 16, 16))


def test_extents_are_the_two_ends_of_a_ball():
    centre, radius = (0.4, -0.3, 0.1), 0.35
    volume = carve_grid(ball_views(radius, centre, size=128)[None], 48)
    for plane, (across, down) in enumerate(PLANE_AXES):
        (along,) = {0, 1, 2} - {across, down}
        ends = extents(volume, plane)[0]
        column, row = (round((centre[axis] + 1) * 24 - 0.5) for axis in (across, down))
        upper, lower = ends[0, row, column], ends[1, row, column]
        if along != 2:  # four views at 20 degrees show the sides, not the top
            assert abs(float(upper) - (centre[along] + radius)) < 0.12
            assert abs(float(lower) - (centre[along] - radius)) < 0.12
        assert lower < centre[along] < upper
        assert ends[0, 0, 0] == -1
        assert ends[1, 0, 0] == 1
        assert (ends[9, row, column] - centre[across]).abs() < 0.03
        assert (ends[10, row, column] - centre[down]).abs() < 0.03
        assert ends[3:9, row, column].min() > 0.95, "a white ball has white ends"


def test_network_that_was_saved_is_loaded_unchanged(tmp_path):
    torch.manual_seed(0)
    network = Reconstructor(TINY).eval()
    network.save_pretrained(tmp_path, dtype=torch.float32)
    views = ball_views(size=32)[None]
    again = Reconstructor.from_pretrained(tmp_path)
    assert torch.equal(again.triplane(views).planes, network.triplane(views).planes)


def test_network_refuses_a_checkpoint_of_another_model_or_a_damaged_one_by_name(tmp_path):
    Reconstructor(TINY).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in [
        ({"depth": 3}, "missing"),
        ({"model": "stage1"}, "stage1"),
        ({"colour": 3}, "colour"),
        ({"width": "3"}, "width"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            Reconstructor.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="safetensors"):
        Reconstructor.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        Reconstructor.from_pretrained(tmp_path / "..")
