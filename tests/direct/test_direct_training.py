"""The direct system by its commands: resuming a killed run, two processes, exported files."""

import json
import shutil
from pathlib import Path

import direct_runs
import pytest
import torch
import training_runs
import yaml
from direct_runs import ARCHITECTURE, PROMPTS

from instant3d.cli import main as cli
from instant3d.direct.data import PromptDataModule, PromptDataset
from instant3d.direct.network import TextToTriplane
from instant3d.direct.training_record import TrainingRecord
from instant3d.nerf.asset import Asset
from instant3d.pipelines.text_to_3d import DirectTextTo3D
from instant3d.training import fit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ADAPTIVE = {"sds": {"scale": 5.0, "against": "perp-neg", "w_min": 1.0, "dw": 2.0}}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A text encoder, the images of the guidance model, a CLIP."""
    folder = tmp_path_factory.mktemp("parts")
    return (
        direct_runs.text_folder(folder / "text"),
        direct_runs.write_balls(folder / "balls"),
        str(direct_runs.clip_folder(folder / "clip")),
    )


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    """The folder of a run of two steps."""
    run = tmp_path_factory.mktemp("trained")
    fit.main(command(run, parts, 2))
    return run


def command(run, parts, steps, *more, adaptive=False, **model):
    text, balls, clip = parts
    settings = {**ADAPTIVE, "clip": clip} if adaptive else {}
    trainer = {**training_runs.trainer_settings(run, steps), "gradient_clip_val": 1.0}
    return direct_runs.command(run, text, balls, trainer, *more, **settings, **model)


def content(run):
    return torch.load(fit.newest_checkpoint(run), weights_only=True)


def test_resume_of_a_killed_run_ends_as_an_uninterrupted_one(parts, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit.main(command(whole, parts, 12, adaptive=True))
    training_runs.kill_at_first_checkpoint(command(broken, parts, 12, adaptive=True), broken)
    start = content(broken)["global_step"]
    fit.main(command(broken, parts, 12, "--ckpt_path", "last", adaptive=True))
    logged = training_runs.losses(broken)
    assert 0 < start < 12
    assert set(logged) >= set(range(start, 12))
    assert logged.items() <= training_runs.losses(whole).items()
    one, two = content(whole), content(broken)
    for name in ("state_dict", "current_model_state"):  # the averaged weights and the last, alpha among them
        assert all(torch.equal(one[name][key], two[name][key]) for key in one[name])
    assert float(one["current_model_state"]["network.decoder.alpha"]) == 1.0
    memory = one["taught"]["memory"]
    assert all(torch.equal(memory[key], two["taught"]["memory"][key]) for key in memory)
    assert memory["seen"].all()


def test_guidance_setting_is_changed_alone_by_an_option(parts, tmp_path, capsys):
    guidance = {"class_path": "FiniteSetConfig", "init_args": {"scenes": "here", "spread": 0.2, "camera": True}}
    with pytest.raises(SystemExit):
        fit.main(command(tmp_path, parts, 1, "--model.guidance.scenes=there", "--print_config", guidance=guidance))
    found = yaml.safe_load(capsys.readouterr().out)["model"]["guidance"]
    assert found["class_path"].endswith("FiniteSetConfig")
    assert found["init_args"] == {"scenes": "there", "size": 64, "spread": 0.2, "camera": True}


def test_validation_renders_prompts_with_the_callbacks_of_the_shipped_trainers(parts, tmp_path):
    shipped = yaml.safe_load((ROOT / "configs/trainer/cpu.yaml").read_text())["trainer"]["callbacks"]
    names = ("instant3d.training.callbacks.ImageLogger", "instant3d.training.callbacks.CollapseMonitor")
    watchers = [each for each in shipped if each["class_path"] in names]
    words = [f"--trainer.callbacks+={json.dumps(each)}" for each in watchers]
    look = [f"--data.val={json.dumps(PROMPTS[:1])}", "--trainer.val_check_interval=1", "--trainer.limit_val_batches=1"]
    fit.main(command(tmp_path, parts, 2, *words, *look, "--trainer.check_val_every_n_epoch=null"))
    assert len(watchers) == 2
    assert content(tmp_path)["global_step"] == 2
    (table,) = tmp_path.glob("**/metrics.csv")
    assert "val/alpha" in table.read_text().splitlines()[0].split(",")


def test_ddp_processes_train_together_and_share_the_feature_cache(parts, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    fit.main(command(two, parts, 2, *training_runs.DDP, "--data.batch_size=1", adaptive=True))
    fit.main(command(one, parts, 2, "--data.batch_size=1", adaptive=True))
    alone, found = content(one), content(two)
    assert found["global_step"] == 2
    batches = [state["direct"]["taught"]["batch"] for state in (alone, found)]
    assert batches == [1, 2], "what a step costs is what all processes looked at"
    last = "network.outward.weight"
    moved = [state["current_model_state"][last] for state in (alone, found)]
    assert not torch.equal(*moved), "the other process's gradient counts"
    # with one example a process, example n is used in step n // 2 by process n % 2
    data = PromptDataModule(PROMPTS)
    data.setup("fit")
    examples = data.train_dataloader().dataset
    assert {int(examples[number].prompts) for number in (2, 3)} == {0, 1}
    memory = found["taught"]["memory"]
    assert memory["seen"].tolist() == [True, True]
    known = direct_runs.ball_views((1.0, 0.0, 0.0)).cameras
    for number in (2, 3):
        camera = PromptDataset(2, known)[number].cameras.positions
        row = int(examples[number].prompts)
        torch.testing.assert_close(memory["directions"][row], camera / camera.norm(), atol=1e-5, rtol=0)


def test_half_precision_trains_too(parts, tmp_path):
    fit.main(command(tmp_path, parts, 2, "--trainer.precision=bf16-mixed", adaptive=True))
    losses = training_runs.losses(tmp_path)
    assert set(losses) == {0, 1}
    assert all(torch.isfinite(torch.tensor(float(value))) for value in losses.values())
    weights = content(tmp_path)["state_dict"].values()
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights)


def test_predictions_are_assets_that_the_exported_network_agrees_with(trained, parts, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("a red ball\na \x07 bell\na blue ball\n")
    words = ["-c", str(trained / "run.yaml"), "--prompts", str(tmp_path / "list.txt"), "--ckpt_path", str(trained)]
    with pytest.raises(ValueError, match="1 scenes or prompts have no triplane"):
        fit.main(["predict", "direct", *words, "-o", str(tmp_path / "out")])
    assert "list.txt line 2" in capsys.readouterr().err
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["00000-a-red-ball.safetensors", "00001-a-blue-ball.safetensors"]
    assert cli.main(["export", str(trained), "-o", str(tmp_path / "export")]) == 0
    network = TextToTriplane.from_pretrained(tmp_path / "export")
    from instant3d.modules.diffusion.prompt_tokens import PromptEncoder

    tokens = PromptEncoder.from_pretrained(tmp_path / "export")(PROMPTS)
    for k, name in enumerate(files):
        asset = Asset.load(tmp_path / "out" / name)
        expected = network.triplane(tokens).planes[k].detach()
        torch.testing.assert_close(asset.triplane.planes, expected, atol=1e-2, rtol=1e-2)
        assert asset.decoder.config.blob == ARCHITECTURE["blob"]
        torch.testing.assert_close(asset.decoder.alpha, network.decoder.alpha)


def test_export_is_the_averaged_network(trained, tmp_path):
    network = fit.export(trained, tmp_path / "export")
    found, name = content(trained), "network.outward.weight"
    record = TextToTriplane.from_pretrained(tmp_path / "export").training_record
    assert record == TrainingRecord(steps=2, batch=4, prompts=2)
    assert record.views_per_prompt == 4
    torch.testing.assert_close(network.outward.weight.detach(), found["state_dict"][name])
    assert not torch.equal(found["state_dict"][name], found["current_model_state"][name])


def test_export_lists_the_words_of_its_prompts_where_its_text_encoder_lists_its_own(trained, parts, tmp_path):
    fit.export(trained, tmp_path / "without")
    assert not (tmp_path / "without" / "tokenizer" / "caption_words.txt").exists()
    text = shutil.copytree(parts[0], tmp_path / "text")
    (text / "tokenizer" / "caption_words.txt").write_text("castle\t9\n")
    fit.export(trained, tmp_path / "with", base=str(text))
    assert DirectTextTo3D.from_pretrained(tmp_path / "with").words.counts == {"ball": 2, "blue": 1, "red": 1}


def test_validation_and_test_use_prompts_that_training_left_out(trained, tmp_path, capsys):
    config = yaml.safe_load((trained / "run.yaml").read_text())
    config["data"] |= {"share": 0.5, "val_prompts": 1}
    config["trainer"] |= {"limit_val_batches": 1, "logger": False}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    for subcommand, name in (("validate", "val/alpha"), ("test", "test/alpha")):
        fit.main([subcommand, "direct", "-c", str(tmp_path / "run.yaml"), "--ckpt_path", str(trained)])
        assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.prompts=nothing.txt"], "neither a prompt set"),
        (["--model.text=/nowhere"], "/nowhere"),
    ],
)
def test_invalid_setting_of_a_run_is_one_sentence(parts, tmp_path, capsys, words, message):
    assert cli.main(command(tmp_path, parts, 2, *words)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("instant3d: error: ")]
    assert message in line


@pytest.mark.parametrize(
    ("size", "trainer"), [("paper", "gpus"), ("release", "gpus"), ("tiny", "cpu"), ("demo", "cpu")]
)
def test_shipped_configuration_is_accepted_by_the_command(size, trainer, capsys):
    files = [ROOT / "configs/trainer" / f"{trainer}.yaml", ROOT / "configs/direct" / f"{size}.yaml"]
    with pytest.raises(SystemExit) as done:
        fit.main(["fit", "direct", *(word for file in files for word in ("-c", str(file))), "--print_config"])
    assert done.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    kinds = [callback["class_path"].rpartition(".")[2] for callback in found["trainer"]["callbacks"]]
    assert {"EMAWeightAveraging", "LastCheckpoint"} <= set(kinds)


def printed(capsys, *words):
    with pytest.raises(SystemExit):
        fit.main(["fit", "direct", *words, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)["data"]


def test_config_names_coloured_objects(capsys):
    assert printed(capsys, "--data.coloured.objects=things.txt")["coloured"]["objects"] == "things.txt"


def test_prompt_files_are_named_by_an_option_and_not_read_as_configurations(tmp_path, capsys):
    file = tmp_path / "some.txt"
    file.write_text("a red chair\n")
    found = printed(capsys, f"--data.prompts={file}", f"--data.val={file}")
    assert (found["prompts"], found["val"]) == (str(file), str(file))
