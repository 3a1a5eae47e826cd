"""Training of stage 2: overfitting, resuming a killed run, and two processes against one."""

import functools
from pathlib import Path

import pytest
import torch
import training_runs
import yaml

from instant3d import scenes
from instant3d.cameras import Cameras, random_sphere, structured_cameras
from instant3d.modules.metrics import psnr
from instant3d.nerf.asset import Asset
from instant3d.stage2.augmentation import ViewSampling
from instant3d.stage2.data import ReconstructionBatch, TrainDataset, scenes_for
from instant3d.stage2.module import LossWeights, RayMarching, Stage2Module
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.stage2.parameter_groups import split_parameters
from instant3d.training import fit
from instant3d.training.callbacks import CollapseMonitor
from instant3d.views import Views

TINY = {
    "image_size": 32, "encoder": "plucker", "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "patch": 8,
    "width": 64, "depth": 1, "heads": 2, "token_side": 4, "plane_side": 16, "channels": 16, "decoder_width": 32,
    "decoder_layers": 3, "lift_side": 16, "lift_width": 16,
}  # fmt: skip


def ball_views(cameras, colour, radius, size=32):
    rays = cameras.rays(size, size)
    along = -(rays.origins * rays.directions).sum(-1)
    square = radius**2 - (rays.origins.square().sum(-1) - along**2)
    alpha = (square > 0).float()[..., None, :, :]
    forward = (rays.directions * cameras.cam_to_world[..., None, None, :3, 2]).sum(-1)
    depth = ((along - square.clamp(min=0).sqrt()) * forward)[..., None, :, :] * alpha
    return Views(torch.tensor(colour)[:, None, None] * torch.ones_like(alpha), alpha, cameras, depth)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two objects: a large red ball and a small blue one."""
    root = tmp_path_factory.mktemp("two")
    for k, (colour, radius) in enumerate([((0.9, 0.1, 0.1), 0.7), ((0.1, 0.2, 0.8), 0.4)]):
        cameras = Cameras.cat([structured_cameras(), random_sphere(8, torch.Generator().manual_seed(k))])
        scenes.write(root / f"ball{k}", ball_views(cameras, colour, radius), object_id=f"ball{k}")
    return root


@pytest.mark.slow
def test_training_overfits_two_objects_in_a_minute(folder):
    torch.manual_seed(0)
    module = Stage2Module(Architecture(**TINY), ray_marching=RayMarching(24, 16), vgg_weights=None)
    optimizer = torch.optim.AdamW(module.network.parameters(), lr=3e-3)
    supply = TrainDataset(
        scenes_for("train", [folder]), 32, ViewSampling(patch=16, zoom=(16, 32), random_rotation=False)
    )
    hidden = ReconstructionBatch.stack(
        [
            TrainDataset(supply.scenes, 32, ViewSampling(patch=0, random_rotation=False, structured_probability=1.0))[k]
            for k in range(2)
        ]
    )

    def quality():
        with torch.no_grad():
            shown = module.render_like(module.network(hidden.inputs), hidden.targets)
            return float(psnr(shown.composite(1.0), hidden.targets.composite(1.0)).mean())

    before = quality()
    for step in range(120):
        batch = ReconstructionBatch.stack([supply[2 * step], supply[2 * step + 1]])
        field = module.network(batch.inputs)
        shown = module.render_like(field, batch.targets, torch.Generator().manual_seed(step))
        loss = (shown.composite(1.0) - batch.targets.composite(1.0)).square().mean() + (
            shown.alpha - batch.targets.alpha
        ).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = quality()
    assert before < 15
    assert after > 22


def command(folder, run, steps, *more):
    run.mkdir(parents=True, exist_ok=True)
    model = {
        "architecture": TINY,
        "ray_marching": {"samples": 8, "importance": 8},
        "vgg_weights": None,
        "loss_weights": {"perceptual": 0.0, "mask": 1.0},
        "warmup_steps": 2,
    }
    data = {
        "train": [str(folder)],
        "batch_size": 2,
        "workers": 0,
        "view_sampling": {"targets": 2, "patch": 8, "zoom": [16, 32]},
    }
    trainer = training_runs.trainer_settings(run, steps)
    (run / "run.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    return ["fit", "stage2", "-c", str(run / "run.yaml"), *more]


@pytest.mark.slow
def test_resume_of_a_killed_run_ends_as_an_uninterrupted_one(folder, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit.main(command(folder, whole, 8))
    training_runs.kill_at_first_checkpoint(command(folder, broken, 8), broken)
    start = torch.load(fit.newest_checkpoint(broken), weights_only=True)["global_step"]
    fit.main(command(folder, broken, 8, "--ckpt_path", "last"))
    logged = training_runs.losses(broken)  # the log, not the checkpoint, may lack a line or two after the kill
    assert 0 < start < 8
    assert set(logged) >= set(range(start, 8))
    assert logged.items() <= training_runs.losses(whole).items()
    one, two = (torch.load(fit.newest_checkpoint(run), weights_only=True)["state_dict"] for run in (whole, broken))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_ddp_processes_train_and_agree(folder, tmp_path):
    fit.main(command(folder, tmp_path, 2, *training_runs.DDP))
    content = torch.load(fit.newest_checkpoint(tmp_path), weights_only=True)
    assert content["global_step"] == 2


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """The folder of a run of two steps."""
    run = tmp_path_factory.mktemp("trained")
    fit.main(command(folder, run, 2))
    return run


@pytest.mark.slow
def test_export_is_the_averaged_network(trained, tmp_path):
    network = fit.export(fit.newest_checkpoint(trained), tmp_path / "export")
    content = torch.load(fit.newest_checkpoint(trained), weights_only=True)
    name = "network.decoder.last.weight"
    torch.testing.assert_close(network.state_dict()[name.removeprefix("network.")], content["state_dict"][name])
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])
    again = Reconstructor.from_pretrained(tmp_path / "export")
    torch.testing.assert_close(again.decoder.last.weight, network.decoder.last.weight, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_predictions_are_assets_that_can_be_rendered(folder, trained, tmp_path):
    options = [f'--data.test=["{folder}"]', "--ckpt_path", str(trained), "--triplanes.output", str(tmp_path / "out")]
    fit.main(["predict", "stage2", "-c", str(trained / "run.yaml"), *options])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ball0.safetensors", "ball1.safetensors"}
    planes = [Asset.load(tmp_path / "out" / f"ball{k}.safetensors").triplane.planes for k in range(2)]
    assert planes[0].shape == (3, TINY["channels"], TINY["plane_side"], TINY["plane_side"])
    network = fit.export(trained, tmp_path / "export")
    views = scenes.read(folder / "ball1", frames=range(4), size=32).views[None]
    torch.testing.assert_close(planes[1], network.triplane(views).planes[0].detach(), atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_resume_without_a_checkpoint_is_refused_in_one_sentence(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="instant3d fit"):
        fit.main(command(folder, tmp_path, 2, "--ckpt_path", "last"))


def test_checkpoint_with_code_inside_is_not_opened(tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"architecture": TINY, "state_dict": {}, "extra": Path("x")}, path)
    with pytest.raises(ValueError, match="not opened"):
        fit.export(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_torch_compile_trains_as_the_plain_network(folder, monkeypatch):
    module = Stage2Module(Architecture(**TINY), ray_marching=RayMarching(8, 0), vgg_weights=None, torch_compile=True)
    example = TrainDataset(scenes_for("train", [folder]), 32, ViewSampling(patch=16, zoom=(16, 32)))[0][None]
    plain = module.field(example.inputs).projected
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # traced, not translated
    module.on_train_start()
    compiled = module.field(example.inputs).projected
    assert module.compiled is not None
    torch.testing.assert_close(compiled, plain)
    assert set(module.state_dict()) == {f"network.{name}" for name in module.network.state_dict()}


def test_weight_decay_leaves_out_norms_biases_and_tokens():
    network = Reconstructor(Architecture(**TINY))
    decayed, plain = split_parameters(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in plain} >= {"tokens", "norm.weight", "decoder.first.bias", "encoder.embed_norm.weight"}
    assert all(parameter.dim() >= 2 for parameter in decayed)
    assert len(decayed) + len(plain) == len(list(network.parameters()))


def test_losses_of_weight_zero_are_not_computed(folder):
    supply = TrainDataset(scenes_for("train", [folder]), 32, ViewSampling(patch=8, zoom=(16, 32)))
    batch = ReconstructionBatch.stack([supply[0]])
    torch.manual_seed(0)
    module = Stage2Module(
        Architecture(**TINY),
        ray_marching=RayMarching(4, 4),
        vgg_weights=None,
        loss_weights=LossWeights(rgb=0, perceptual=0),
    )
    module.log = module.log_dict = lambda *args, **kwargs: None
    assert module.training_step(batch, 0) == 0


def test_collapse_to_white_is_explained_once():
    class FakeTrainer:
        sanity_checking = False
        callback_metrics = {"val/alpha": torch.tensor(0.0), "val/true_alpha": torch.tensor(0.3)}  # noqa: RUF012

    watch = CollapseMonitor(patience=2)
    watch.on_validation_end(FakeTrainer(), None)
    with pytest.warns(UserWarning, match="world-to-camera"):
        watch.on_validation_end(FakeTrainer(), None)
