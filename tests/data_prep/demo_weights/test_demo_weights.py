"""The recipe from objects to demo weights: whole at toy size, and what runs when."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from data_prep.demo_weights import __main__ as command
from data_prep.demo_weights import card, running
from data_prep.demo_weights.recipe import Recipe
from data_prep.demo_weights.running import Record, Run, Step
from data_prep.demo_weights.steps import plan_steps
from data_prep.procedural import generate
from instant3d.modules.diffusion.lora import Lora
from instant3d.pipelines.text_to_3d import TextTo3D

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAINING = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
TOY = {
    "render/small.yaml": {"size": 32, "random_views": 2, "supersample": 1},
    "render/evaluation.yaml": {"size": 32, "random_views": 1, "supersample": 1},
    "stage1/toy_base.yaml": {
        "view_size": 32,
        "vocabulary": 600,
        "prompt_length": 16,
        "text_encoder": {**TEXT, "projection_dim": 32},
        "image_encoder": {**TEXT, "patch_size": 8},
        "vae": {"latent_channels": 4, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4},
        "unet": {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [16, 32],
            "attention_head_dim": [2, 2],
            "transformer_layers_per_block": [1, 1],
            "norm_num_groups": 8,
        },
        "train_text": TRAINING,
        "train_vae": TRAINING,
    },
    "stage1/toy.yaml": {
        "model": {"learning_rate": 1e-3, "decay": True},
        "data": {"batch_size": 2, "workers": 0},
        "trainer": {"limit_val_batches": 0},
    },
    "stage1/progressive.yaml": {
        "model": {
            "distillation": {"guidance": 5.0, "steps": 4, "teacher_steps": 1},
            "sampling": {"steps": 4, "guidance": 1.0},
        }
    },
    "stage2/toy.yaml": {
        "model": {
            "architecture": {
                "image_size": 32,
                "encoder": "plucker",
                "encoder_width": 32,
                "encoder_depth": 1,
                "encoder_heads": 2,
                "patch": 16,
                "width": 32,
                "depth": 1,
                "heads": 2,
                "token_side": 4,
                "plane_side": 16,
                "channels": 12,
                "decoder_layers": 2,
                "density": "exp",
                "lift_side": 16,
                "lift_width": 16,
            },
            "ray_marching": {"samples": 8, "importance": 0},
            "loss_weights": {"perceptual": 0.0, "mask": 1.0, "depth": 0.05, "opacity": 0.1},
            "vgg_weights": None,
        },
        "data": {
            "batch_size": 1,
            "view_sampling": {"patch": 8, "zoom": [16, 32]},
            "val_targets": 1,
            "val_size": 16,
            "val_scenes": 1,
        },
    },
}


def toy(folder: Path) -> list[str]:
    """Objects, configs and a prompt in a folder; the arguments of a run over them."""
    generate.main(["-o", str(folder / "objects"), "--count", "3", "--first-seed", "18"])  # number 19 is held out
    shutil.copytree(ROOT / "configs" / "trainer", folder / "configs" / "trainer")
    for name, content in TOY.items():
        file = folder / "configs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content))
    (folder / "prompts.txt").write_text("a red chair\n")
    sizes = [
        "--parts",
        "stage1,few_steps,stage2",
        "--seconds",
        "4",
        "--variants",
        "1",
        "--procedural",
        "1",
        "--seeds",
        "1",
        "--size",
        "toy",
        "--workers",
        "1",
    ]
    places = {"-o": "out", "--configs": "configs", "--prompts": "prompts.txt"}
    return [
        str(folder / "objects"),
        *sizes,
        *(w for name, place in places.items() for w in (name, str(folder / place))),
    ]


def test_demo_weights_command_makes_working_weights_with_cards_from_objects(tmp_path, capfd):
    arguments = toy(tmp_path)
    assert command.main(arguments) == 0
    out = tmp_path / "out"
    asset = TextTo3D.from_pretrained(out / "stage1-demo", out / "stage2-demo")("a red chair")
    assert asset.triplane.planes.shape == (3, 12, 16, 16)
    said = capfd.readouterr().out
    order = [said.index(f" {name} begins") for name in ("render-real", "base", "train-stage1", "train-stage2")]
    assert order == sorted(order)
    lora = Lora(str(out / "stage1-demo-4-steps"))
    assert TextTo3D.from_pretrained(out / "stage1-demo", out / "stage2-demo", loras=[lora]).sampling.steps == 4
    for folder in ("stage1-demo", "stage1-demo-4-steps", "stage2-demo"):
        text = (out / folder / "README.md").read_text()
        assert re.search(r"training \| [\d,]+ steps", text)
        assert "CC0-1.0" in text.split("## Objects and their authors")[1]
        assert "## Measured" in text
    network = out / "stage2-demo" / "model.safetensors"
    with safe_open(network, "pt") as tensors:
        count = sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    digest = subprocess.run(["sha256sum", network], capture_output=True, text=True, check=True).stdout.split()[0]
    assert f"| model.safetensors | {count:,} | {network.stat().st_size:,} | `{digest}` |" in text
    assert command.main(arguments) == 2
    assert "give --resume" in capfd.readouterr().err
    before = network.stat().st_mtime_ns
    assert command.main([*arguments, "--resume"]) == 0  # all is finished: nothing is made again
    assert network.stat().st_mtime_ns == before


def odd_jobs(folder: Path, names: str, **lanes: str) -> list[Step]:
    """Steps that each append their name to a file; one of them waits or fails if a file says so."""
    return [
        Step(name, "odd_steps", lambda _, name=name: [name, str(folder)], lane=lanes.get(name, "data"))
        for name in names.split()
    ]


@pytest.fixture
def light(monkeypatch):
    monkeypatch.setattr(running, "PRELOADED", [])


def test_run_takes_the_steps_of_a_lane_in_turn_and_those_of_others_beside_them(tmp_path, light):
    steps = odd_jobs(tmp_path, "first second other", other="side")
    (tmp_path / "wait-first").touch()  # until `other` has run
    Run(steps, Record.open(tmp_path, {}, False), lambda _: 0.0, lambda _: None)()
    assert (tmp_path / "order").read_text().split() == ["other", "first", "second"]


def test_run_stops_at_a_failure_and_goes_on_behind_what_is_finished(tmp_path, light):
    steps = odd_jobs(tmp_path, "first second third")
    (tmp_path / "fail-second").touch()
    with pytest.raises(ChildProcessError, match=r"second ended with 3: no luck .*go on by --resume"):
        Run(steps, Record.open(tmp_path, {"size": "toy"}, False), lambda _: 0.0, lambda _: None)()
    (tmp_path / "fail-second").unlink()
    with pytest.raises(ValueError, match="has size 'toy', not 'demo'"):
        Record.open(tmp_path, {"size": "demo"}, True)
    Run(steps, Record.open(tmp_path, {"size": "toy"}, True), lambda _: 0.0, lambda _: None)()
    assert (tmp_path / "order").read_text().split() == ["first", "second", "third"]


def test_run_that_is_killed_leaves_no_process_and_goes_on(tmp_path):
    script = (
        "from pathlib import Path; import sys; sys.path.insert(0, sys.argv[2])\n"
        "from data_prep.demo_weights import running; import test_demo_weights as t\n"
        "running.PRELOADED = []\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    steps = t.odd_jobs(folder, 'first second')\n"
        "    running.Run(steps, running.Record.open(folder, {}, True), lambda _: 0.0)()\n"
    )
    (tmp_path / "go.py").write_text(script)
    (tmp_path / "hang-second").touch()
    fixtures, here = str(ROOT / "tests" / "fixtures"), str(Path(__file__).parent)
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), fixtures, here])}
    words = [sys.executable, str(tmp_path / "go.py"), str(tmp_path), fixtures]
    run = subprocess.Popen(words, env=paths, stdout=subprocess.PIPE)
    worker = _wait_for(tmp_path / "hanging")
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 30
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)
    (tmp_path / "hang-second").unlink()
    subprocess.run(words, env=paths, check=True, capture_output=True)
    assert (tmp_path / "order").read_text().split() == ["first", "second"]


def _runs(process: str) -> bool:
    """Whether a process is there and not just waiting to be forgotten by its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_for(file: Path, seconds: float = 120.0) -> str:
    deadline = time.monotonic() + seconds
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return file.read_text()


def planned(tmp_path: Path, **settings) -> dict[str, Step]:
    generate.main(["-o", str(tmp_path / "objects"), "--count", "2", "--first-seed", "18"])
    wanted = Recipe((str(tmp_path / "objects"),), tmp_path / "out", **settings)
    return {step.name: step for step in plan_steps(wanted)}


def test_steps_train_both_stages_side_by_side_on_a_gpu_and_in_turn_without(tmp_path):
    steps = planned(tmp_path / "gpu", trainer="one_gpu")
    assert steps["train-stage1"].lane != steps["train-stage2"].lane
    assert "render-added" not in steps["train-stage1"].after  # it need not wait for stage 2's variants
    for part in ("stage1", "stage2"):
        assert "--trainer.max_time=00:00:20:00" in steps[f"train-{part}"].command(1200.0)
        config = f"configs/{part}/demo_one_gpu.yaml"
        assert any(word.endswith(config) for word in steps[f"train-{part}"].command(1.0))
    steps = planned(tmp_path / "cpu", trainer="cpu")
    assert {step.lane for step in steps.values()} == {"cpu"}
    names = list(steps)
    assert names.index("render-added") < names.index("base") < names.index("train-stage1") < names.index("train-stage2")
    assert "--trainer.max_time=00:00:10:00" in steps["train-stage1"].command(1200.0)  # half of it is stage 2's
    assert "--trainer.max_time=00:00:10:00" in steps["train-stage2"].command(600.0)


def test_few_steps_are_distilled_from_the_stage_1_of_the_run_in_a_quarter_of_its_time(tmp_path):
    steps = planned(tmp_path, trainer="one_gpu", parts=("stage1", "few_steps"))
    assert "--trainer.max_time=00:00:15:00" in steps["train-stage1"].command(1200.0)
    fit = steps["train-few_steps"].command(300.0)
    assert fit[:2] == ["fit", "stage1"]
    assert f"--model.base={tmp_path / 'out' / 'stage1-demo'}" in fit
    assert "--trainer.max_time=00:00:05:00" in fit
    assert [Path(word).name for word in fit if word.endswith("yaml")][-2:] == [
        "progressive.yaml",
        "warm_start_one_gpu.yaml",
    ]
    evaluated = steps["evaluate-text-few_steps-0"]
    assert str(tmp_path / "out" / "stage1-demo-4-steps") in evaluated.command(0.0)
    assert "export-few_steps" in evaluated.after
    with pytest.raises(ValueError, match="distilled from stage1; name that part too"):
        Recipe(("objects",), tmp_path, parts=("few_steps", "stage2"))


def test_recipe_gives_training_at_least_half_of_the_time(tmp_path):
    wanted = Recipe(("objects",), tmp_path, seconds=1500.0)
    assert [wanted.training_left(seconds) for seconds in (0.0, 200.0, 1400.0)] == [1500.0, 1300.0, 750.0]


def test_demo_weights_parts_select_what_is_made(tmp_path):
    names = set(planned(tmp_path, parts=("judge",)))
    assert names == {"render-grids", "captions-grids", "paint-judge", "judge"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "stage3"], "parts are among stage1, few_steps, stage2, direct, judge, got stage3"),
        (["--seconds", "0"], "seconds and workers must be positive"),
        (["--trainer", "one_gpu"], "needs a CUDA device"),
    ],
)
def test_demo_weights_refuse_what_cannot_be(tmp_path, capsys, words, message):
    assert command.main([str(tmp_path), "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


def test_last_values_are_those_of_the_last_rows_that_have_them(tmp_path):
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0" / "metrics.csv").write_text("step,train/loss,val/psnr\n9,0.5,\n9,,20.5\n19,0.25,\n")
    assert card.last_values(tmp_path) == {"step": 19.0, "train/loss": 0.25, "val/psnr": 20.5}


def test_last_line_of_a_log_is_what_a_terminal_would_show(tmp_path):
    (tmp_path / "log").write_bytes(b"begin\nstep 1\rstep 2\x1b[0m\r\n\n")
    assert running.last_line(tmp_path / "log") == "step 2[0m"
    assert running.last_line(tmp_path / "log", 2) == "step 1 step 2[0m"
    assert running.last_line(tmp_path / "none") == "starting"


def test_record_is_whole_at_any_moment(tmp_path):
    record = Record.open(tmp_path, {"size": "toy"}, False)
    record.steps["first"] = {"arguments": [], "seconds": 1.5, "finished": True}
    record.save()
    assert json.loads((tmp_path / "run.json").read_text())["steps"]["first"]["finished"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
