"""The architecture study: its trials, its bands of objects, its comparison."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import ball_views
import pytest
import torch
import yaml
from torch import nn

from benchmarks.study import frozen, report, trial
from benchmarks.study.__main__ import _run, main
from benchmarks.study.bands import Shape, perimeter
from benchmarks.study.cost import Cost, configured, step_flops
from instant3d import scenes
from instant3d.cameras import Cameras, random_sphere, structured_cameras
from instant3d.stage2.augmentation import ViewSampling
from instant3d.stage2.data import ReconstructionBatch
from instant3d.stage2.module import LossWeights, RayMarching, Stage2Module, VaeInputs
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.utils import shipped
from instant3d.utils.yaml_files import load_yaml
from instant3d.views import Views

pytestmark = pytest.mark.slow

TINY = {
    "image_size": 16, "encoder": "plucker", "encoder_width": 16, "encoder_depth": 0, "encoder_heads": 1, "patch": 8,
    "width": 16, "depth": 1, "heads": 1, "token_side": 4, "plane_side": 16, "channels": 12, "decoder_width": 16,
    "decoder_layers": 2, "density": "exp", "lift_side": 16, "lift_width": 16,
}  # fmt: skip
STEPS = 30
LENGTH = ("--steps", str(STEPS), "--seeds", "1")
CHECKPOINT = {"every_n_train_steps": 5, "save_top_k": 0, "save_last": True}
BASE = {
    "model": {
        "architecture": TINY,
        "ray_marching": {"samples": 12},
        "vgg_weights": None,
        "loss_weights": {"perceptual": 0.0, "mask": 1.0},
        "learning_rate": 1e-2,
        "warmup_steps": 1,
    },
    "data": {
        "batch_size": 2,
        "workers": 0,
        "view_sampling": {"structured_probability": 1.0, "targets": 2, "patch": 8, "zoom": [8, 16]},
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "instant3d.training.callbacks.LastCheckpoint", "init_args": CHECKPOINT}],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes of balls, and the configs `base`, `frozen` and `frozen_pixels`, which cannot learn, and `broken`."""
    root = tmp_path_factory.mktemp("study")
    for k, colour in enumerate([(0.9, 0.1, 0.1), (0.1, 0.2, 0.8), (0.1, 0.7, 0.2)]):
        cameras = Cameras.cat([structured_cameras(), random_sphere(2, torch.Generator().manual_seed(k))])
        views = ball_views.ball(cameras, colour, 16)
        part = root / ("train" if k < 2 else "val")
        scenes.write(part / f"ball{k}", Views(views.rgb, views.alpha, cameras), object_id=f"ball{k}")
    frozen = {"model": {"learning_rate": 0.0}}
    pixels = {"model": {"learning_rate": 0.0, "architecture": {"pixel_features": 2}}}
    configs = {"base": BASE, "frozen": frozen, "frozen_pixels": pixels, "broken": {"model": {"width": "wide"}}}
    for name, content in configs.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return root


def words(folder, out, variants, *more):
    data = ["--base", str(folder / "base.yaml"), "--train", str(folder / "train"), "--val", str(folder / "val")]
    chosen = [name if name == "demo" else str(folder / f"{name}.yaml") for name in variants]
    return [*chosen, *data, "--size", "16", "--workers", "1", "-o", str(out), *more]


def in_this_process_unless_broken(planned, output):
    """Runs a trial without the seconds that a new process needs to begin."""
    if planned.variant == "broken":
        return _run(planned, output)
    trial.run(output / planned.name)
    return None


@pytest.fixture(scope="module")
def killed(folder, tmp_path_factory):
    """Folder of a study that was killed after its first checkpoint, and the step of that."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "benchmarks.study", *words(folder, out, ["demo"], *LENGTH)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    run, deadline = out / "demo-0" / "run", time.time() + 300
    while not list(run.glob("**/last.ckpt")) and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while running(out) and time.time() < deadline:
        time.sleep(0.05)
    assert not running(out), "a trial ends with its study"
    return out, torch.load(next(run.glob("**/last.ckpt")), weights_only=True)["global_step"]


def running(folder):
    """Command lines of the trials of a study that are running."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line and "study.trial" in line]


@pytest.fixture(scope="module")
def resumed(folder, killed):
    """Folder of that study after it went on, with two more variants; exit code; step at which it had been killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.study.__main__._run", in_this_process_unless_broken)
        code = main(words(folder, killed[0], ["demo", "frozen", "broken"], *LENGTH))
    return killed[0], code, killed[1]


def test_study_that_was_killed_trains_no_step_twice(resumed):
    out, _, step = resumed
    logs = sorted(out.glob("demo-0/run/**/metrics.csv"), key=lambda path: path.stat().st_mtime)
    head, *rows = logs[-1].read_text().splitlines()
    found = [int(row.split(",")[head.split(",").index("step")]) for row in rows]
    assert 0 < step < STEPS
    assert found == list(range(step, STEPS))


def test_study_ranks_a_variant_that_cannot_learn_last_and_a_broken_one_costs_itself_alone(resumed):
    out, code, _ = resumed
    content = json.loads((out / "study.json").read_text())
    assert code == 1
    assert list(content["variants"]) == ["demo", "frozen"]
    assert content["variants"]["frozen"]["gain"] < -1
    assert list(content["failed"]) == ["broken-0"]
    assert "width" in content["failed"]["broken-0"]
    demo, frozen = (content["trials"][name][0] for name in ("demo", "frozen"))
    assert demo["cost"] == frozen["cost"], "they differ in the learning rate alone"
    assert demo["training"]["steps"] == frozen["training"]["steps"] == STEPS
    assert demo["metrics"]["nearest_view"] == frozen["metrics"]["nearest_view"]
    assert (out / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_study_from_weights_compares_variants_that_begin_with_the_same_output(folder, resumed, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.study.__main__._run", in_this_process_unless_broken)
    weights = resumed[0] / "demo-0" / "weights"
    chosen = words(folder, tmp_path, ["frozen", "frozen_pixels"], "--steps", "1", "--seeds", "1")
    assert main([*chosen, "--from", str(weights)]) == 0
    start = json.loads((resumed[0] / "study.json").read_text())["variants"]["demo"]
    found = json.loads((tmp_path / "study.json").read_text())["variants"]
    for name in ("frozen", "frozen_pixels"):
        assert found[name]["psnr"] == pytest.approx(start["psnr"], abs=1e-3)
    assert found["frozen_pixels"]["parameters"] > found["frozen"]["parameters"] == start["parameters"]


def test_study_on_planes_computed_once_trains_the_decoder_alone(folder, resumed, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.study.__main__._run", in_this_process_unless_broken)
    weights = resumed[0] / "demo-0" / "weights"
    more = ["--from", str(weights), "--frozen-planes", "--steps", "3", "--seeds", "1"]
    assert main(words(folder, tmp_path, ["demo", "frozen_pixels"], *more)) == 0
    assert len(list((tmp_path / "planes").glob("*.safetensors"))) == 2
    before = Reconstructor.from_pretrained(weights).state_dict()
    after = Reconstructor.from_pretrained(tmp_path / "demo-0" / "weights").state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
    found = json.loads((tmp_path / "study.json").read_text())["variants"]
    assert found["frozen_pixels"]["parameters"] > found["demo"]["parameters"]


@pytest.mark.parametrize("pixels", [0, 2])
def test_step_on_prepared_planes_has_the_loss_of_the_step_that_makes_them(folder, resumed, tmp_path, pixels):
    weights, data = resumed[0] / "demo-0" / "weights", json.dumps([str(folder / "train")])
    options = ["-c", str(folder / "base.yaml"), "-c", str(shipped.find("stage2/frozen_planes", ("",)).resolve())]
    options += [f"--model.start={weights}", f"--data.train={data}", "--model.learning_rate=0.0"]
    options += ["--model.added_learning_rate=0.0"] + [f"--model.architecture.pixel_features={pixels}"] * bool(pixels)
    frozen.prepare(options, tmp_path)
    built = configured(options)
    module, examples = built.model, built.datamodule.train_dataloader().dataset
    module.log = module.log_dict = lambda *args, **kwargs: None
    if pixels:  # or the features would count for nothing
        torch.nn.init.normal_(module.network.decoder.from_views.weight, std=0.3)
    plain = [module.training_step(examples[number][None], 0).item() for number in range(2)]
    replaced = frozen.WithPlanes(examples, tmp_path)
    module.field = lambda prepared: frozen.field(module.network, prepared)
    found = [module.training_step(replaced[number][None], 0).item() for number in range(2)]
    assert found == pytest.approx(plain, rel=2e-3)
    assert plain[0] != pytest.approx(plain[1], rel=2e-2)


def test_planes_are_not_frozen_where_more_than_the_decoder_is_trained(folder, resumed, tmp_path):
    weights, data = resumed[0] / "demo-0" / "weights", json.dumps([str(folder / "train")])
    options = ["-c", str(folder / "base.yaml"), f"--model.start={weights}", f"--data.train={data}"]
    with pytest.raises(ValueError, match=r"is trained; leave out --frozen-planes"):
        frozen.prepare([*options, '--model.trainable=["decoder", "lift.up"]'], tmp_path)
    assert main(words(folder, tmp_path, ["demo"], "--frozen-planes")) == 2, "planes need trained weights"


def test_study_runs_no_trial_that_is_finished(folder, resumed, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.study.__main__._run", lambda planned, output: f"{planned.name} was run")
    assert main(words(folder, resumed[0], ["demo", "frozen", "broken"], *LENGTH)) == 1
    shown = capsys.readouterr().out
    assert "2 of 3 trials are finished" in shown
    assert "broken-0 was run" in shown
    assert "demo-0 was run" not in shown


def test_study_refuses_to_continue_a_trial_with_other_settings(folder, tmp_path):
    first = trial.Trial("demo", 0, ["-c", "x.yaml"], ["val"], steps=10)
    first.write(tmp_path / "demo-0")
    first.write(tmp_path / "demo-0")
    with pytest.raises(ValueError, match="steps 10, not 20"):
        trial.Trial("demo", 0, ["-c", "x.yaml"], ["val"], steps=20).write(tmp_path / "demo-0")


def mask_views(masks, rgb=None):
    alpha = torch.stack(masks)[:, None].float()
    colours = torch.full((len(masks), 3, *alpha.shape[-2:]), 0.5) if rgb is None else rgb
    return Views(colours, alpha, random_sphere(len(masks), torch.Generator().manual_seed(0)))


def disc(radius, size=128):
    line = torch.arange(size) + 0.5 - size / 2
    return ((line[:, None] ** 2 + line[None] ** 2).sqrt() < radius).float()


def bar(height, width, size=128):
    mask = torch.zeros(size, size)
    top, left = (size - height) // 2, (size - width) // 2
    mask[top : top + height, left : left + width] = 1
    return mask


def test_perimeter_is_that_of_a_disc_and_of_a_rectangle():
    found = perimeter(torch.stack([disc(40), bar(60, 90)]))
    torch.testing.assert_close(found, torch.tensor([2 * math.pi * 40, 2 * (60 + 90)]), rtol=0.03, atol=0)


def test_bands_tell_discs_rods_plates_and_checks_apart():
    assert Shape.of(mask_views([disc(40), disc(40)])).bands == ["round"]
    assert Shape.of(mask_views([disc(40), disc(40)])).compactness == pytest.approx(1, abs=0.06)
    assert Shape.of(mask_views([bar(8, 100), bar(8, 100)])).bands == ["thin"]
    assert Shape.of(mask_views([disc(40), bar(30, 40)])).bands == ["flat"]
    checks = (torch.arange(128)[:, None] + torch.arange(128)[None]) % 2
    textured = Shape.of(mask_views([disc(40), disc(40)], checks.float().expand(2, 3, -1, -1)))
    assert textured.bands == ["round", "textured"]
    assert textured.contrast == pytest.approx(0.5, abs=0.01)


def without_transformer(**changes):
    return Stage2Module(
        Architecture(**TINY | {"lift_side": 0, "depth": 0, **changes}),
        ray_marching=RayMarching(8),
        vgg_weights=None,
        loss_weights=LossWeights(perceptual=0),
    )


def test_step_flops_are_three_times_those_of_the_forward_pass_of_a_known_layer():
    module = without_transformer()
    views = ball_views.ball(structured_cameras(), size=16)
    more = without_transformer(decoder_layers=3)
    batch = ReconstructionBatch.stack([ReconstructionBatch(views, views)])
    points, width = 4 * 16 * 16 * 8, TINY["decoder_width"]
    assert step_flops(more, batch) - step_flops(module, batch) == 3 * 2 * points * width**2


class OneConvolution(nn.Module):
    """Stands for VAE blur: one 3 x 3 convolution of three channels, for a quarter of the objects."""

    def __init__(self):
        super().__init__()
        self.probability, self.convolution = 0.25, nn.Conv2d(3, 3, 3, padding=1)

    def blurred(self, views):
        return self.convolution(views.rgb)


def test_step_flops_count_vae_blur_as_often_as_it_is_expected():
    module = without_transformer()
    views = ball_views.ball(structured_cameras(), size=16)
    batch = ReconstructionBatch.stack([ReconstructionBatch(views, views)])
    before = step_flops(module, batch)
    module.vae_blur = OneConvolution()
    of_one_object = 4 * 16 * 16 * 2 * 3 * 3 * 3 * 3  # views, pixels, a product and a sum for each weight
    assert step_flops(module, batch) - before == of_one_object / 4


def test_steps_of_a_budget_count_what_coarse_steps_save():
    plain = Cost(parameters=1, flops_per_step=100, batch_size=1, data_order="")
    assert plain.steps(1000) == 10
    quarter = dataclasses.replace(plain, coarse_savings=8 * 75)  # eight steps of 25 in place of 100
    assert quarter.steps(1000) == 16
    assert 8 * 25 + (16 - 8) * 100 == 1000


def result(seed, psnrs, order="same", mesh=None):
    scenes_ = {name: {"psnr": value, "ssim": 0.5, "mask_iou": 0.5} for name, value in psnrs.items()}
    return {
        "seed": seed,
        "cost": {"parameters": 2_000_000, "flops_per_step": 3e9, "batch_size": 2, "data_order": order},
        "training": {"steps": 7, "seconds": 1.0, "peak_memory": 2**30},
        "metrics": {"volume": scenes_, "mesh": mesh or {}},
    }


def test_comparison_has_means_over_seeds_their_difference_the_gain_and_the_bands():
    results = {
        "demo": [result(0, {"a": 20.0, "b": 24.0}), result(1, {"a": 21.0, "b": 25.0})],
        "sharp": [result(0, {"a": 23.0, "b": 27.0}), result(1, {"a": 22.0, "b": 24.0})],
    }
    seconds = {"demo": {"planes_seconds": 0.5}, "sharp": {"planes_seconds": 0.25, "mesh_seconds": 3.0}}
    rows = report.compare(results, {"thin": ["a"], "round": ["b"]}, seconds, "demo")
    assert list(rows) == ["sharp", "demo"]
    assert (rows["demo"]["psnr"], rows["demo"]["spread"], rows["demo"]["gain"]) == (22.5, 1.0, 0.0)
    assert (rows["sharp"]["psnr"], rows["sharp"]["spread"], rows["sharp"]["gain"]) == (24.0, 2.0, 1.5)
    assert (rows["sharp"]["psnr_thin"], rows["sharp"]["psnr_round"]) == (22.5, 25.5)
    text = report.table(rows)
    assert "mesh PSNR" not in text
    assert "| 0.250 | 3.0 |" in text
    assert "| sharp | 24.00 | 2.00 | +1.50 |" in text


def test_comparison_of_variants_trained_on_other_data_is_refused():
    results = {"demo": [result(0, {"a": 20.0})], "other": [result(0, {"a": 30.0}, order="other")]}
    with pytest.raises(ValueError, match="same scenes"):
        report.compare(results, {}, {"demo": {}, "other": {}}, "demo")


@pytest.mark.parametrize("name", shipped.names_in("stage2/study"))
def test_study_config_changes_settings_that_exist_and_no_size_of_the_transformer(name):
    demo, variant = (load_yaml(shipped.find(path, [""])) for path in ("stage2/demo", f"stage2/study/{name}"))
    model, data = variant.get("model", {}), variant.get("data", {})
    base = demo["model"]["architecture"]
    changed = Architecture.from_dict(base | model.get("architecture", {}))
    assert (changed.width, changed.depth, changed.token_side) == (base["width"], base["depth"], base["token_side"])
    assert changed.channels * changed.plane_side**2 == base["channels"] * base["plane_side"] ** 2, "as many bytes"
    LossWeights(**demo["model"]["loss_weights"] | model.get("loss_weights", {}))
    ViewSampling(**demo["data"]["view_sampling"] | data.get("view_sampling", {}))
    assert set(variant) <= {"model", "data"}
    assert set(model) <= {"architecture", "loss_weights", "vae_inputs"}
    VaeInputs(**model.get("vae_inputs", {}))
    assert set(data) <= {"view_sampling"}, "the scenes and their order are those of demo"


WITH_LOADER = """
import multiprocessing, threading, time
from benchmarks.study import trial
threading.Thread(target=trial._end_with_input, daemon=True).start()
time.sleep(0.2)
loader = multiprocessing.get_context("fork").Process(target=int)
loader.start()
loader.join(20)
print(loader.exitcode, flush=True)
time.sleep(60)
"""


def test_trial_forks_loaders_of_data_and_ends_with_its_input():
    process = subprocess.Popen([sys.executable, "-c", WITH_LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"0\n"
    process.stdin.close()
    assert process.wait(20) == 1
    process.stdout.close()
