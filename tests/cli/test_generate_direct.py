"""`instant3d generate --system direct` and `evaluate text --system direct` as a user meets them: whole runs on a tiny
network that answers a ball to every prompt, in colours of the prompt's and the seed's own."""

import hashlib
import json
import shutil
from pathlib import Path

import direct_runs
import numpy as np
import pytest
import torch
from ball_network import BALL, RADIUS, ball_network, direct_folder
from safetensors.torch import load_file, save_file

from instant3d.cameras import orbit, structured_cameras
from instant3d.cli import main as cli
from instant3d.direct.training_record import TrainingRecord
from instant3d.evaluation import evaluated_assets, text_alignment
from instant3d.evaluation.attribute_classifier import AttributeClassifier
from instant3d.evaluation.view_cache import ViewRequest, view_requests
from instant3d.modules import clip
from instant3d.modules.diffusion.prompt_tokens import PromptEncoder
from instant3d.nerf.asset import Asset
from instant3d.pipelines import results
from instant3d.pipelines.direct_generator import DirectGenerator
from instant3d.pipelines.text_to_3d import DirectTextTo3D, TextTo3D
from instant3d.utils import visualization

MESH_PARTS = ("surface", "simplify", "unwrap", "texture", "write")
MADE = {"mesh.glb", "triplane.safetensors", "turntable.mp4", "turntable.webp", "sheet.png"}
RED, BLUE = direct_runs.PROMPTS


@pytest.fixture(autouse=True)
def small_images(monkeypatch) -> None:
    """Films and sheets of a few small images: what is tested here is not their size."""
    monkeypatch.setattr("instant3d.pipelines.results.SMALLEST", 16)
    monkeypatch.setattr("instant3d.pipelines.results.LARGEST", 16)
    monkeypatch.setattr("instant3d.pipelines.results.FRAMES", 8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return direct_folder(tmp_path_factory.mktemp("weights") / "direct")


@pytest.fixture(scope="module")
def model(weights) -> DirectTextTo3D:
    return DirectTextTo3D.from_pretrained(weights)


@pytest.fixture
def make(capsys, weights, tmp_path):
    """Runs the command into tmp_path/out, quickly; what is given comes after the usual options and beats them."""

    def run(*arguments: object, out: Path = tmp_path / "out") -> tuple[int, str, str]:
        usual = ["-o", out, "--system", "direct", "--direct", weights, "--device", "cpu"]
        usual += ["--resolution", 24, "--texture", 64]
        code = cli.main([str(argument) for argument in ["generate", *usual, *arguments]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def planes(folder: Path) -> torch.Tensor:
    return load_file(folder / "triplane.safetensors")["planes"]


def error_message(err: str) -> str:
    (line,) = [line for line in err.splitlines() if "error:" in line]
    assert "--debug" not in line
    return line


@pytest.mark.slow
def test_generate_direct_writes_a_folder_of_results_without_views(make, weights, tmp_path):
    code, out, err = make(RED, "--formats", "glb,ply", "--seed", 5)
    assert (code, out.count("\n")) == (0, 1)
    assert err.splitlines() == ["instant3d: the prompt: generating the triplanes", "instant3d: the prompt: building"]
    assert set(names(tmp_path / "out")) == {*MADE, "mesh.ply", "result.json"}
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["prompt"], result["seed"], result["system"]) == (RED, 5, "direct")
    assert set(result["files"]) == {*MADE, "mesh.ply"}
    assert set(result["seconds"]) == {"load", "text", "network", *MESH_PARTS, "video"}
    files = {path.relative_to(weights).as_posix(): path for path in weights.rglob("*.safetensors")}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert len(hashes) == 2, "the network and its text encoder"
    assert result["weights"]["direct"] == {"name": str(weights), "sha256": hashes}
    vertices = Asset.load(tmp_path / "out").surface.vertices
    assert abs(np.linalg.norm(vertices, axis=1) - RADIUS).max() < 0.03  # the blob's


@pytest.mark.slow
def test_mesh_has_two_nodes_a_texel_unless_a_resolution_is_given(capsys, weights, tmp_path):
    (side,) = {planes.shape[-1] for planes in DirectTextTo3D.from_pretrained(weights)(RED).triplane.planes}
    command = ["generate", RED, "--system", "direct", "--direct", str(weights), "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["resolution"] == 2 * side
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert "is finished with the same settings" in capsys.readouterr().err


@pytest.mark.slow
def test_sheet_shows_the_asset_around_from_the_front_and_no_input(model, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(visualization, "write_contact_sheet", lambda rows, *_, **__: sheets.append(rows))
    maker = DirectGenerator(direct_folder(tmp_path / "weights"), device="cpu")
    watch = results.Stopwatch()
    draft = maker.sample([BLUE], [3], watch, lambda *_: None)[0]
    made = maker.finish(draft, BLUE, 3, 24, tmp_path, watch)
    results.write(tmp_path, made.asset, made.shown, size=24, formats=[], watch=watch)
    ((seen, _, normals),) = sheets
    front = orbit([270.0], 20.0)
    torch.testing.assert_close(seen.images[:1], made.asset.render(front, 24, step=results.VIDEO_STEP).composite(1.0))
    assert list(seen.captions) == ["front", "", "side", "", "back", "", "side", ""]
    assert "normals" in normals.title
    middle = (normals.images[0, :, 12, 12] * 2 - 1)[1]
    assert middle < -0.8, "the front of the ball faces -y"


@pytest.mark.slow
def test_seed_gives_the_noise_of_its_own_generator_in_every_batch(model, weights):
    text = model.encode([RED, BLUE])
    together = model.sample(text, [4, 9]).planes
    alone = model.sample(model.encode([BLUE]), [9]).planes
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)
    noise = torch.randn(1, BALL.noise_width, generator=torch.Generator().manual_seed(9))
    network = ball_network()
    network.load_state_dict({key: value.float() for key, value in load_file(weights / "model.safetensors").items()})
    encoder = PromptEncoder.from_pretrained(weights)
    torch.testing.assert_close(alone, network.triplane(encoder([BLUE]), noise).planes)
    torch.testing.assert_close(model.sample(text, [None] * 2).planes, network.triplane(encoder([RED, BLUE])).planes)
    other = model.sample(model.encode([BLUE]), [10]).planes
    assert (other - alone).abs().max() > 1e-3


@pytest.mark.slow
def test_generate_many_gives_the_assets_of_single_calls(model):
    many = model.generate_many([RED, BLUE])
    for number, (prompt, asset) in enumerate(zip([RED, BLUE], many, strict=True)):
        one = model(prompt, seed=number)
        torch.testing.assert_close(asset.triplane.planes, one.triplane.planes, atol=1e-5, rtol=1e-4)
    first, second = (asset.render(structured_cameras()[:1], 16).rgb for asset in many)
    assert (first - second).abs().max() > 0.02, "prompts have colours of their own"


def test_asset_keeps_its_decoder_when_the_network_is_changed(weights):
    model = DirectTextTo3D.from_pretrained(weights)
    asset, inside = model(RED), torch.zeros(1, 3)
    before = asset.field.density(inside)
    model.network.decoder.last.bias.fill_(-1e4)
    assert torch.equal(asset.field.density(inside), before)


@pytest.mark.slow
def test_seeds_each_have_a_folder_and_give_the_same_asset_alone(make, tmp_path):
    assert make(RED, "--n", 2, "--seed", 9)[0] == 0
    assert names(tmp_path / "out") == ["001-a-red-ball-10", "001-a-red-ball-9"]
    make(RED, "--seed", 10, out=tmp_path / "alone")
    first, second, alone = (
        planes(folder) for folder in (*sorted((tmp_path / "out").iterdir(), reverse=True), tmp_path / "alone")
    )
    torch.testing.assert_close(second, alone, atol=2e-3, rtol=2e-3)  # of half precision
    assert (first - second).abs().max() > 0.01


@pytest.mark.slow
def test_resume_generates_again_only_by_another_seed_or_other_weights(make, tmp_path, monkeypatch):
    make(RED, BLUE)
    with monkeypatch.context() as patch:
        patch.setattr(DirectTextTo3D, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
        code, out, err = make(RED, BLUE)
        assert (code, out, err.count("is finished with the same settings")) == (0, "", 2)
        copy = direct_folder(tmp_path / "copy")
        assert make(RED, BLUE, "--direct", copy)[1] == "", "the same weights in another place"
    assert make(RED, BLUE, "--seed", 1)[1].count("\n") == 2
    network = ball_network()
    network.outward.bias.add_(0.1)
    network.save_pretrained(copy)
    assert make(RED, BLUE, "--seed", 1, "--direct", copy)[1].count("\n") == 2


@pytest.mark.slow
def test_resume_takes_a_record_of_the_other_system_for_no_finished_asset(make, tmp_path):
    make(RED)
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    (tmp_path / "out" / "result.json").write_text(json.dumps({**record, "system": "two-stage"}))
    assert make(RED)[1].count("\n") == 1


@pytest.mark.slow
def test_prompt_too_long_is_reported_with_the_words_that_are_cut(make):
    code, _, err = make("a red ball " * 4 + "of tin")
    (note,) = [line for line in err.splitlines() if "note:" in line]
    assert (code, note.endswith("of tin'")) == (0, True)


@pytest.mark.parametrize(
    "option",
    [
        *(["--steps", 3], ["--guidance", 2], ["--rescale", 0], ["--sampler", "ddim"], ["--start", "noise"]),
        *(["--negative", "blue"], ["--stage1", "x"], ["--stage2", "x"], ["--system", "two-stage"]),
    ],
)
def test_options_of_the_other_system_are_refused_not_ignored(make, tmp_path, option):
    code, out, err = make(RED, *option)
    assert (code, out) == (2, "")
    named = "--direct" if "--system" in option else option[0]
    assert f"{named} belongs to the" in error_message(err)
    assert names(tmp_path) == []


def altered(weights: Path, place: Path, change) -> Path:
    change(Path(shutil.copytree(weights, place)))
    return place


def halved(file: str):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:2000])


def without_numbers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: torch.full_like(value, torch.nan) for name, value in tensors.items()}, folder / "model.safetensors"
    )


CHANGES = {
    "text encoder lost": (lambda folder: shutil.rmtree(folder / "text_encoder"), "has no text_encoder/"),
    "tokenizer lost": (lambda folder: shutil.rmtree(folder / "tokenizer"), "has no tokenizer/"),
    "weights lost": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "config lost": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "network cut": (halved("model.safetensors"), "not a whole safetensors file"),
    "encoder cut": (halved("text_encoder/model.safetensors"), "not a whole safetensors file"),
    "config broken": (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    "another network": (
        lambda folder: (folder / "config.json").write_text('{"model": "direct", "channels": 12, "last_groups": 1}'),
        "does not hold the network",
    ),
    "nothing but NaN": (without_numbers, "not finite"),
    "record of nonsense": (
        lambda folder: (folder / "config.json").write_text(
            json.dumps({**json.loads((folder / "config.json").read_text()), "taught": {"steps": "many"}})
        ),
        "steps must be int",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_damaged_are_one_sentence_and_leave_nothing(make, weights, tmp_path, change):
    broken = altered(weights, tmp_path / "broken", CHANGES[change][0])
    code, out, err = make(RED, "--direct", broken)
    assert (code, out) == (2, "")
    assert CHANGES[change][1] in error_message(err)
    assert names(tmp_path) == ["broken"]


def test_weights_folders_given_for_each_other_are_reported_with_the_right_option(make, weights, tmp_path):
    stage1, stage2, alien = (tmp_path / name for name in ("stage1", "stage2", "alien"))
    for folder, file, content in (
        (stage1, "model_index.json", {"_class_name": "StableDiffusionXLPipeline"}),
        (stage2, "config.json", {"model": "stage2"}),
        (alien, "config.json", {"model": "dragon"}),
    ):
        folder.mkdir()
        (folder / file).write_text(json.dumps(content))
    for given, message in ((stage1, "use it as --stage1"), (stage2, "use it as --stage2"), (alien, "a dragon model")):
        assert message in error_message(make(RED, "--direct", given)[2])
    assert "neither a checkpoint folder nor a Hub id" in error_message(make(RED, "--direct", tmp_path / "nowhere")[2])
    for stages in ((weights, stage2), (stage1, weights)):
        with pytest.raises(ValueError, match=r"holds the direct system.* use it as --direct"):
            TextTo3D.from_pretrained(*stages)


def test_text_encoder_of_another_length_is_refused_before_it_reads(weights):
    encoder = PromptEncoder.from_pretrained(weights)
    encoder.tokenizer.model_max_length = 12
    with pytest.raises(ValueError, match="reads 8 tokens of 16 numbers, but the text encoder gives 12 of 16"):
        DirectTextTo3D(ball_network(), encoder)


def test_views_per_prompt_are_iterations_times_batch_over_prompts():
    assert TrainingRecord(39375, 96, 1890).views_per_prompt == 2000  # what the paper's curves reach on its Animals
    assert TrainingRecord(10, 3, 60).views_per_prompt == 0.5
    with pytest.raises(ValueError, match="at least one prompt"):
        TrainingRecord(10, 3, 0)


def written(tmp_path, name: str, *lines: str) -> Path:
    (tmp_path / name).write_text("\n".join(lines))
    return tmp_path / name


@pytest.fixture
def measure(capsys, tmp_path, monkeypatch):
    """Runs `evaluate text` on small renders by an untrained judge."""
    monkeypatch.setattr(evaluated_assets, "SIZE", 32)
    monkeypatch.setattr(text_alignment, "CLIP_SIZE", 32)
    AttributeClassifier(["ball"]).eval().save(tmp_path / "judge")

    def run(*arguments: object) -> tuple[int, dict, str, str]:
        usual = ["-o", tmp_path / "out", "--system", "direct", "--judge", tmp_path / "judge", "--device", "cpu"]
        code = cli.main([str(argument) for argument in ["evaluate", "text", *usual, *arguments]])
        captured = capsys.readouterr()
        report = json.loads((tmp_path / "out" / "metrics.json").read_text()) if code == 0 else {}
        return code, report, captured.out, captured.err

    return run


@pytest.mark.slow
def test_evaluation_reports_training_prompts_and_held_out_ones_apart_with_the_cost(measure, tmp_path):
    eyes = direct_runs.clip_folder(tmp_path / "clip")
    folder = direct_folder(tmp_path / "direct", TrainingRecord(100, 8, 4, str(eyes)))
    held_out = written(tmp_path, "held_out.txt", "a green ball")
    known = written(tmp_path, "known.txt", RED, BLUE)
    code, report, out, err = measure(
        "--direct", folder, "--prompts", held_out, "--train-prompts", known, "--clip", eyes, "--n", 2
    )
    assert code == 0
    assert [len(report["lists"][name]["rows"]) for name in ("held_out", "known")] == [2, 4]
    assert [report["lists"][name]["trained"] for name in ("held_out", "known")] == [False, True]
    numbers = [report["lists"][name]["clip"][str(eyes)] for name in ("held_out", "known")]
    assert [(each["prompts"], each["views"], each["among"]) for each in numbers] == [(1, 16, 3), (2, 16, 3)]
    assert report["taught"]["views_per_prompt"] == 200
    assert "100 steps of 8 images for 4 prompts: 200 views per prompt" in out
    assert "| held_out (held out), 2 assets" in out
    assert "| known (trained on), 4 assets" in out
    assert f"{eyes} was used in training too" in err
    assert "steps" not in report["settings"], "there is no denoising"


@pytest.mark.slow
def test_assets_are_rendered_as_one_by_one_and_batches_change_nothing(model):
    wanted = view_requests([RED, BLUE, "a green ball"], seed=3)
    batched = list(evaluated_assets.from_direct(model, wanted, 2, 24))
    assert [result.request for result in batched] == wanted
    for result in batched:
        one = (
            model(result.request.prompt, seed=result.request.seed)
            .render(evaluated_assets.new_cameras(), 24)
            .composite(1.0)
        )
        torch.testing.assert_close(result.renders, one.clamp(0, 1), atol=0.02, rtol=0)
        assert result.views is None


def test_prompt_is_refused_that_is_held_out_and_trained_on(measure, weights, tmp_path):
    lists = ["--prompts", written(tmp_path, "a.txt", RED), "--train-prompts", written(tmp_path, "b.txt", BLUE, RED)]
    code, _, _, err = measure("--direct", weights, *lists)
    assert code == 2
    assert "'a red ball'" in error_message(err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--real", "x"], ["--steps", "3"], ["--stage2", "x"]])
def test_evaluation_of_the_direct_system_refuses_options_of_the_stages(measure, weights, tmp_path, option):
    code, _, _, err = measure("--direct", weights, "--prompts", written(tmp_path, "a.txt", RED), *option)
    assert code == 2
    assert f"{option[0]} belongs to the two-stage system" in error_message(err)


@pytest.mark.slow
def test_evaluation_ignores_views_that_another_system_left_beside_an_asset(make, tmp_path):
    from instant3d import scenes
    from instant3d.views import Views

    make(RED)
    views = Views(torch.full((4, 3, 16, 16), 0.2), torch.ones(4, 1, 16, 16), structured_cameras())
    scenes.write(tmp_path / "out" / "views", views)
    (found,) = evaluated_assets.from_folder(tmp_path / "out", [ViewRequest(RED, 0)], 16)
    assert found.views is None


class Same:
    """A CLIP to which all prompts are alike, or which recognises each image's own by its first pixel."""

    def __init__(self, sees: bool) -> None:
        self.sees, self.logit_scale = sees, 100.0

    def embed_images(self, images):
        return torch.nn.functional.one_hot((10 * images[..., 0, 0, 0]).round().long(), 6).float()

    def embed_texts(self, prompts):
        return torch.eye(6)[[int(prompt) if self.sees else 0 for prompt in prompts]]


def test_clip_metrics_share_the_probability_among_prompts_that_are_alike():
    images = torch.tensor([0.1, 0.2])[:, None, None, None, None].expand(2, 4, 3, 8, 8)
    found = [clip.clip_metrics(Same(sees), images, ["1", "2"], ["3", "2", "4", "3"]) for sees in (False, True)]
    assert [numbers["among"] for numbers in found] == [4, 4]
    assert found[0]["retrieval_probability"] == pytest.approx(1 / 4)
    assert found[1]["retrieval_probability"] == pytest.approx(1, abs=1e-6)
    assert [numbers["r_precision"] for numbers in found] == [0, 100]
