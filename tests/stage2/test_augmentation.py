"""Cropping and augmentation of views: what stays at its place in the world, and what moves."""

import torch
from balls import CENTRE, position_coloured_ball

from instant3d.cameras import orbit, random_sphere, structured_cameras
from instant3d.stage2.augmentation import (
    ViewSampling,
    augment_colors,
    augment_inputs,
    crop_windows,
    elastic_warp,
    rotate_about_z,
)
from instant3d.views import Views


def position_error(views):
    """How far the colours of `position_coloured_ball` are from where depth and camera put each pixel."""
    rays = views.cameras.rays(views.height, views.width)
    forward = (rays.directions * views.cameras.cam_to_world[..., None, None, :3, 2]).sum(-1)
    surface = rays.at((views.depth[..., 0, :, :] / forward)[..., None])[..., 0, :]
    inside = torch.nn.functional.avg_pool2d(views.alpha.flatten(0, -4), 5, 1, 2).reshape(views.alpha.shape) > 0.999
    return ((2 * views.rgb - 1).movedim(-3, -1) - surface).norm(dim=-1)[inside[..., 0, :, :]]


def test_crop_windows_keeps_colours_at_their_place_in_the_world():
    views = position_coloured_ball(random_sphere(6, torch.Generator().manual_seed(0)), size=128)
    cut = crop_windows(views, ViewSampling(patch=48, zoom=(64, 128)), torch.Generator().manual_seed(1))
    assert cut.rgb.shape == (6, 3, 48, 48)
    assert position_error(cut).median() < 0.02
    wrong = Views(cut.rgb, cut.alpha, views.cameras, cut.depth)
    assert position_error(wrong).median() > 0.1, "the test would see cameras that do not follow"


def test_rotate_about_z_rotates_points_with_cameras():
    views = position_coloured_ball(structured_cameras())
    quarter = rotate_about_z(views, 90.0)
    where, _ = views.cameras.project(CENTRE.expand(4, 1, 3))
    again, _ = quarter.cameras.project(torch.stack([-CENTRE[1], CENTRE[0], CENTRE[2]]).expand(4, 1, 3))
    torch.testing.assert_close(where, again)
    torch.testing.assert_close(quarter.cameras.cam_to_world[0], structured_cameras().cam_to_world[1], atol=1e-5, rtol=0)


def test_crop_windows_with_foreground_shows_the_object():
    views = position_coloured_ball(orbit([0.0] * 8, 0.0), size=128)
    drawing = ViewSampling(patch=16, zoom=(128, 128), foreground_probability=1.0)
    cut = crop_windows(views, drawing, torch.Generator().manual_seed(0))
    assert (cut.alpha[:, 0, 8, 8] > 0.5).all()


def test_camera_jitter_gives_valid_cameras():
    views = position_coloured_ball(structured_cameras())
    matrix = augment_inputs(views, 0.05, 0.0, torch.Generator().manual_seed(0)).cameras.cam_to_world
    rotation = matrix[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(4, 3, 3), atol=1e-5, rtol=0)
    assert (matrix - views.cameras.cam_to_world).abs().amax() > 0.01


def test_elastic_warp_by_zero_changes_nothing():
    image = torch.rand(2, 4, 16, 16)
    torch.testing.assert_close(elastic_warp(image, torch.zeros(2, 2, 6, 6)), image)
    assert (elastic_warp(image, 0.02 * torch.randn(2, 2, 6, 6)) - image).abs().max() > 0.01


def test_elastic_warp_by_a_constant_shifts_the_image():
    image = torch.rand(1, 1, 16, 16)
    shift = torch.zeros(1, 2, 6, 6)
    shift[:, 0] = 2 / 16  # in widths; a pixel is 1 / 16
    torch.testing.assert_close(elastic_warp(image, shift)[..., :-2], image[..., 2:], atol=1e-4, rtol=0)


def test_augment_inputs_warps_a_share_of_the_images_and_leaves_the_others_alone():
    views = position_coloured_ball(structured_cameras())[torch.arange(4).repeat(50)]
    found = augment_inputs(views, 0.0, 0.15, torch.Generator().manual_seed(0))
    changed = (found.rgb != views.rgb).flatten(1).any(1) | (found.alpha != views.alpha).flatten(1).any(1)
    assert 15 < int(changed.sum()) < 45  # 30 of 200 are expected, give or take 5


def grey_ramps(count):
    """Views of one image, whose channels are ramps from 0.3 to 0.7, without any transparent pixel."""
    ramp = torch.linspace(0.3, 0.7, 64).expand(count, 3, 64, 64)
    return Views(ramp, torch.ones(count, 1, 64, 64), random_sphere(count, torch.Generator().manual_seed(0)))


def test_color_jitter_is_another_gain_and_offset_of_each_channel_of_each_view():
    views = grey_ramps(200)
    found = augment_colors(views, 0.05, 0.0, torch.Generator().manual_seed(0)).rgb
    gain = (found[..., 0, -1] - found[..., 0, 0]) / 0.4  # (V, 3), of the ramp from 0.3 to 0.7
    offset = found[..., 0, 0] - 0.3 * gain
    torch.testing.assert_close(found, views.rgb * gain[..., None, None] + offset[..., None, None], atol=1e-5, rtol=0)
    for drawn, mean in ((gain, 1.0), (offset, 0.0)):
        assert abs(float(drawn.mean()) - mean) < 0.01
        assert abs(float(drawn.std()) - 0.05) < 0.005


def test_color_noise_has_its_deviation_is_smooth_and_differs_between_views():
    views = grey_ramps(50)
    noise = augment_colors(views, 0.0, 0.04, torch.Generator().manual_seed(0)).rgb - views.rgb
    assert 0.02 < float(noise.std()) < 0.045
    assert noise.diff(dim=-1).std() < 0.5 * noise.std()
    correlation = torch.corrcoef(noise.flatten(1))
    assert (correlation - torch.eye(50)).abs().max() < 0.2


def test_augment_colors_without_deviations_draws_nothing():
    views, generator = grey_ramps(2), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert augment_colors(views, 0.0, 0.0, generator) is views
    assert torch.equal(generator.get_state(), before)
