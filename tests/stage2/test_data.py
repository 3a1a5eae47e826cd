"""Examples of stage 2: random draws are reproducible, and cameras follow every change to an image."""

import pytest
import torch

from instant3d import scenes
from instant3d.cameras import Cameras, orbit, random_sphere, structured_cameras
from instant3d.stage2.augmentation import ViewSampling, augment_inputs, crop_windows, elastic_warp, rotate_about_z
from instant3d.stage2.data import EvalDataset, ResumableBatchSampler, TrainDataset, scenes_for
from instant3d.views import Views

BALL = torch.tensor([0.3, -0.2, 0.15])


def ball_views(cameras, size=64, radius=0.4):
    """A ball coloured by the world position of its surface: colour c stands at 2c - 1."""
    rays = cameras.rays(size, size)
    to_centre = BALL - rays.origins
    along = (to_centre * rays.directions).sum(-1)
    square = radius**2 - (to_centre.square().sum(-1) - along**2)
    distance = along - square.clamp(min=0).sqrt()
    surface = rays.at(distance[..., None])[..., 0, :]
    alpha = (square > 0).float()[..., None, :, :]
    forward = (rays.directions * cameras.cam_to_world[..., None, None, :3, 2]).sum(-1)
    depth = (distance * forward)[..., None, :, :] * alpha
    return Views(((surface + 1) / 2).movedim(-1, -3).clamp(0, 1), alpha, cameras, depth)


def position_error(views):
    """How far the colours of `ball_views` are from where depth and camera put each pixel."""
    rays = views.cameras.rays(views.height, views.width)
    forward = (rays.directions * views.cameras.cam_to_world[..., None, None, :3, 2]).sum(-1)
    surface = rays.at((views.depth[..., 0, :, :] / forward)[..., None])[..., 0, :]
    inside = torch.nn.functional.avg_pool2d(views.alpha.flatten(0, -4), 5, 1, 2).reshape(views.alpha.shape) > 0.999
    return ((2 * views.rgb - 1).movedim(-3, -1) - surface).norm(dim=-1)[inside[..., 0, :, :]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for k in range(3):
        cameras = Cameras.cat([structured_cameras(), random_sphere(6, torch.Generator().manual_seed(k))])
        scenes.write(root / f"ball{k}", ball_views(cameras, radius=0.2 + 0.1 * k), object_id=f"ball{k}")
    return root


def test_crop_windows_keeps_colours_at_their_place_in_the_world():
    views = ball_views(random_sphere(6, torch.Generator().manual_seed(0)), size=128)
    cut = crop_windows(views, ViewSampling(patch=48, zoom=(64, 128)), torch.Generator().manual_seed(1))
    assert cut.rgb.shape == (6, 3, 48, 48)
    assert position_error(cut).median() < 0.02
    wrong = Views(cut.rgb, cut.alpha, views.cameras, cut.depth)
    assert position_error(wrong).median() > 0.1, "the test would see cameras that do not follow"


def test_rotate_about_z_rotates_points_with_cameras():
    views = ball_views(structured_cameras())
    quarter = rotate_about_z(views, 90.0)
    where, _ = views.cameras.project(BALL.expand(4, 1, 3))
    again, _ = quarter.cameras.project(torch.stack([-BALL[1], BALL[0], BALL[2]]).expand(4, 1, 3))
    torch.testing.assert_close(where, again)
    torch.testing.assert_close(quarter.cameras.cam_to_world[0], structured_cameras().cam_to_world[1], atol=1e-5, rtol=0)


def test_crop_windows_with_foreground_shows_the_object():
    views = ball_views(orbit([0.0] * 8, 0.0), size=128)
    drawing = ViewSampling(patch=16, zoom=(128, 128), foreground_probability=1.0)
    cut = crop_windows(views, drawing, torch.Generator().manual_seed(0))
    assert (cut.alpha[:, 0, 8, 8] > 0.5).all()


@pytest.mark.slow
def test_training_example_depends_on_its_index_and_seed_alone(folder):
    def supply(seed):
        return TrainDataset(scenes_for("train", [folder]), 32, ViewSampling(patch=16, zoom=(32, 64)), seed)

    first, again = supply(0)[7], supply(0)[7]
    assert torch.equal(first.targets.rgb, again.targets.rgb)
    assert not torch.equal(first.targets.rgb, supply(0)[8].targets.rgb)
    assert not torch.equal(first.targets.rgb, supply(1)[7].targets.rgb)


def test_epoch_shows_every_scene_once(folder):
    supply = TrainDataset(
        scenes_for("train", [folder]),
        32,
        ViewSampling(structured_probability=1.0, random_rotation=False, patch=16, zoom=(32, 64)),
    )
    for epoch in range(2):
        sizes = {round(float(supply[3 * epoch + k].inputs.alpha.mean()), 3) for k in range(3)}
        assert len(sizes) == 3


def test_sampler_shares_examples_between_processes_without_overlap_and_resumes():
    def taken(start, batches, rank):
        stream = iter(ResumableBatchSampler(batch_size=2, start=start, rank=rank, world=2))
        return [number for _ in range(batches) for number in next(stream)]

    assert sorted(taken(0, 3, 0) + taken(0, 3, 1)) == list(range(12))
    assert taken(0, 3, 1)[4:] == taken(2, 1, 1)


def test_eval_examples_hide_every_view_that_is_no_input(folder):
    example = EvalDataset(scenes_for("test", [folder]), 32)[0]
    assert len(example.inputs.rgb) == 4
    assert len(example.targets.rgb) == 6
    torch.testing.assert_close(
        example.inputs.cameras.cam_to_world, structured_cameras().cam_to_world, atol=1e-5, rtol=0
    )


def test_downsampled_inputs_have_no_detail_that_half_as_many_pixels_could_not_hold(folder):
    def alpha(coarse):
        drawing = ViewSampling(
            structured_probability=1.0, random_rotation=False, patch=0, downsample_probability=coarse
        )
        return TrainDataset([folder / "ball2"], 64, drawing)[0].inputs.alpha

    sharp, coarse = alpha(0.0), alpha(1.0)
    assert ((sharp > 0.01) & (sharp < 0.99)).sum() == 0  # a ball without any soft edge
    assert ((coarse > 0.01) & (coarse < 0.99)).sum() > 200
    halves = [torch.nn.functional.avg_pool2d(each, 2) for each in (sharp, coarse)]
    assert (halves[0] - halves[1]).abs().mean() < 0.02


def test_camera_jitter_gives_valid_cameras():
    views = ball_views(structured_cameras())
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
    views = ball_views(structured_cameras())[torch.arange(4).repeat(50)]
    found = augment_inputs(views, 0.0, 0.15, torch.Generator().manual_seed(0))
    changed = (found.rgb != views.rgb).flatten(1).any(1) | (found.alpha != views.alpha).flatten(1).any(1)
    assert 15 < int(changed.sum()) < 45  # 30 of 200 are expected, give or take 5


def test_scenes_for_names_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        scenes_for("train", [tmp_path])
