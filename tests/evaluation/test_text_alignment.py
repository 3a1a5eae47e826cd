"""`evaluate text` against judges whose word is known beforehand, and from the command line on tiny weights."""

import json

import pytest
import torch
from sphere_network import sphere_network
from tiny_lora import lora_file
from tiny_sdxl import tiny_sdxl_folder
from torch.nn import functional as F

from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.cli import main as cli
from instant3d.evaluation import evaluated_assets, text_alignment
from instant3d.evaluation.attribute_classifier import COLOURS, AttributeClassifier, Prediction
from instant3d.evaluation.evaluated_assets import EvaluatedAsset
from instant3d.evaluation.view_cache import ViewRequest, view_requests
from instant3d.nerf.asset import Asset
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.views import Views

OBJECTS = ("chair", "boat")


class PixelClassifier(AttributeClassifier):
    """Predicts what an image encodes: red is the colour's number / 10, green the object's, blue the confidence."""

    def __init__(self) -> None:
        super().__init__(OBJECTS)

    def forward(self, images):
        colour, thing, confidence = (images[:, k, 0, 0] for k in range(3))

        def certain(number, count):
            return (F.one_hot((10 * number).round().long(), count) * 10 * confidence[:, None]).log_softmax(-1)

        return Prediction(certain(colour, len(COLOURS)), certain(thing, len(OBJECTS)))


def encoded(*each: tuple[str, str, float]) -> torch.Tensor:
    """Images (V, 3, 32, 32) for which the classifier predicts this."""
    levels = [(COLOURS.index(colour) / 10, OBJECTS.index(thing) / 10, confidence) for colour, thing, confidence in each]
    return torch.tensor(levels)[:, :, None, None].expand(-1, 3, 32, 32)


def result(prompt: str, renders: torch.Tensor, views: torch.Tensor | None = None) -> EvaluatedAsset:
    return EvaluatedAsset(ViewRequest(prompt, 0), views, torch.cat([renders] * 8)[:8], None)


def test_new_cameras_are_between_below_and_above_those_of_stage_1():
    new, old = evaluated_assets.new_cameras(), structured_cameras()
    directions, known = (F.normalize(cameras.positions, dim=-1) for cameras in (new, old))
    apart = torch.rad2deg(torch.acos((directions @ known.T).clamp(-1, 1)))
    assert apart.shape == (8, 4)
    assert apart.min() > 35
    elevations = torch.rad2deg(torch.asin(directions[:, 2]))
    assert elevations.min() < 10 < 30 < elevations.max()


def test_score_is_of_all_images_together_and_of_each_image():
    judge = PixelClassifier()
    uncertain = [("blue", "chair", 0.1), ("blue", "boat", 0.2), ("red", "boat", 0.9)]
    score = text_alignment.score(judge, "a red boat", judge(encoded(*uncertain)))
    assert score["colour"] == 1, "one confident image outweighs two others"
    assert (score["object"], score["both"]) == (1, 1)
    assert score["colour_per_picture"] == pytest.approx(1 / 3)
    assert score["object_per_picture"] == pytest.approx(2 / 3)
    assert text_alignment.predicted_names(judge, judge(encoded(*uncertain))) == ("red", "boat")


def test_classifier_metrics_are_over_assets_and_list_mistakes():
    red_boat, blue_boat = encoded(("red", "boat", 1)), encoded(("blue", "boat", 1))
    found = text_alignment.classifier_metrics(
        PixelClassifier(),
        [
            result("a red boat", red_boat, red_boat),
            result("a red chair", red_boat, red_boat),
            result("a green boat", blue_boat, red_boat),
            result("a green chair", blue_boat),
        ],
    )
    assert found["assets"] == 4
    assert (found["renders"]["colour"], found["renders"]["object"], found["renders"]["both"]) == (0.5, 0.5, 0.25)
    assert found["views"]["colour"] == pytest.approx(2 / 3), "one asset came without its views"
    assert found["confusions"]["colour"] == [{"asked": "green", "seen": "blue", "times": 2}]
    assert found["confusions"]["object"] == [{"asked": "chair", "seen": "boat", "times": 2}]
    assert [row["says"] for row in found["rows"]] == ["right", "red boat?", "blue boat?", "blue boat?"]


def test_lists_are_reported_apart_in_the_table_and_the_record(tmp_path, capsys):
    red_boat = encoded(("red", "boat", 1))
    lists = {
        "held_out": iter([result("a red chair", red_boat)]),
        "trained": iter([result("a red boat", red_boat, red_boat)]),
    }
    text_alignment.evaluate(lists, tmp_path, judge=PixelClassifier(), clips={}, settings={"seed": "0"})
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["lists"]["held_out"]["renders"]["object"] == 0
    assert written["lists"]["trained"]["renders"]["object"] == 1
    table = (tmp_path / "table.md").read_text()
    assert "| renders of the asset, new cameras | 100.0 | 0.0 | 0.0 | 100.0 | 0.0 |" in table.split("trained")[0]
    assert "| the four views given | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 |" in table.split("trained")[1]
    assert table in capsys.readouterr().out


class FakeClip:
    """A CLIP whose features are the first pixel's red of an image, and the length of a prompt."""

    logit_scale = 1.0

    def embed_images(self, images):
        return F.one_hot((images[..., 0, 0, 0] * 10).round().long(), 30).float()

    def embed_texts(self, prompts):
        return F.one_hot(torch.tensor([len(prompt) for prompt in prompts]), 30).float()


def test_clip_metrics_are_of_the_renders_and_join_the_assets_of_a_prompt(tmp_path):
    right, wrong = torch.full((8, 3, 32, 32), 0.5), torch.full((8, 3, 32, 32), 0.9)
    items = [result("12345", right), result("12345", wrong), result("1234567", wrong), result("1234567", wrong)]
    report = text_alignment.evaluate({"few": iter(items)}, tmp_path, judge=None, clips={"fake": FakeClip}, settings={})
    numbers = report["lists"]["few"]["clip"]["fake"]
    assert numbers["clip_score"] == pytest.approx(25.0)
    assert numbers["views"] == 16
    assert "| fake | 25.00 | 25.00 |" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_real_views_are_found_by_captions_and_rendered_from_new_cameras(tmp_path):
    views = Views(torch.full((4, 3, 32, 32), 0.2), torch.ones(4, 1, 32, 32), structured_cameras())
    scenes.write(tmp_path / "one", views, caption="a red boat")
    model = ViewsTo3D(sphere_network())
    (found,) = evaluated_assets.from_real_views(tmp_path, [ViewRequest("a red boat", 5)], model, 32)
    torch.testing.assert_close(found.views, views.composite(1.0), atol=1 / 255, rtol=0)
    expected = model(views).render(evaluated_assets.new_cameras(), 32).composite(1.0)
    torch.testing.assert_close(found.renders, expected.clamp(0, 1), atol=0.02, rtol=0)
    with pytest.raises(FileNotFoundError, match="a red chair"):
        list(evaluated_assets.from_real_views(tmp_path, [ViewRequest("a red chair", 5)], model, 32))


@pytest.mark.slow
def test_assets_in_a_folder_are_found_by_their_prompts_each_once(tmp_path):
    model = ViewsTo3D(sphere_network())
    views = Views(torch.full((4, 3, 32, 32), 0.2), torch.ones(4, 1, 32, 32), structured_cameras())
    for name in ("0001", "0002"):
        model(views, resolution=24).save(tmp_path / name, formats=())
        (tmp_path / name / "result.json").write_text(json.dumps({"prompt": "a red boat"}))
    scenes.write(tmp_path / "0002" / "views", views)
    first, second = evaluated_assets.from_folder(tmp_path, view_requests(["a red boat"], each=2), 32)
    assert first.views is None
    assert second.views is not None
    torch.testing.assert_close(
        first.renders, Asset.load(tmp_path / "0001").render(evaluated_assets.new_cameras(), 32).composite(1.0)
    )
    with pytest.raises(FileNotFoundError, match="a blue boat"):
        list(evaluated_assets.from_folder(tmp_path, view_requests(["a blue boat"]), 32))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Tiny stages, and an untrained judge, as the command's options."""
    place = tmp_path_factory.mktemp("weights")
    tiny_sdxl_folder(place / "stage1")
    sphere_network().save_pretrained(place / "stage2")
    AttributeClassifier(OBJECTS).eval().save(place / "judge")
    return ["--stage1", str(place / "stage1"), "--stage2", str(place / "stage2"), "--device", "cpu", "--batch", "2"], [
        "--judge",
        str(place / "judge"),
    ]


def prompts(tmp_path, *lines: str) -> str:
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return str(tmp_path / "list.txt")


@pytest.mark.slow
def test_evaluate_text_goes_from_prompts_to_a_table_and_does_not_sample_twice(weights, tmp_path, capsys):
    file = prompts(tmp_path, "a red boat", "a blue chair", "a green boat")
    command = ["evaluate", "text", "--prompts", file, "-o", str(tmp_path / "out"), *weights[0], *weights[1]]
    command += ["--steps", "2", "--limit", "2", "--n", "2"]
    assert cli.main(command) == 0
    assert "4 of 4 grids" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [row["seed"] for row in written["lists"]["list"]["rows"]] == [0, 1, 2, 3]
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert cli.main(command) == 0
    assert "grids" not in capsys.readouterr().out
    again = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert again["lists"]["list"]["rows"] == written["lists"]["list"]["rows"]
    assert cli.main([*command, "--lora", f"{lora_file(tmp_path / 'a.safetensors', 1.0)}:0.5"]) == 0
    assert "4 of 4 grids" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "views").iterdir())) == 2


@pytest.mark.slow
def test_evaluate_text_refuses_prompts_without_classes_before_sampling(weights, tmp_path, capsys):
    file = prompts(tmp_path, "a red boat", "a shiny dragon")
    command = ["evaluate", "text", "--prompts", file, "-o", str(tmp_path / "out"), *weights[0], *weights[1]]
    assert cli.main(command) == 2
    message = capsys.readouterr().err.strip()
    assert "'a shiny dragon'" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_evaluate_consistency_measures_every_setting(weights, tmp_path, capsys):
    file = prompts(tmp_path, "a red boat", "a blue chair")
    command = ["evaluate", "consistency", "--prompts", file, "-o", str(tmp_path / "out"), *weights[0]]
    assert cli.main([*command, "--steps", "1,2", "--starts", "blob,noise"]) == 0
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [len(numbers["assets"]) for numbers in written["settings"].values()] == [2] * 4
    assert cli.main([*command, "--starts", "blob,triangle"]) == 2
    assert "triangle" in capsys.readouterr().err
