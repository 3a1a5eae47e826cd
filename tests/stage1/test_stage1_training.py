"""Training of stage 1: the loss against a hand computation, resuming a killed run, and two processes against one."""

import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
import training_runs
import yaml
from balls import write_balls
from lightning.pytorch.callbacks import EMAWeightAveraging
from tiny_sdxl import tiny_sdxl_folder
from torch import nn

from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.cli.main import main
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.inference.loading import load_components
from instant3d.modules.diffusion.lora import Lora, fuse
from instant3d.modules.diffusion.lora_training import with_lora
from instant3d.modules.diffusion.text import TextEmbedding
from instant3d.stage1 import cache_builder
from instant3d.stage1.cache import LatentBatch
from instant3d.stage1.data import GridDataModule
from instant3d.stage1.export import export_stage1
from instant3d.stage1.module import Stage1Module
from instant3d.stage1.noise_sample import drop_text, loss_by_quarter, sample_noise
from instant3d.stage1.prompt_batches import PromptBatch
from instant3d.stage1.recommended_sampling import recommended_sampling
from instant3d.stage1.sampler import GridSampler
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage1.spaced_scheduler import spaced_scheduler
from instant3d.training import fit
from instant3d.training.sharded_strategy import FullyShardedStrategy

pytestmark = pytest.mark.slow

SHARDED = {"devices": 2, "strategy": {"class_path": "instant3d.training.sharded_strategy.FullyShardedStrategy"}}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sdxl_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    return write_balls(tmp_path_factory.mktemp("balls"))


@pytest.fixture(scope="module")
def cached(model, balls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    cache_builder.build_cache([balls], model, folder, report=lambda line: None)
    return folder


def batch(source, numbers=(0, 1, 2, 3)):
    data = GridDataModule([str(source)], size=64, batch_size=len(numbers), workers=0)
    loader = data.train_dataloader()
    return loader.collate_fn([loader.dataset[number] for number in numbers])


class Recorder(nn.Module):
    """Stands in for a UNet: predicts a constant and records its inputs."""

    def __init__(self, unet, value):
        super().__init__()
        self.config, self.value = unet.config, value

    def forward(self, x, t, tokens, added_cond_kwargs, return_dict):
        self.recorded = {"x": x, "t": t, "tokens": tokens, **added_cond_kwargs}
        return (torch.full_like(x, self.value),)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_loss_is_the_mean_square_error_of_the_written_formulas(kind, model, cached):
    module = Stage1Module(str(model), prediction_type=kind, prompt_dropout=0.0)
    module.unet = Recorder(module.unet, value=0.25)
    grids = batch(cached)
    noise_sample = sample_noise(grids, 0, 1000, 0.0)
    found = module.losses(grids, noise_sample)
    # SDXL's schedule by hand: betas are squares of evenly spaced roots
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    for k in range(len(grids.example_index)):
        abar = float(torch.cumprod(1 - betas, 0)[noise_sample.timestep[k]])
        z, eps = grids.mean[k] + grids.std[k] * noise_sample.posterior_noise[k], noise_sample.noise[k]
        x = abar**0.5 * z + (1 - abar) ** 0.5 * eps
        wanted = eps if kind == "epsilon" else abar**0.5 * eps - (1 - abar) ** 0.5 * z
        torch.testing.assert_close(module.unet.recorded["x"][k], x, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[k], (wanted - 0.25).square().mean(), atol=1e-4, rtol=1e-4)
    recorded = module.unet.recorded
    assert torch.equal(recorded["t"], noise_sample.timestep)
    assert torch.equal(recorded["tokens"], grids.text.tokens)
    assert torch.equal(recorded["text_embeds"], grids.text.pooled)
    assert recorded["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 4


def test_min_snr_weighs_each_example_by_its_own_noise(model, cached):
    plain, weighed = (Stage1Module(str(model), min_snr_gamma=gamma) for gamma in (None, 5.0))
    plain.unet, weighed.unet = (Recorder(module.unet, 0.0) for module in (plain, weighed))
    grids = batch(cached, range(16))
    noise_sample = sample_noise(grids, 0, 1000, 0.1)
    abar = plain.abar[noise_sample.timestep]
    snr = abar / (1 - abar)
    expected = plain.losses(grids, noise_sample) * snr.clamp(max=5.0) / snr
    torch.testing.assert_close(weighed.losses(grids, noise_sample), expected)
    assert snr.min() < 5 < snr.max(), "both sides of the threshold are looked at"


def test_zero_terminal_snr_is_the_rescaling_of_the_paper_and_is_exported(model, tmp_path):
    plain = Stage1Module(str(model), prediction_type="v_prediction")
    module = Stage1Module(str(model), prediction_type="v_prediction", zero_terminal_snr=True)
    root = plain.abar.double().sqrt()
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()  # Lin et al. 2023, algorithm 1
    assert plain.abar[-1] > 0
    assert module.abar[-1] == 0
    torch.testing.assert_close(module.abar.double(), expected, atol=1e-5, rtol=1e-4)
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "last.ckpt")
    fit.export(tmp_path / "last.ckpt", tmp_path / "export")
    exported = Components.load(tmp_path / "export", parts=("scheduler",)).scheduler
    scheduler, timesteps = spaced_scheduler(exported.config, Sampling(steps=2))
    assert int(timesteps[0]) == len(module.abar) - 1
    assert float(scheduler.init_noise_sigma) > 1000, "sampling begins where nothing is left of the signal"
    with pytest.raises(ValueError, match="v_prediction"):
        Stage1Module(str(model), prediction_type="epsilon", zero_terminal_snr=True)


def test_loss_of_a_cached_grid_is_that_of_one_encoded_on_the_fly(model, cached, balls):
    module = Stage1Module(str(model))
    one, two = batch(cached), batch(balls)
    noise_sample = sample_noise(one, 0, 1000, 0.1)
    with torch.no_grad():
        losses = module.losses(one, noise_sample)
        torch.testing.assert_close(losses, module.losses(module.encode_batch(two), noise_sample), atol=2e-3, rtol=2e-3)
        other = sample_noise(one, 1, 1000, 0.1)
        assert (losses - module.losses(one, other)).abs().max() > 0.05, "the test would see other noise"


def test_loss_of_an_example_does_not_depend_on_its_batch(model, cached):
    module = Stage1Module(str(model))
    whole = batch(cached)

    def losses(grids):
        with torch.no_grad():
            return module.losses(grids, sample_noise(grids, 0, 1000, 0.1))

    apart = torch.cat([losses(whole[k : k + 1]) for k in range(4)])
    torch.testing.assert_close(losses(whole), apart, atol=1e-5, rtol=1e-5)


def test_sample_noise_drops_a_tenth_of_the_prompts_and_spreads_timesteps_evenly(cached):
    one = batch(cached, [0])
    moments = (one.mean[:, :1, :1, :1], one.std[:, :1, :1, :1])
    many = LatentBatch(*(part.expand(4000, *part.shape[1:]) for part in moments),
                   one.text[[0] * 4000], one.size.expand(4000), torch.arange(4000))  # fmt: skip
    noise_sample = sample_noise(many, 0, 1000, 0.1)
    assert 320 < int(noise_sample.drop_text.sum()) < 480
    assert noise_sample.timestep.min() >= 0
    assert noise_sample.timestep.max() <= 999
    counts = torch.bincount(noise_sample.timestep // 100, minlength=10)
    assert (counts - 400).abs().max() < 80
    assert abs(float(noise_sample.noise.std()) - 1) < 0.05
    assert abs(float((noise_sample.noise * noise_sample.posterior_noise).mean())) < 0.05


def test_drop_text_zeroes_dropped_prompts_and_keeps_the_others():
    text = TextEmbedding(torch.randn(3, 4, 8), torch.randn(3, 5))
    found = drop_text(text, torch.tensor([False, True, False]))
    assert torch.equal(found.tokens[1], torch.zeros(4, 8))
    assert torch.equal(found.pooled[1], torch.zeros(5))
    assert torch.equal(found.tokens[::2], text.tokens[::2])
    assert torch.equal(found.pooled[::2], text.pooled[::2])


def test_loss_by_quarter_sorts_losses_by_timestep():
    found = loss_by_quarter("loss", torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 249, 750]), 1000)
    assert {name: float(value) for name, value in found.items()} == {"loss_0": 2.0, "loss_3": 5.0}


def test_lora_is_the_identity_at_first_and_merges_to_the_same_network(model, cached, tmp_path):
    whole, module = Stage1Module(str(model)), Stage1Module(str(model), lora_rank=4)
    grids = batch(cached)
    noise_sample = sample_noise(grids, 0, 1000, 0.0)
    with torch.no_grad():
        assert torch.equal(whole.losses(grids, noise_sample), module.losses(grids, noise_sample))
        for parameter in module.lora.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        wrapped = module.losses(grids, noise_sample)
    assert (wrapped - whole.losses(grids, noise_sample)).abs().max() > 1e-3
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    assert set(content["state_dict"]) == {f"lora.{name}" for name in module.lora}, "nothing frozen is in a checkpoint"
    torch.save(content, tmp_path / "last.ckpt")
    merged = fit.export(tmp_path / "last.ckpt", tmp_path / "export")
    assert set(merged.state_dict()) == set(whole.unet.state_dict())
    whole.unet.load_state_dict(merged.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(whole.losses(grids, noise_sample), wrapped, atol=1e-5, rtol=1e-5)


def test_cuda_graphs_module_gives_the_losses_and_gradients_of_a_plain_unet(model, cached):
    plain, graphed = (
        Stage1Module(str(model)),
        Stage1Module(str(model), cuda_graphs=True),
    )  # on the CPU no graph is recorded
    grids = batch(cached)
    noise_sample = sample_noise(grids, 0, 1000, 0.1)
    for module in (plain, graphed):
        module.train().losses(grids, noise_sample).mean().backward()
    assert set(graphed.state_dict()) == set(plain.state_dict())
    for one, two in zip(plain.parameters(), graphed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("other", [{"lora_rank": 4}, {"gradient_checkpointing": True}])
def test_cuda_graphs_are_refused_where_they_cannot_record(other, model):
    with pytest.raises(ValueError, match="cuda_graphs needs a whole UNet without gradient_checkpointing"):
        Stage1Module(str(model), cuda_graphs=True, **other)


def test_lora_training_changes_only_the_lora_weights(model, cached):
    module = Stage1Module(str(model), lora_rank=4, gradient_checkpointing=True)
    grids = batch(cached)
    module.losses(grids, sample_noise(grids, 0, 1000, 0.0)).mean().backward()
    assert [name for name, _ in module.named_parameters()] == [f"lora.{name}" for name in module.lora]
    moved = [name for name, parameter in module.lora.items() if parameter.grad.abs().max() > 0]
    assert all("lora_B" in name for name in moved), "A has no gradient while B is zero"
    assert len(moved) == len(module.lora) / 2
    assert all(p.grad is None for name, p in module.network.named_parameters() if "lora" not in name)


def test_half_base_stays_in_bfloat16_and_lora_in_float32(model):
    module = Stage1Module(str(model), lora_rank=2, half_base=True)
    dtypes = {name: parameter.dtype for name, parameter in module.network.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if "lora" in name} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if "lora" not in name} == {torch.bfloat16}
    with pytest.raises(ValueError, match="lora_rank"):
        Stage1Module(str(model), half_base=True)


def test_grids_of_another_models_latents_are_refused(model, cached):
    module = Stage1Module(str(model))
    grids = batch(cached)
    small = LatentBatch(grids.mean[..., :4], grids.std[..., :4], grids.text, grids.size, grids.example_index)
    with pytest.raises(ValueError, match="same model"):
        module.encode_batch(small)


def command(run, model, data, steps, *more, **settings):
    run.mkdir(parents=True, exist_ok=True)
    trainer = {**training_runs.trainer_settings(run, steps), "num_sanity_val_steps": 0, "check_val_every_n_epoch": None}
    config = {
        "model": {"base": str(model), "learning_rate": 1e-3, **settings},
        "data": {"train": [str(data)], "size": 64, "batch_size": 2, "workers": 0},
        "trainer": trainer,
    }
    (run / "run.yaml").write_text(yaml.safe_dump(config))
    return ["fit", "stage1", "-c", str(run / "run.yaml"), *more]


def weights(run, name="state_dict"):
    return torch.load(fit.newest_checkpoint(run), weights_only=True)[name]


def test_resume_of_a_killed_run_ends_as_an_uninterrupted_one(model, cached, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit.main(command(whole, model, cached, 12))
    training_runs.kill_at_first_checkpoint(command(broken, model, cached, 12), broken)
    start = torch.load(fit.newest_checkpoint(broken), weights_only=True)["global_step"]
    fit.main(command(broken, model, cached, 12, "--ckpt_path", "last"))
    logged = training_runs.losses(broken)
    assert 0 < start < 12
    assert set(logged) >= set(range(start, 12))
    assert logged.items() <= training_runs.losses(whole).items()
    for name in ("state_dict", "current_model_state"):
        one, two = weights(whole, name), weights(broken, name)
        assert all(torch.equal(one[key], two[key]) for key in one)


def every_fifth(args, **trainer):
    """The command with a checkpoint every fifth step, and settings of the trainer changed."""
    path = Path(args[3])
    config = yaml.safe_load(path.read_text())
    config["trainer"] |= trainer
    config["trainer"]["callbacks"][0]["init_args"]["every_n_train_steps"] = 5
    path.write_text(yaml.safe_dump(config))
    return args


def test_resume_continues_from_the_last_step_between_two_checkpoints(model, cached, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit.main(every_fifth(command(whole, model, cached, 9)))
    fit.main(every_fifth(command(broken, model, cached, 7)))
    content = torch.load(fit.newest_checkpoint(broken), weights_only=True)
    assert content["global_step"] == 7
    assert any(
        not torch.equal(value, content["state_dict"][key]) for key, value in content["current_model_state"].items()
    )
    fit.main(every_fifth(command(broken, model, cached, 9, "--ckpt_path", "last")))
    assert set(training_runs.losses(broken)) == set(range(9))
    assert training_runs.losses(broken) == training_runs.losses(whole)
    for name in ("state_dict", "current_model_state"):
        one, two = weights(whole, name), weights(broken, name)
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_run_out_of_time_saves_its_last_step(model, cached, tmp_path):
    fit.main(every_fifth(command(tmp_path, model, cached, 100_003), max_time={"seconds": 2}))
    steps = max(training_runs.losses(tmp_path)) + 1
    assert weights(tmp_path, "global_step") == steps < 100_003


def test_resume_with_lora_continues_as_an_uninterrupted_run(model, cached, tmp_path):
    lora = {"lora_rank": 2, "half_base": True, "gradient_checkpointing": True}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit.main(command(whole, model, cached, 4, "--trainer.precision=bf16-mixed", **lora))
    for steps, more in ((2, []), (4, ["--ckpt_path", "last"])):
        fit.main(command(broken, model, cached, steps, "--trainer.precision=bf16-mixed", *more, **lora))
    for name in ("state_dict", "current_model_state"):
        one, two = weights(whole, name), weights(broken, name)
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(value.abs().max() > 0 for key, value in one.items() if "lora_B" in key)


def test_ddp_with_two_processes_equals_one_with_batches_twice_as_large(model, cached, tmp_path):
    plain = {"learning_rate": 1e-4}  # Adam turns rounding into a full step where a gradient is zero
    fit.main(command(tmp_path / "one", model, cached, 2, "--data.batch_size=4", **plain))
    fit.main(command(tmp_path / "two", model, cached, 2, *training_runs.DDP, **plain))
    start = {f"unet.{name}": value for name, value in Stage1Module(str(model)).unet.state_dict().items()}
    one, two = (weights(tmp_path / run, "current_model_state") for run in ("one", "two"))
    moved = sum((one[key] - start[key]).square().sum() for key in one).sqrt()
    apart = sum((one[key] - two[key]).square().sum() for key in one).sqrt()
    assert moved > 0.01
    assert apart < 0.02 * moved


def with_strategy(args, data, **trainer):
    """The command without averaged weights, with sample grids at one validation, and the trainer's settings changed."""
    path = Path(args[3])
    config = yaml.safe_load(path.read_text())
    grids = {"class_path": "instant3d.training.callbacks.SampleGrids", "init_args": {"prompts": ["a red ball"]}}
    config["model"]["sampling"] = {"steps": 1}
    config["data"]["val"] = [str(data)]
    config["trainer"]["callbacks"][1:] = [grids]
    config["trainer"] |= {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    config["trainer"] |= {"gradient_clip_val": 1.0, "num_sanity_val_steps": 0} | trainer
    path.write_text(yaml.safe_dump(config))
    return args


def test_sharded_training_with_two_processes_equals_one_with_batches_twice_as_large(model, cached, tmp_path):
    plain, one, two = {"learning_rate": 1e-4}, tmp_path / "one", tmp_path / "two"
    fit.main(with_strategy(command(one, model, cached, 2, "--data.batch_size=4", **plain), cached))
    assert training_runs.run_together(with_strategy(command(two, model, cached, 2, **plain), cached, **SHARDED)) == [
        0,
        0,
    ]
    start = {f"unet.{name}": value for name, value in Stage1Module(str(model)).unet.state_dict().items()}
    whole, sharded = weights(one), weights(two)
    moved = sum((whole[key] - start[key]).square().sum() for key in start).sqrt()
    apart = sum((whole[key] - sharded[key]).square().sum() for key in start).sqrt()
    assert moved > 0.01
    assert apart < 0.02 * moved
    assert len(list(two.glob("**/samples/*.png"))) == 1  # written by one process
    fit.export(two, tmp_path / "export")  # as without sharding, and `generate` loads it
    loaded = load_components(tmp_path / "export", torch.float32).unet.state_dict()
    half = {key: sharded[f"unet.{key}"].half().float() for key in loaded}
    assert all(torch.equal(loaded[key], half[key]) for key in loaded)


@pytest.mark.parametrize("settings", [{"lora_rank": 2}, {"optimizer": "adamw_8bit"}])
def test_sharded_training_refuses_lora_and_8_bit_state(settings, model):
    module = Stage1Module(str(model), **settings)
    module._device_mesh = {"data_parallel": None}  # which only a strategy that splits weights sets
    with pytest.raises(ValueError, match="use strategy ddp"):
        module.configure_model()


def test_sharded_training_refuses_averaged_weights(model):
    strategy, averages = FullyShardedStrategy(), EMAWeightAveraging(decay=0.9)
    module = Stage1Module(str(model))
    module.trainer = L.Trainer(accelerator="cpu", strategy=strategy, callbacks=[averages], logger=False)
    strategy.connect(module)
    with pytest.raises(ValueError, match="cannot average sharded weights"):
        strategy.setup_environment()


def test_export_is_the_averaged_network_that_plain_diffusers_opens(model, cached, tmp_path):
    fit.main(command(tmp_path, model, cached, 2, prediction_type="v_prediction"))
    fit.export(tmp_path, tmp_path / "export")
    averaged, last = weights(tmp_path), weights(tmp_path, "current_model_state")
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "export")
    found = pipeline.unet.state_dict()
    for key, value in found.items():
        torch.testing.assert_close(value, averaged[f"unet.{key}"], atol=1e-3, rtol=1e-3)
    assert sum((found[key] - averaged[f"unet.{key}"]).abs().sum() for key in found) < 0.5 * sum(
        (last[key] - averaged[key]).abs().sum() for key in averaged
    )
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    shutil.move(tmp_path / "export", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="give --base"):
        fit.export(tmp_path, tmp_path / "again", base=str(tmp_path / "export"))


@pytest.mark.parametrize(
    ("from_cache", "listed", "expected"),
    [
        (True, "hat\t9\nred\t1\n", "hat\t9\nball\t6\nblue\t2\ngreen\t2\nred\t2\n"),  # each of three grids twice
        (True, None, None),  # for example a released text encoder
        (False, "hat\t9\n", None),  # captions of scenes are not read in advance
    ],
)
def test_export_lists_the_words_of_its_base_and_of_its_own_captions(
    model, cached, balls, tmp_path, from_cache, listed, expected
):
    base = shutil.copytree(model, tmp_path / "base")
    if listed is not None:
        (base / "tokenizer" / "caption_words.txt").write_text(listed)
    more = ["--data.source_weights=[2]"]
    fit.main(command(tmp_path / "run", base, cached if from_cache else balls, 2, *more))
    fit.export(tmp_path / "run", tmp_path / "export")
    file = tmp_path / "export" / "tokenizer" / "caption_words.txt"
    assert (file.read_text() if file.is_file() else None) == expected


def test_export_states_the_sampling_of_the_training_or_else_of_its_base(model, tmp_path):
    base = shutil.copytree(model, tmp_path / "base")
    (base / "sampling.json").write_text('{"steps": 9}')
    for sampling, expected in ((Sampling(), 9), (Sampling(steps=7), 7)):
        module = Stage1Module(str(base), sampling=sampling)
        content = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(content)
        export_stage1(content, tmp_path / str(expected))
        assert recommended_sampling(tmp_path / str(expected)).steps == expected


def test_training_on_a_cache_loads_neither_vae_nor_text_encoders_and_reports_it(
    model, cached, tmp_path, monkeypatch, capsys
):
    recorded = []
    original = Components.load.__func__

    def load(cls, source, *, parts, **how):
        recorded.extend(parts)
        return original(cls, source, parts=parts, **how)

    monkeypatch.setattr(Components, "load", classmethod(load))
    fit.main(command(tmp_path, model, cached, 2))
    assert set(recorded) == {"unet", "scheduler"}
    assert "neither a VAE nor a text encoder is loaded" in capsys.readouterr().out


def test_validation_is_the_same_in_every_run_and_writes_sample_grids(model, cached, balls, tmp_path):
    watcher = {
        "class_path": "instant3d.training.callbacks.SampleGrids",
        "init_args": {"prompts": ["a red ball", "a blue ball"]},
    }
    found = []
    for seed in (0, 1):
        args = command(tmp_path / str(seed), model, cached, 2, sampling={"steps": 2}, seed=seed)
        config = yaml.safe_load((tmp_path / str(seed) / "run.yaml").read_text())
        config["trainer"] |= {"limit_val_batches": 1, "val_check_interval": 1, "max_steps": 1}
        config["trainer"]["callbacks"] = [watcher]
        config["data"]["val"] = [str(balls)]
        config["model"]["learning_rate"] = 0.0
        (tmp_path / str(seed) / "run.yaml").write_text(yaml.safe_dump(config))
        fit.main(args)
        (log,) = (tmp_path / str(seed)).glob("**/metrics.csv")
        head, *rows = log.read_text().splitlines()
        values = [dict(zip(head.split(","), row.split(","), strict=True)) for row in rows]
        found.append([row["val/loss"] for row in values if row["val/loss"]])
        (image,) = (tmp_path / str(seed)).glob("**/samples/*.png")
        from PIL import Image

        assert Image.open(image).size == (128, 64)
    assert found[0] == found[1] != []


@pytest.mark.parametrize(
    ("size", "trainer"), [("paper", "gpus"), ("paper", "sharded"), ("one_gpu_lora", "one_gpu"), ("demo", "cpu")]
)
def test_shipped_configuration_is_accepted_by_the_command(size, trainer, capsys):
    files = [ROOT / "configs/trainer" / f"{trainer}.yaml", ROOT / "configs/stage1" / f"{size}.yaml"]
    with pytest.raises(SystemExit) as done:
        fit.main(["fit", "stage1", *(word for file in files for word in ("-c", str(file))), "--print_config"])
    assert done.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    kinds = [callback["class_path"].rpartition(".")[2] for callback in found["trainer"]["callbacks"]]
    assert "LastCheckpoint" in kinds
    assert ("EMAWeightAveraging" in kinds) == (trainer != "sharded")
    assert ("SampleGrids" in kinds) == (size == "paper")
    assert found["trainer"]["max_steps"] == yaml.safe_load(files[1].read_text())["trainer"]["max_steps"]


def test_paper_config_has_a_batch_of_192_grids_on_eight_gpus():
    paper = yaml.safe_load((ROOT / "configs/stage1/paper.yaml").read_text())
    assert paper["data"]["batch_size"] * 8 * paper["trainer"]["accumulate_grad_batches"] == 192


def test_predict_with_two_processes_samples_each_prompt_once_and_the_missing_ones_later(model, tmp_path):
    words = ["red", "green", "blue", "white", "black"]
    (tmp_path / "prompts.txt").write_text("".join(f"a {word} ball\n" for word in words))
    out = tmp_path / "out"
    options = [
        "predict", "stage1", "--model.base", str(model), "--model.sampling.steps", "2", "--prompts",
        str(tmp_path / "prompts.txt"), "-o", str(out), "--data.batch_size", "2", "--trainer.accelerator", "cpu",
        "--trainer.default_root_dir", str(tmp_path),
    ]  # fmt: skip
    names = [f"{k:05d}-a-{word}-ball" for k, word in enumerate(words)]
    assert training_runs.start([*options, "--trainer.devices", "2", "--trainer.strategy", "ddp"]).wait() == 0
    assert sorted(path.name for path in out.iterdir()) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "prompts.txt"], "nothing else is left"
    scene = scenes.read(out / names[3])
    assert (scene.caption, scene.id) == ("a white ball", names[3])
    torch.testing.assert_close(scene.views.cameras.cam_to_world, structured_cameras().cam_to_world, atol=1e-5, rtol=0)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/transforms.json")}
    shutil.rmtree(out / names[3])
    fit.main([*options, "--trainer.devices", "1"])
    again = scenes.read(out / names[3]).views
    torch.testing.assert_close(again.composite(1.0), scene.views.composite(1.0), atol=2 / 255, rtol=0)
    del kept[out / names[3] / "transforms.json"]
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_predict_fails_for_an_invalid_prompt_only_after_the_others_are_sampled(model, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a bad\x07one\na red ball\n")
    with pytest.raises(ValueError, match="1 prompts"):
        fit.main([
            "predict", "stage1", f"--model.base={model}", "--model.sampling.steps=1",
            f"--prompts={tmp_path / 'prompts.txt'}", f"--output={tmp_path / 'out'}", "--trainer.accelerator=cpu",
            "--trainer.devices=1", f"--trainer.default_root_dir={tmp_path}",
        ])  # fmt: skip
    assert "line 1 holds control characters" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00001-a-red-ball"]


def test_predict_writes_what_the_sampler_gives_with_the_trained_network(model):
    module = Stage1Module(str(model), sampling=Sampling(steps=2)).eval()
    with torch.no_grad():
        for parameter in module.unet.parameters():
            parameter.mul_(1.01)
    grids = module.predict_step(PromptBatch(("a red ball", "a blue ball"), (7, 8), ("0", "1")), 0)
    parts = Components.load(model)
    wrong = GridSampler(parts)(["a red ball", "a blue ball"], sampling=Sampling(steps=2), seeds=[7, 8])
    parts.unet.load_state_dict(module.unet.state_dict())
    right = GridSampler(parts)(["a red ball", "a blue ball"], sampling=Sampling(steps=2), seeds=[7, 8])
    torch.testing.assert_close(grids, right)
    assert (grids - wrong).abs().max() > 1e-3


def test_export_of_lora_fits_only_the_base_that_it_was_trained_on(model, cached, tmp_path):
    content = {"state_dict": Stage1Module(str(model), lora_rank=4).state_dict()}
    Stage1Module(str(model), lora_rank=2).on_save_checkpoint(content)
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="do not fit"):
        fit.export(tmp_path / "last.ckpt", tmp_path / "export")
    assert with_lora(Components.load(model, parts=["unet"]).unet, 4, 4) is not None


def test_export_of_lora_alone_fuses_to_the_network_of_the_whole_export(model, tmp_path):
    module = Stage1Module(str(model), lora_rank=4, lora_alpha=6)
    for parameter in module.lora.values():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "last.ckpt")
    whole = fit.export(tmp_path / "last.ckpt", tmp_path / "whole")
    (tmp_path / "alone").mkdir()
    fit.export(tmp_path / "last.ckpt", tmp_path / "alone", lora_only=True)
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["pytorch_lora_weights.safetensors"]
    parts = Components.load(model)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    before, expected = (unet.get_submodule(layer).weight for unet in (parts.unet, whole))
    assert not torch.allclose(before, expected, atol=1e-3)
    fuse(parts, Lora(str(tmp_path / "alone")))
    torch.testing.assert_close(
        parts.unet.state_dict(), dict(whole.state_dict()), atol=1e-5, rtol=1e-5, check_dtype=False
    )


def test_export_of_a_whole_unet_as_lora_fuses_to_the_network_of_the_whole_export(model, tmp_path, capsys):
    module = Stage1Module(str(model), sampling=Sampling(steps=4, guidance=1.0))
    for name, parameter in module.unet.named_parameters():
        if parameter.dim() > 1:
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "last.ckpt")
    whole = fit.export(tmp_path / "last.ckpt", tmp_path / "whole")
    assert main(["export", str(tmp_path / "last.ckpt"), "-o", str(tmp_path / "lora"), "--lora", "--rank", "9999"]) == 0
    assert "rank 9999 holds 100% of the squared change" in capsys.readouterr().err
    parts = Components.load(model)
    lora = Lora(str(tmp_path / "lora"))
    assert recommended_sampling(model, [lora]) == Sampling(steps=4, guidance=1.0)
    fuse(parts, lora)
    torch.testing.assert_close(
        parts.unet.state_dict(), dict(whole.state_dict()), atol=1e-3, rtol=1e-3, check_dtype=False
    )


def test_rank_without_lora_is_refused(tmp_path, capsys):
    assert main(["export", "last.ckpt", "-o", str(tmp_path / "out"), "--rank", "4"]) == 2
    assert "give --lora too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({}, "whole UNet"), ({"prediction_type": "v_prediction", "lora_rank": 2}, "prediction type")],
)
def test_export_of_lora_alone_refuses_what_such_a_file_cannot_hold(model, tmp_path, settings, complaint):
    module = Stage1Module(str(model), **settings)
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=complaint):
        fit.export(tmp_path / "last.ckpt", tmp_path / "export", lora_only=True)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "content",
    [{"stage1": {}}, {"stage1": []}, {"direct": {}}, {"architecture": {"encoder": "plucker"}, "state_dict": {}}],
)
def test_export_of_a_checkpoint_by_another_version_is_one_sentence(tmp_path, content):
    torch.save({"state_dict": {}, **content}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt does not hold what this version exports") as error:
        fit.export(tmp_path / "last.ckpt", tmp_path / "export")
    assert "\n" not in str(error.value)
