"""Prompts and cameras of training: published ranges, uniform draws, resuming, two processes."""

from itertools import islice

import pytest
import torch

from instant3d.cameras import Cameras, orbit
from instant3d.direct.data import (
    OrbitCameras,
    PromptDataModule,
    PromptDataset,
    TrainingBatch,
    collate_prompts,
    named_prompts,
)
from instant3d.direct.guidance.configs import StableDiffusionConfig

COUNT = 2000


def seen(cameras):
    """Azimuth from the front, elevation, radius and field of view of cameras (N,), by their matrices alone."""
    x, y, z = cameras.cam_to_world[:, :3, 3].double().unbind(-1)
    radius = (x**2 + y**2 + z**2).sqrt()
    azimuth = torch.rad2deg(torch.atan2(x, -y))  # the front faces -y, and the right side, 90, is +x
    fov = 2 * torch.rad2deg(torch.atan(0.5 / cameras.intrinsics[:, 0].double()))
    return azimuth, torch.rad2deg(torch.asin(z / radius)), radius, fov


def drawn(orbits, count=COUNT, prompts=7, **settings):
    examples = PromptDataset(prompts, orbits, **settings)
    return TrainingBatch.stack([examples[number] for number in range(count)])


@pytest.mark.slow
def test_orbit_cameras_are_uniform_over_the_papers_ranges_in_our_units():
    azimuth, elevation, radius, fov = seen(drawn(OrbitCameras()).cameras)
    # polar angles of 25 to 110 degrees, radii of 3.0 to 3.6 in a box of 3.5
    spans = [(azimuth, -180, 180), (elevation, 90 - 110, 90 - 25), (radius, 12 / 7, 14.4 / 7), (fov, 70, 80)]
    for values, low, high in spans:
        part = ((values - low) / (high - low)).sort().values
        assert part[0] > -1e-4
        assert part[-1] < 1 + 1e-4
        # Kolmogorov and Smirnov: even values leave this band once in some 10^5 times
        assert (part - torch.linspace(0, 1, COUNT)).abs().max() < 2.5 / COUNT**0.5


def test_orbit_cameras_look_at_the_origin_upright():
    cameras = drawn(OrbitCameras(), 50).cameras
    image, depth = cameras.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1]]).expand(50, 2, 3))
    torch.testing.assert_close(image[:, 0], torch.full((50, 2), 0.5), atol=1e-5, rtol=0)
    assert (depth > 0).all()
    assert (image[:, 1, 1] < 0.5).all(), "up in the world is up in the image"


@pytest.mark.slow
def test_orbit_cameras_give_quadrants_their_shares():
    azimuth, *_ = seen(drawn(OrbitCameras(quadrants=(0.4, 0.2, 0.2, 0.2))).cameras)
    front = azimuth.abs() < 45
    right, left, back = (azimuth > 45) & (azimuth < 135), (azimuth < -45) & (azimuth > -135), azimuth.abs() > 135
    shares = [float(part.double().mean()) for part in (front, left, right, back)]
    assert shares == pytest.approx([0.4, 0.2, 0.2, 0.2], abs=0.05)
    only, *_ = seen(drawn(OrbitCameras(quadrants=(0.0, 1.0, 0.0, 0.0)), 50).cameras)
    assert ((only < -45) & (only > -135)).all()


def test_guidance_cameras_are_all_used_and_no_others():
    known = orbit([0.0, 90.0, 180.0], 10.0)
    found = drawn(known, 300).cameras
    apart = (found.cam_to_world[:, None] - known.cam_to_world).abs().amax((-1, -2))
    assert (apart.amin(1) == 0).all()
    assert torch.bincount(apart.argmin(1), minlength=3).min() > 70


def test_epoch_shows_every_prompt_once_in_a_new_order():
    order = drawn(OrbitCameras(), 21).prompts.view(3, 7)
    assert (order.sort().values == torch.arange(7)).all()
    assert len({tuple(epoch) for epoch in order.tolist()}) > 1


def test_views_of_a_prompt_are_neighbours_in_the_batch():
    found = drawn(OrbitCameras(), 42, views=3)
    assert (found.prompts.view(14, 3) == found.prompts[::3, None]).all()
    assert (found.prompts[::3].view(2, 7).sort().values == torch.arange(7)).all()
    assert len(found.cameras.cam_to_world.flatten(1).unique(dim=0)) == 42
    with pytest.raises(ValueError, match="multiple"):
        PromptDataModule(batch_size=4, views=3)


def test_example_is_a_function_of_the_seed_and_its_index():
    one, two, other = (
        PromptDataset(7, OrbitCameras(), seed=1),
        PromptDataset(7, OrbitCameras(), seed=1),
        PromptDataset(7, OrbitCameras(), seed=2),
    )
    for number in (5, 40, 5):
        assert torch.equal(one[number].cameras.cam_to_world, two[number].cameras.cam_to_world)
        assert one[number].prompts == two[number].prompts
        assert not torch.equal(one[number].cameras.cam_to_world, other[number].cameras.cam_to_world)


class Standing:
    """Stands in for a trainer in the middle of a run."""

    accumulate_grad_batches = 1

    def __init__(self, step=0, rank=0, world=1):
        self.global_step, self.global_rank, self.world_size = step, rank, world


class FixedCameras(StableDiffusionConfig):
    """A guidance that has cameras of its own."""

    def cameras(self):
        return orbit([30.0], 5.0)


def batches(count, batch_size, guidance=None, **standing):
    data = PromptDataModule(["a ball", "a box", "a cone"], batch_size=batch_size, guidance=guidance)
    data.trainer = Standing(**standing)
    data.setup("fit")
    return list(islice(data.train_dataloader(), count))


def test_resume_continues_with_the_batch_at_which_training_stopped():
    for whole, again in zip(batches(6, 4)[4:], batches(2, 4, step=4), strict=True):
        assert torch.equal(whole.example_index, again.example_index)
        assert torch.equal(whole.cameras.cam_to_world, again.cameras.cam_to_world)


def test_ddp_processes_share_the_examples_of_one():
    whole = batches(3, 4)
    parts = [batches(3, 2, rank=rank, world=2) for rank in (0, 1)]
    for one, *two in zip(whole, *parts, strict=True):
        both = TrainingBatch.cat(two)
        assert torch.equal(one.example_index, both.example_index)
        assert torch.equal(one.prompts, both.prompts)
        assert torch.equal(one.cameras.cam_to_world, both.cameras.cam_to_world)


def test_guidance_cameras_replace_drawn_ones():
    known = orbit([30.0], 5.0)
    found = batches(1, 4, FixedCameras())[0].cameras
    assert isinstance(found, Cameras)
    assert torch.equal(found.cam_to_world, known.cam_to_world.expand(4, 4, 4))


def test_held_out_prompts_are_for_validation_and_test():
    data = PromptDataModule("portraits", share=0.6, val_prompts=5)
    data.setup("fit")
    shown = [prompt for batch in data.test_dataloader() for prompt in batch.prompts]
    assert (len(data.texts), len(shown)) == (192, 128)
    assert not set(shown) & set(data.texts)
    assert [prompt for batch in data.val_dataloader() for prompt in batch.prompts] == shown[:5]
    other = PromptDataModule("portraits", val=["a boat"])
    other.setup("fit")
    assert [batch.prompts for batch in other.val_dataloader()] == [("a boat",)]
    with pytest.raises(ValueError, match="no prompts to test with"):
        other.test_dataloader()


def test_predict_takes_only_prompts_without_a_triplane_and_reports_invalid_ones(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("a red boat\na \x07 bell\na blue boat\n")
    (tmp_path / "out").mkdir()
    data = PromptDataModule(str(tmp_path / "list.txt"), output=str(tmp_path / "out"))
    (first,) = data.predict_dataloader()
    assert first.prompts == ("a red boat", "a blue boat")
    assert "list.txt line 2" in capsys.readouterr().err
    assert len(data.faults) == 1
    (tmp_path / "out" / f"{first.names[0]}.safetensors").touch()
    (left,) = data.predict_dataloader()
    assert left.prompts == ("a blue boat",)
    assert left.names == first.names[1:]


def test_prompt_names_differ_where_prompts_do():
    names = collate_prompts(named_prompts(["a boat", "a boat!", "a bòat"])).names
    assert names == ("00000-a-boat", "00001-a-boat", "00002-a-boat")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": (2.0, 1.0)}, "radius of cameras is a range"),
        ({"quadrants": (0.0, 0.0, 0.0, 0.0)}, "four shares"),
        ({"quadrants": (1.0, -1.0, 1.0, 1.0)}, "four shares"),
    ],
)
def test_orbit_cameras_refuse_empty_ranges(settings, message):
    with pytest.raises(ValueError, match=message):
        OrbitCameras(**settings)
