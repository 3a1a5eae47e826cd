"""The judge against what it must not depend on, and its training on balls and bars that are easy to distinguish."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from data_prep.captions import recolour
from data_prep.procedural.colours import NAMED_COLOURS
from instant3d import scenes
from instant3d.cameras import turntable
from instant3d.cli import main as cli
from instant3d.evaluation import train_attribute_classifier
from instant3d.evaluation.attribute_classifier import (
    COLOURS,
    POOL,
    SIZE,
    AttributeClassifier,
    Prediction,
    parse_caption,
)
from instant3d.evaluation.train_attribute_classifier import UNKNOWN, AttributeExamples
from instant3d.views import Views

OBJECTS = ("ball", "bar")
BUNDLED = Path(__file__).parents[2] / "checkpoints" / "judge"


@pytest.fixture
def judge():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AttributeClassifier(OBJECTS).eval().requires_grad_(False)


def images(count: int = 3, size: int = SIZE) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def shapes(kind: str, colour: tuple[int, int, int], count: int = 6) -> Views:
    """A disc or a flat bar, a little larger in each view."""
    line = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    sizes = torch.linspace(0.45, 0.65, count)[:, None, None]
    high = 0.3 if kind == "bar" else 1.0
    inside = (line[None, None, :] / sizes) ** 2 + (line[None, :, None] / (sizes * high)) ** 2 < 1
    rgb = torch.tensor(colour)[:, None, None].expand(count, 3, SIZE, SIZE) / 255
    return Views(rgb, inside[:, None].float(), turntable(count))


@pytest.fixture
def folder(tmp_path):
    """Scenes of balls and bars in two colours, and of something that no judge is asked about."""
    for kind in OBJECTS:
        for colour in ("red", "blue"):
            views = shapes(kind, NAMED_COLOURS[colour])
            scenes.write(tmp_path / "scenes" / f"{kind}_1-{colour}", views, caption=f"a {colour} {kind}")
    scenes.write(tmp_path / "scenes" / "ball_2", shapes("ball", (1, 2, 3)), caption="a dark blue ball")
    scenes.write(tmp_path / "scenes" / "cloud", shapes("bar", (9, 9, 9)), caption="a grey cloud")
    return tmp_path / "scenes"


def test_colour_network_ignores_shape(judge):
    tiles = images().unfold(2, POOL, POOL).unfold(3, POOL, POOL).flatten(2, 3)
    order = torch.randperm(tiles.shape[2], generator=torch.Generator().manual_seed(1))
    shuffled = F.fold(tiles[:, :, order].movedim(2, -1).flatten(1, 3), (SIZE, SIZE), kernel_size=POOL, stride=POOL)
    assert not torch.allclose(shuffled, images())
    torch.testing.assert_close(judge(shuffled).colour, judge(images()).colour)
    assert not torch.allclose(judge(shuffled).object, judge(images()).object)


def test_object_network_ignores_hue(judge):
    turned = images()[:, [1, 2, 0]]
    torch.testing.assert_close(judge(turned).object, judge(images()).object)
    assert not torch.allclose(judge(turned).colour, judge(images()).colour)


def test_predictions_are_probabilities_for_images_of_any_size_and_arrangement(judge):
    prediction = judge(images(6, size=100).reshape(2, 3, 3, 100, 100))
    assert prediction.colour.shape == (2, 3, len(COLOURS))
    torch.testing.assert_close(prediction.object.exp().sum(-1), torch.ones(2, 3))


def test_mean_over_views_is_the_normalised_geometric_mean():
    one = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    together = Prediction(one.log(), one.log()).mean_over_views()
    odds = (9 * 1 * 0.25) ** (1 / 3)  # of the first against the second
    torch.testing.assert_close(together.colour.exp(), torch.tensor([odds / (1 + odds), 1 / (1 + odds)]))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red fire hydrant", ("red", "fire hydrant")),
        ("an orange  Hydrant", ("orange", "hydrant")),
        ("a hydrant", (None, "hydrant")),
        ("a dark red hydrant", (None, "hydrant")),
        ("a red hydrants", (None, None)),
        ("a red car", (None, None)),
    ],
)
def test_parse_caption_takes_the_longest_name_at_the_end(caption, expected):
    assert parse_caption(caption, COLOURS, ["hydrant", "fire hydrant"]) == expected


def test_classifier_colours_are_those_of_recolouring():
    assert COLOURS == recolour.COLOURS


def test_classifier_loaded_from_a_folder_predicts_the_same_with_its_names(judge, tmp_path):
    judge.accuracy = {"held_out_views": {"colour": 0.5}}
    judge.object_network[1].running_mean.fill_(0.1)
    judge.save(tmp_path / "judge")
    again = AttributeClassifier.from_pretrained(tmp_path / "judge")
    assert (again.objects, again.colours, again.accuracy) == (judge.objects, judge.colours, judge.accuracy)
    torch.testing.assert_close(again(images()).object, judge(images()).object, atol=5e-3, rtol=0)
    torch.testing.assert_close(again(images()).colour, judge(images()).colour, atol=5e-3, rtol=0)


def test_classifier_folder_that_is_invalid_is_refused_in_a_sentence(judge, tmp_path):
    with pytest.raises(FileNotFoundError, match="train-judge"):
        AttributeClassifier.from_pretrained(tmp_path)
    judge.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "objects": ["ball"]}))
    with pytest.raises(ValueError, match="holds no complete attribute classifier"):
        AttributeClassifier.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": "instant3d-judge-2"}))
    with pytest.raises(ValueError, match="instant3d-judge-1"):
        AttributeClassifier.from_pretrained(tmp_path)


def test_examples_come_from_scenes_by_captions_and_ids(folder):
    examples = train_attribute_classifier.load_examples([folder], OBJECTS)
    assert len(examples.object) == 5 * 6, "the cloud is left out"
    second = examples[examples.shape == 1]
    assert set(second.object.tolist()) == {0}
    assert set(second.colour.tolist()) == {UNKNOWN}, "dark blue is none of the ten"
    red_bars = examples[(examples.object == 1) & (examples.colour == COLOURS.index("red"))]
    assert red_bars.view.tolist() == [6, 5, 4, 3, 2, 1]
    middle = red_bars.over_white()[:, :, SIZE // 2, SIZE // 2] * 255
    torch.testing.assert_close(middle, torch.tensor(NAMED_COLOURS["red"]).float().expand(6, 3))
    assert red_bars.over_white()[:, :, 0].min() == 1


def test_examples_that_lack_an_object_are_an_error_that_names_it(folder):
    with pytest.raises(ValueError, match="has tree in its caption"):
        train_attribute_classifier.load_examples([folder], [*OBJECTS, "tree"])


def test_batches_have_a_rare_object_as_often_as_a_frequent_one():
    kinds = torch.tensor([0] * 90 + [1] * 10)
    examples = AttributeExamples(torch.zeros(100, 4, 1, 1), kinds, kinds, kinds, kinds)
    drawn = torch.cat(
        [b.object for b in train_attribute_classifier.batches(examples, 40, torch.Generator().manual_seed(0))]
    )
    assert drawn.double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_augment_keeps_empty_images_white_and_repeats_with_its_generator():
    empty = torch.zeros(8, 4, SIZE, SIZE, dtype=torch.uint8)
    white = train_attribute_classifier.augment(empty, torch.Generator().manual_seed(0))
    assert white.mean() > 0.97
    solid = torch.full((8, 4, SIZE, SIZE), 60, dtype=torch.uint8)
    solid[:, 3] = 255
    one, two, three = (
        train_attribute_classifier.augment(solid, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(one, two)
    assert (one - three).abs().max() > 0.1
    assert one.mean() < 0.6, "dark stays dark"


@pytest.mark.slow
def test_train_judge_reports_accuracy_on_held_out_views(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_attribute_classifier, "BATCH", 16)
    (tmp_path / "names.txt").write_text("\n".join(OBJECTS))
    command = ["train-judge", str(folder), "-o", str(tmp_path / "judge"), "--objects", str(tmp_path / "names.txt")]
    assert cli.main([*command, "--epochs", "50"]) == 0
    measured = json.loads((tmp_path / "judge" / "config.json").read_text())["accuracy"]
    assert measured["held_out_views"]["pictures"] == 5 * 3
    assert measured["held_out_views"]["object"] > 0.8
    assert measured["held_out_views"]["colour"] > 0.8
    assert "held-out views: colour" in capsys.readouterr().out


def test_train_leaves_out_a_held_out_shape_but_not_an_only_one(folder, monkeypatch):
    used = []
    monkeypatch.setattr(
        train_attribute_classifier, "fit", lambda examples, judge, **_: used.append(examples) or judge.eval()
    )
    judge = train_attribute_classifier.train([folder], OBJECTS, hold_out_shapes=True)
    (examples,) = used
    assert set(zip(examples.object.tolist(), examples.shape.tolist(), strict=True)) == {(0, 1), (1, 0)}
    assert examples.view.min() > train_attribute_classifier.HELD_VIEWS
    assert judge.accuracy["held_out_shapes"]["pictures"] == 2 * 6
    assert judge.accuracy["held_out_views"]["pictures"] == 3 * 3


def test_classifier_that_is_bundled_predicts_all_ten_colours_of_a_plain_disc():
    judge = AttributeClassifier.from_pretrained(BUNDLED)
    discs = torch.stack([shapes("ball", NAMED_COLOURS[colour]).composite(1.0)[0] for colour in COLOURS])
    assert judge(discs).colour.argmax(-1).tolist() == list(range(len(COLOURS)))


def test_classifier_that_is_bundled_is_small_and_has_the_listed_objects_and_its_accuracy():
    judge = AttributeClassifier.from_pretrained(BUNDLED)
    listed = (Path(__file__).parents[2] / "configs" / "prompts" / "judged_objects.txt").read_text().splitlines()
    assert list(judge.objects) == [line for line in listed if line and not line.startswith("#")]
    assert (BUNDLED / "model.safetensors").stat().st_size < 2**20
    assert judge.accuracy["held_out_views"]["object"] > 0.9
