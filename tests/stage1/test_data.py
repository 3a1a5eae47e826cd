"""Order of training examples, and the share of the prompts that each process samples."""

import pytest
import torch
from balls import write_balls
from tiny_sdxl import tiny_sdxl_folder

from instant3d import scenes
from instant3d.stage1 import cache, cache_builder
from instant3d.stage1.cache import LatentCache
from instant3d.stage1.data import GridDataModule
from instant3d.stage1.favored_names import with_favored_names
from instant3d.stage1.prompt_batches import read_prompt_batch, unfinished
from instant3d.utils.data_order import WeightedMixture


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    return write_balls(tmp_path_factory.mktemp("balls"))


@pytest.fixture(scope="module")
def cached(balls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached")
    cache_builder.build_cache([balls], tiny_sdxl_folder(folder / "model"), folder / "cache", report=lambda line: None)
    return folder / "cache"


def test_epoch_shows_each_item_as_often_as_its_weight_says():
    mixture = WeightedMixture([3, 4, 5], [1, 2, 0.4], seed=1)
    epoch = 3 + 8 + 2
    for first in range(0, 5 * epoch, epoch):
        shown = [mixture(number) for number in range(first, first + epoch)]
        assert sorted(item for item in shown if item[0] == 0) == [(0, 0), (0, 1), (0, 2)]
        assert sorted(item for item in shown if item[0] == 1) == sorted([(1, k) for k in range(4)] * 2)
    rare = [mixture(number) for number in range(5 * epoch) if mixture(number)[0] == 2]
    assert sorted(rare) == sorted([(2, k) for k in range(5)] * 2), "ten places in five epochs: each of five twice"


def test_epochs_are_shuffled_by_the_seed():
    def order(seed, epoch):
        return [WeightedMixture([50], seed=seed)(50 * epoch + k)[1] for k in range(50)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != sorted(order(0, 0))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_source_weights_that_are_useless_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights|sources"):
        WeightedMixture([3, 4], weights)


@pytest.mark.slow
def test_batch_depends_on_seed_and_index_alone(cached):
    def batch(**settings):
        data = GridDataModule([str(cached)], batch_size=2, workers=0, **settings)
        return next(iter(data.train_dataloader()))

    assert torch.equal(batch().mean, batch().mean)
    assert batch().example_index.tolist() == [0, 1]
    assert not all(torch.equal(batch().mean, batch(seed=seed).mean) for seed in range(1, 9))


@pytest.mark.slow
def test_grids_from_scenes_equal_those_from_the_cache(cached, balls):
    one, two = (
        next(iter(GridDataModule([str(source)], size=64, batch_size=3, workers=0).train_dataloader()))
        for source in (cached, balls)
    )
    assert one.example_index.tolist() == two.example_index.tolist()
    names = [cache.LatentCache(cached).grids[WeightedMixture([3])(number)[1]]["caption"] for number in range(3)]
    assert list(two.prompts) == names
    assert two.grids.shape == (3, 3, 64, 64)
    corner, middle = two.grids[..., 0, 0], two.grids[..., 16, 16]
    assert (corner == 1).all(), "white around the object"
    assert [int(colour.argmax()) for colour in middle] == [("red", "green", "blue").index(n.split()[1]) for n in names]


@pytest.mark.slow
def test_training_on_caches_and_scenes_at_once_is_refused(cached, balls):
    with pytest.raises(ValueError, match="not on both"):
        GridDataModule([str(cached), str(balls)], workers=0).train_dataloader()


def test_source_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GridDataModule([str(tmp_path / "nowhere")], workers=0).train_dataloader()
    with pytest.raises(ValueError, match=r"data\.train"):
        GridDataModule(workers=0).train_dataloader()


def test_data_with_keep_holds_its_ids_alone(cached, tmp_path):
    (tmp_path / "keep.txt").write_text("green\n")
    data = GridDataModule([str(cached)], keep=str(tmp_path / "keep.txt"), batch_size=4, workers=0)
    batch = next(iter(data.train_dataloader()))
    whole = cache.LatentCache(cached)
    green = whole.item([grid["id"] for grid in whole.grids].index("green"), 0)
    assert all(torch.equal(mean, green.mean) for mean in batch.mean)


PROMPTS = "a red ball\n\n# not a prompt\na bad\x07one\n../../etc/passwd\nÉlan vital\n" + "x" * 5000 + "\na red ball\n"


def captions(sources, mixture, count):
    shown = [mixture(number) for number in range(count)]
    return [sources[which].grids[sources[which].rows[index]]["caption"] for which, index in shown]


@pytest.mark.slow
def test_favored_names_make_up_their_share_each_as_often_as_another(tmp_path):
    write_balls(tmp_path / "scenes", prefix="one-")
    for k, caption in enumerate(["a cube", "a blue cube", "a huge blue cube", "the cubes"]):
        scene = scenes.read(tmp_path / "scenes" / "one-red")
        scenes.write(tmp_path / "scenes" / f"two-{k}", scene.views, caption=caption)
    cache_builder.build_cache(
        [tmp_path / "scenes"], tiny_sdxl_folder(tmp_path / "model"), tmp_path / "cache", report=lambda line: None
    )
    sources, weights = with_favored_names([LatentCache(tmp_path / "cache")], [8.0], ["ball", "cube"], 0.6)
    mixture = WeightedMixture([len(source) for source in sources], weights)
    shown = captions(sources, mixture, sum(mixture.shares))
    # 7 grids 8 times each are 40% of 140; 30%, which is 42, are shared by two cubes, and 42 by three balls
    assert len(shown) == 140
    assert [shown.count(f"a {colour} ball") for colour in ("red", "blue", "green")] == [8 + 42 // 3] * 3
    assert [shown.count(caption) for caption in ("a cube", "a blue cube")] == [8 + 42 // 2] * 2
    assert [shown.count(caption) for caption in ("a huge blue cube", "the cubes")] == [8, 8]


def test_favored_name_in_no_caption_is_warned_of_and_the_others_share_its_part(cached):
    with pytest.warns(UserWarning, match=r"1 of 2 names .* 'teapot'; the others"):
        sources, weights = with_favored_names([LatentCache(cached)], None, ["ball", "teapot"], 0.5)
    extra = sum(weight * len(source) for weight, source in zip(weights[1:], sources[1:], strict=True))
    assert extra == pytest.approx(len(LatentCache(cached)))  # half of all examples


def test_favored_names_in_no_caption_at_all_change_nothing(cached):
    with pytest.warns(UserWarning, match="2 of 2"):
        _, weights = with_favored_names([LatentCache(cached)], [3.0], ["kettle", "teapot"], 0.5)
    assert weights == [3.0]


def test_prompt_that_is_invalid_does_not_renumber_the_others(tmp_path):
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    wanted, faults = read_prompt_batch(tmp_path / "prompts.txt", seed=100)
    assert [one.prompts[0] for one in wanted] == ["a red ball", "../../etc/passwd", "Élan vital", "a red ball"]
    assert [one.seeds[0] for one in wanted] == [100, 102, 103, 105]
    assert [one.names[0] for one in wanted] == [
        "00000-a-red-ball", "00002-etc-passwd", "00003-elan-vital", "00005-a-red-ball",
    ]  # fmt: skip
    assert len(faults) == 2
    assert "line 4" in faults[0]
    assert "5,000 characters" in faults[1]


def test_prompt_that_is_finished_is_sampled_again_only_if_its_text_changed(balls, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ball\na green ball\na blue ball\n")
    wanted, _ = read_prompt_batch(tmp_path / "prompts.txt")
    for one, ball in zip(wanted[:2], ("red", "blue"), strict=True):
        views = scenes.read(balls / ball).views
        scenes.write(tmp_path / "out" / one.names[0], views, caption=f"a {ball} ball")
    assert [one.prompts[0] for one in unfinished(wanted, tmp_path / "out")] == ["a green ball", "a blue ball"]
