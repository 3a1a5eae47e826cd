"""Features of the input views at every point: what they hold, where views count, and the fields and files with them."""

import balls
import pytest
import torch
from torch import nn

from instant3d.cameras import structured_cameras
from instant3d.nerf.asset import FILE, Asset
from instant3d.nerf.baked_field import bake, grid_density
from instant3d.nerf.quarter_turns import turned
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField
from instant3d.nerf.triplane_file import read_triplane, write_triplane
from instant3d.nerf.view_maps import ViewMaps, sample_weights
from instant3d.stage2.visual_hull_input import carve_views


@pytest.fixture(scope="module")
def ball_maps():
    """Maps (1, 4) whose channels are the colours of a ball, each c of which stands at 2c - 1 on its surface."""
    views = balls.position_coloured_ball(structured_cameras(), size=128)[None]
    return ViewMaps(views.rgb * views.alpha, carve_views(views, 64).weight_volume, views.cameras)


def on_ball(*azimuths_deg, radius=0.4):
    """Points (1, N, 3) on the equator of the ball."""
    angle = torch.deg2rad(torch.tensor(azimuths_deg))
    return balls.CENTRE + radius * torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=-1)[None]


def test_view_maps_have_at_a_surface_point_the_colour_of_the_pixels_that_show_it(ball_maps):
    points = on_ball(*range(0, 360, 10))
    found = ball_maps.sample(points)[0]
    assert (2 * found[:, :3] - 1 - points[0]).abs().mean() < 0.03
    assert found[:, 3:].max() < 0.01, "the views that show a point agree"


def test_view_maps_leave_out_views_that_the_ball_hides_a_point_from(ball_maps):
    points = on_ball(*range(0, 360, 15))
    weight = sample_weights(ball_maps.weight, points)[0]  # (V, N)
    outward = nn.functional.normalize(points[0] - balls.CENTRE, dim=-1)
    toward = nn.functional.normalize(ball_maps.cameras.positions[0][:, None] - points, dim=-1)
    cosine = (toward * outward).sum(-1)
    torch.testing.assert_close(weight.sum(0), torch.ones(points.shape[1]))
    assert weight[cosine < -0.3].max() < 0.1
    assert weight[cosine > 0.95].min() > 0.6


def decoder_and_triplane():
    """A decoder that reads maps of two channels, and a triplane with random ones."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    decoder = Decoder(DecoderConfig(4, 16, 3, view_channels=2))
    nn.init.normal_(decoder.from_views.weight)
    maps, weight = torch.rand(4, 2, 16, 16, generator=generator), torch.rand(4, 6, 6, 6, generator=generator)
    planes = torch.randn(3, 4, 8, 8, generator=generator)
    return decoder.requires_grad_(False), Triplane(planes, ViewMaps(maps, weight, structured_cameras()))


POINTS = 1.6 * torch.rand(300, 3, generator=torch.Generator().manual_seed(3)) - 0.8


def test_decoder_with_view_maps_is_one_linear_layer_over_planes_mean_and_variance():
    decoder, triplane = decoder_and_triplane()
    samples = [
        nn.functional.grid_sample(plane[None], POINTS[None, None][..., list(axes)], align_corners=False)[0, :, 0].T
        for plane, axes in zip(triplane.planes, [(0, 1), (0, 2), (1, 2)], strict=True)
    ]
    shown = triplane.view_maps[None].sample(POINTS[None])[0]
    whole = nn.Linear(3 * 4 + 2 * 2, 16)
    whole.weight.data, whole.bias.data = (
        torch.cat([decoder.first.weight, decoder.from_views.weight], 1),
        decoder.first.bias,
    )
    state = whole(torch.cat([*samples, shown], dim=-1)).relu()
    for layer in decoder.hidden:
        state = layer(state).relu()
    raw = decoder.last(state)
    density, rgb = TriplaneField(triplane, decoder)(POINTS)
    torch.testing.assert_close(density, nn.functional.softplus(raw[:, 0] - 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rgb, raw[:, 1:].sigmoid() * 1.002 - 0.001, rtol=1e-4, atol=1e-4)


def test_baked_field_with_view_maps_equals_the_field_at_points_and_on_a_grid():
    decoder, triplane = decoder_and_triplane()
    field = TriplaneField(triplane, decoder)
    baked = bake(field, exact=True)
    for found, expected in zip(baked(POINTS), field(POINTS), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    axis = torch.linspace(-0.9, 0.9, 7)
    nodes = torch.cartesian_prod(axis, axis, axis)
    torch.testing.assert_close(grid_density(baked, axis).flatten(), field.density(nodes), rtol=1e-4, atol=1e-4)


def test_triplane_file_with_view_maps_gives_the_same_field_again(tmp_path):
    decoder, triplane = decoder_and_triplane()
    write_triplane(triplane, decoder, tmp_path / "a.safetensors")
    stored, again = read_triplane(tmp_path / "a.safetensors")
    assert torch.equal(stored.view_maps.cameras.cam_to_world, triplane.view_maps.cameras.cam_to_world)
    expected = TriplaneField(triplane, decoder)(POINTS)
    for found, wanted in zip(TriplaneField(stored, again)(POINTS), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


def test_triplane_file_without_its_view_maps_is_one_sentence(tmp_path):
    decoder, triplane = decoder_and_triplane()
    write_triplane(Triplane(triplane.planes), decoder, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="other tensors than its metadata"):
        read_triplane(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="reads 2 channels of the views"):
        TriplaneField(Triplane(triplane.planes), decoder)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_asset_with_view_maps_is_the_same_field_at_turned_points(quarters):
    decoder, triplane = decoder_and_triplane()
    rotation = torch.linalg.matrix_power(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), quarters)
    before = Asset(triplane, decoder)
    after = turned(before, quarters)
    for found, expected in zip(after.field(POINTS @ rotation.T), before.field(POINTS), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def colour_copying_decoder():
    """A dense ball of radius 0.4 by its blob, in the mean colour c of the views: sigmoid(4 c - 2) is c, within 0.02."""
    decoder = Decoder(DecoderConfig(1, 3, 2, density="exp", view_channels=3, blob=40.0, blob_radius=0.4))
    with torch.no_grad():
        decoder.from_views.weight.copy_(torch.eye(3, 6))
        decoder.last.weight.copy_(torch.cat([torch.zeros(1, 3), 4 * torch.eye(3)]))
        decoder.last.bias.copy_(torch.tensor([0.0, -2, -2, -2]))
    return decoder.requires_grad_(False)


def test_stored_asset_with_view_maps_is_meshed_in_the_colours_of_the_views(tmp_path):
    views = balls.position_coloured_ball(structured_cameras(), size=128, centre=torch.zeros(3))[None]
    maps = ViewMaps(views.rgb * views.alpha, carve_views(views, 32).weight_volume, views.cameras)
    triplane = Triplane(torch.zeros(3, 1, 8, 8), maps[0])
    write_triplane(triplane, colour_copying_decoder(), tmp_path / FILE)
    asset = Asset.load(tmp_path)
    asset.resolution = 32
    mesh = asset.mesh()
    places = torch.from_numpy(mesh.vertices).float()
    level = places[:, 2].abs() < 0.15
    error = (2 * torch.as_tensor(mesh.colors) - 1 - places)[level].abs()
    assert (places.norm(dim=-1) - 0.4).abs().max() < 0.05
    assert error.mean() < 0.05
