"""Examples of stage 2: random draws are reproducible, and cameras follow every change to an image."""

import dataclasses
from itertools import islice

import pytest
import torch
from balls import position_coloured_ball

from instant3d import scenes
from instant3d.cameras import Cameras, random_sphere, structured_cameras
from instant3d.stage2.augmentation import ViewSampling
from instant3d.stage2.data import EvalDataset, ResumableBatchSampler, SceneDataModule, TrainDataset, scenes_for

COARSE = ViewSampling(patch=16, zoom=(16, 16), coarse_steps=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for k in range(3):
        cameras = Cameras.cat([structured_cameras(), random_sphere(6, torch.Generator().manual_seed(k))])
        scenes.write(root / f"ball{k}", position_coloured_ball(cameras, radius=0.2 + 0.1 * k), object_id=f"ball{k}")
    return root


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


def test_coarse_steps_have_windows_of_half_the_side_and_as_much_in_them(folder):
    data = SceneDataModule([str(folder)], image_size=32, batch_size=2, workers=0, view_sampling=COARSE)
    batches = iter(data.train_dataloader())
    sides, shares = zip(*[(b.targets.width, float(b.targets.alpha.mean())) for b in islice(batches, 6)], strict=True)
    assert sides == (8, 8, 8, 16, 16, 16)
    data.view_sampling = dataclasses.replace(COARSE, coarse_steps=0)
    fine = [float(b.targets.alpha.mean()) for b in islice(iter(data.train_dataloader()), 3)]
    assert shares[:3] == pytest.approx(fine, abs=0.03), "the same part of each view, at half its resolution"


def test_coarse_steps_without_windows_are_refused():
    with pytest.raises(ValueError, match="windows"):
        ViewSampling(patch=0, coarse_steps=10)


def test_scenes_for_names_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        scenes_for("train", [tmp_path])
