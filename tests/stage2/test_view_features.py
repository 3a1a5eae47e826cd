"""Image features of the input views, where they are sampled, and the planes that are written from them."""

import dataclasses

import balls
import pytest
import torch
from torch import nn

from instant3d.cameras import Cameras, structured_cameras
from instant3d.nerf.asset import Asset
from instant3d.nerf.view_maps import mean_and_variance
from instant3d.nerf.visual_hull import sample_images, sample_views
from instant3d.stage2 import visual_hull_input
from instant3d.stage2.data import ReconstructionBatch
from instant3d.stage2.module import LossWeights, RayMarching, Stage2Module
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.stage2.plane_unet import PlaneUNet
from instant3d.stage2.view_features import ViewFeatures
from instant3d.stage2.visual_hull_input import AxisProfiles, carve_views, end_points, extents

TINY = Architecture(
    image_size=32, encoder="plucker", encoder_width=32, encoder_depth=1, encoder_heads=2, patch=16, width=32, depth=1,
    heads=2, token_side=4, plane_side=16, channels=12, decoder_width=16, decoder_layers=3, lift_side=16, lift_width=16,
)  # fmt: skip
SHARP = dataclasses.replace(
    TINY, plane_side=32, lift_features=3, surface_features=2, pixel_features=2, density="laplace"
)


class Colours(nn.Module):
    """Stands for `ViewFeatures`: the colours themselves."""

    def sample(self, views, points):
        return sample_views(views, points)[..., :3]


def test_sample_images_reads_the_pixel_that_the_pinhole_equation_names():
    line = (torch.arange(64) + 0.5) / 64
    image = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64)])[None, None]  # each pixel holds (u, v)
    cameras = Cameras(torch.eye(4)[None, None], torch.tensor([[[1.2, 0.9, 0.5, 0.45]]]))
    x, y, z = 0.3, -0.2, 2.0
    found = sample_images(image, cameras, torch.tensor([[[x, y, z], [x, y, -z], [9.0, 0, z]]]))[0, 0]
    torch.testing.assert_close(found[0], torch.tensor([1.2 * x / z + 0.5, 0.9 * y / z + 0.45]))
    assert not found[1:].any(), "behind the camera and outside the frame there is nothing"


def test_mean_and_variance_are_torchs_and_leave_out_views_without_weight():
    features = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0])[None, :, None].expand(2, -1, 5)
    found = mean_and_variance(features, weight)
    torch.testing.assert_close(found[..., :3], features[:, :3].mean(1))
    torch.testing.assert_close(found[..., 3:], features[:, :3].var(1, unbiased=False))


def ball():
    """Structured views (1, 4) of a ball whose colour c stands at 2c - 1 on its surface."""
    return balls.position_coloured_ball(structured_cameras(), size=128)[None]


def test_features_at_the_ends_of_columns_are_those_of_the_pixels_that_show_them():
    read = AxisProfiles(8, 64, surface=3)
    read.surface = Colours()
    grid = carve_views(ball(), 64)
    _, ends = read(ball(), grid)
    found = read._at_ends(ball(), grid, ends)[0].unflatten(1, (2, 6))[:, :, :3]  # planes, ends, mean
    for plane in (1, 2):  # four views show the sides, not the top
        points = end_points(ends[:, plane], plane)[0]  # (2, H, W, 3)
        near = (points - balls.CENTRE).norm(dim=-1) < 0.43
        level = ((points - balls.CENTRE)[..., 2].abs() < 0.2) & near
        assert level.sum() > 50
        error = (2 * found[plane].movedim(1, -1) - 1 - points)[level].abs()
        assert error.mean() < 0.05
    empty = ends[0, :, 0] < ends[0, :, 1]
    assert not found.movedim(2, -1)[empty[:, None].expand(-1, 2, -1, -1)].any()


def test_lifted_features_are_those_of_the_pixels_that_show_a_cell_and_end_with_the_hull():
    read, views = AxisProfiles(8, 48, lifted=3), ball()
    read.lifted = Colours()
    grid = carve_views(views, 48)
    lifted = read._lift(views, grid)[0].flatten(1)  # (6, cells)
    offset = grid.points - balls.CENTRE
    shell = ((offset.norm(dim=-1) - 0.37).abs() < 0.02) & (offset[:, 2].abs() < 0.15)
    occupancy = grid.volume[0, 0].flatten()[shell]  # of cells on a silhouette a half
    error = (2 * (lifted[:3, shell] / occupancy).T - 1 - grid.points[shell]).abs()
    assert shell.sum() > 100
    assert error.mean() < 0.06
    assert not lifted[:, offset.norm(dim=-1) > 0.75].any()


def test_end_points_lie_on_the_ball_that_was_carved():
    grid = carve_views(ball(), 64)
    for plane in (1, 2):
        ends = extents(grid.volume, plane)
        points = end_points(ends, plane)[0][:, ends[0, 0] > ends[0, 1]] - balls.CENTRE
        level = points[points[..., 2].abs() < 0.1]
        assert (level.norm(dim=-1) - 0.4).abs().mean() < 0.04


def test_planes_of_twice_the_side_are_a_pixel_shuffle_of_four_times_the_channels():
    torch.manual_seed(0)
    lift = PlaneUNet(16, 16, 32, 12, factor=2)
    nn.init.normal_(lift.to_planes.weight)
    kept = []
    lift.to_planes.register_forward_hook(lambda module, inputs, output: kept.append(output))
    views = balls.position_coloured_ball(structured_cameras(), size=32)[None]
    tokens, maps = lift.encode(views, carve_views(views, 16))
    planes = lift.decode(tokens, maps)
    assert planes.shape == (3, 12, 32, 32)
    for channel, row, column in [(11, 0, 0), (11, 1, 0), (11, 30, 17)]:  # the one channel without extents
        part = 4 * channel + 2 * (row % 2) + column % 2
        torch.testing.assert_close(planes[:, channel, row, column], kept[0][:, part, row // 2, column // 2])


def test_view_features_depend_on_a_window_of_their_view_alone():
    torch.manual_seed(0)
    network, views = ViewFeatures(4), balls.position_coloured_ball(structured_cameras(), size=32)[None]
    before = network(views)
    changed = views.rgb.clone()
    changed[0, 1, :, 16, 16] += 1
    after = network(dataclasses.replace(views, rgb=changed, alpha=views.alpha))
    moved = (after != before).any(2)[0]
    assert before.shape == (1, 4, 4, 32, 32)
    assert not moved[[0, 2, 3]].any()
    rows, columns = moved[1].nonzero().T
    assert len(rows) > 0
    assert int((rows - 16).abs().max()) <= 7
    assert int((columns - 16).abs().max()) <= 7


@pytest.mark.parametrize("off", ["lift_features", "surface_features", "pixel_features"])
def test_image_features_without_a_visual_hull_are_refused(off):
    with pytest.raises(ValueError, match="lift_side"):
        dataclasses.replace(TINY, lift_side=0, **{off: 4})


def test_architecture_with_every_switch_is_saved_loaded_trained_and_made_an_asset(tmp_path):
    torch.manual_seed(0)
    network = Reconstructor(SHARP).eval()
    nn.init.normal_(network.decoder.from_views.weight)
    network.save_pretrained(tmp_path / "weights", dtype=torch.float32)
    again = Reconstructor.from_pretrained(tmp_path / "weights")
    assert again.architecture == SHARP
    views = balls.position_coloured_ball(structured_cameras(), size=32)[None]
    planes = network.triplane(views)
    assert torch.equal(again.triplane(views).planes, planes.planes)
    assert planes.planes.shape == (1, 3, 12, 32, 32)
    points = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    density, rgb = network(views)(points)
    (density.sum() + rgb.sum()).backward()
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert unused == []
    asset = Asset(planes[0].map(torch.detach), network.decoder)
    assert asset.render(structured_cameras()[:1], 16).rgb.isfinite().all()


def test_training_step_with_every_switch_has_a_finite_gradient_by_every_weight():
    torch.manual_seed(0)
    module = Stage2Module(
        dataclasses.replace(SHARP, local_attention=True),
        ray_marching=RayMarching(8, 8),
        loss_weights=LossWeights(perceptual=0, mask=1, depth=0.1, opacity=0.1, gradient=0.5, eikonal=0.1),
        vgg_weights=None,
        checkpointing=True,
    )
    nn.init.normal_(module.network.decoder.from_views.weight, std=0.1)
    module.log = module.log_dict = lambda *args, **kwargs: None  # there is no trainer
    views = balls.position_coloured_ball(structured_cameras(), size=32)[None]
    loss = module.training_step(ReconstructionBatch(views, views), 0)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in module.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert module.network.pixels.fine.weight.grad.abs().max() > 0


def test_default_architecture_has_no_new_weights():
    names = set(Reconstructor(TINY).state_dict())
    assert not [
        name
        for name in names
        if "lifted" in name or "surface" in name or "pixels" in name or "from_views" in name or "log_beta" in name
    ]


def test_carve_views_of_the_hulls_own_cells_gives_the_volume_and_the_weights_of_all_cells_there():
    views = ball()
    full, own = carve_views(views, 48), carve_views(views, 48, everywhere=False)
    torch.testing.assert_close(own.volume, full.volume, atol=1e-6, rtol=0)
    inside = full.volume[:, :1].flatten(2) > 0
    assert 0.01 < inside.float().mean() < 0.5
    torch.testing.assert_close(own.weight * inside, full.weight * inside, atol=1e-6, rtol=0)
    assert (own.weight.masked_select(~inside) == 0.25).all()  # of four views


def test_carve_views_projects_the_cells_as_the_cameras_do():
    views = ball()
    grid = carve_views(views, 8)
    expected, depth = views.cameras.project(grid.points.expand(1, 4, -1, 3))
    found, along = visual_hull_input._project(views.cameras, grid.points)
    torch.testing.assert_close(torch.stack(found, -1), expected, atol=0, rtol=0)  # a rounding moves a cell's pixel
    torch.testing.assert_close(along, depth, atol=0, rtol=0)
