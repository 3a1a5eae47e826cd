"""Consistency distillation of stage 1: diffusers' formulas and a known answer; short runs of both distillations."""

import pytest
import torch
from balls import write_balls
from diffusers import DDIMScheduler, LCMScheduler
from tiny_sdxl import tiny_sdxl_folder

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.noise_process import training_target
from instant3d.stage1 import cache_builder, consistency
from instant3d.stage1.consistency import ConsistencyDistillation
from instant3d.stage1.data import GridDataModule
from instant3d.stage1.module import Stage1Module
from instant3d.stage1.noise_sample import sample_noise
from instant3d.stage1.progressive import ProgressiveDistillation
from instant3d.stage1.recommended_sampling import recommended_sampling
from instant3d.stage1.sampler import GridSampler
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage1.spaced_scheduler import spaced_scheduler
from instant3d.training import fit

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
KINDS = ["epsilon", "v_prediction"]


def samples(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("timestep", [0, 19, 499, 999])
def test_boundary_scalings_are_those_of_diffusers_lcm(timestep):
    expected = LCMScheduler(**SCHEDULE).get_scalings_for_boundary_condition_discrete(timestep)
    assert [float(value) for value in consistency.boundary_scalings(torch.tensor(timestep))] == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_ddim_step_is_that_of_diffusers(kind):
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=kind, timestep_spacing="trailing", set_alpha_to_one=False)
    scheduler.set_timesteps(50)
    x, output, abar = samples(2, 3, 4, 4), samples(2, 3, 4, 4, seed=1), scheduler.alphas_cumprod
    expected = scheduler.step(output, 999, x).prev_sample
    found = consistency.ddim_step(kind, output, x, abar[[999, 999]], abar[[979, 979]])
    torch.testing.assert_close(found, expected)


def test_neighbours_are_levels_that_the_lcm_sampler_visits():
    upper, lower = ConsistencyDistillation().neighbours(torch.arange(1000), 1000)
    _, visited = spaced_scheduler({**SCHEDULE, "num_train_timesteps": 1000}, Sampling(steps=50, sampler="lcm"))
    assert sorted(set(upper.tolist()), reverse=True) == visited.tolist()
    assert sorted(set(lower.tolist()), reverse=True) == [*visited.tolist()[1:], 0]
    above = upper - torch.arange(1000)
    assert (int(above.min()), int(above.max())) == (0, 19)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_zero_for_the_exact_network_of_one_clean_sample_and_not_for_another(kind):
    """With a single clean sample z, every trajectory ends at z, so the exact network is consistent with itself."""
    abar = DDIMScheduler(**SCHEDULE).alphas_cumprod
    z, noise, drawn = samples(1, 3, 4, 4), samples(4, 3, 4, 4, seed=1), torch.tensor([30, 300, 600, 999])

    def network(answer):
        def predict(x, t):
            share = abar[t].reshape(-1, 1, 1, 1)
            return training_target(kind, answer, (x - share.sqrt() * answer) / (1 - share).sqrt(), abar[t])

        return predict

    clean, settings = z.expand(4, -1, -1, -1), ConsistencyDistillation()
    exact = settings.losses(kind, abar, clean, noise, drawn, network(z), network(z))
    # the boundary condition mixes x_t in by 0.25 / (10 t)^2, below 1e-5 for these timesteps
    assert exact.max() < 1e-4
    constant = settings.losses(kind, abar, clean, noise, drawn, lambda x, t: torch.zeros_like(x), network(z))
    assert constant.min() > 100 * exact.max()


def test_losses_have_no_gradient_through_the_target():
    abar, weight = DDIMScheduler(**SCHEDULE).alphas_cumprod, torch.tensor(0.5, requires_grad=True)
    calls = []

    def student(x, t):
        calls.append(torch.is_grad_enabled())
        return weight * x

    data = (samples(2, 3, 4, 4), samples(2, 3, 4, 4, seed=1), torch.tensor([100, 900]))
    found = ConsistencyDistillation().losses("epsilon", abar, *data, student, lambda x, t: 0.1 * x)
    found.sum().backward()
    assert calls == [False, True]
    assert weight.grad is not None


def test_pseudo_huber_is_quadratic_for_small_errors_and_linear_for_large_ones():
    assert consistency.pseudo_huber(torch.full((1, 5), 1e-3), 1.0).item() == pytest.approx(0.5e-6, rel=0.1)
    assert consistency.pseudo_huber(torch.full((1, 5), 30.0), 0.001).item() == pytest.approx(30 - 0.001, rel=1e-6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sdxl_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def cached(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    cache_builder.build_cache([write_balls(folder / "balls")], model, folder / "cache", report=lambda line: None)
    return folder / "cache"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_teacher_is_the_base_whatever_the_student_has_learned(rank, model, cached):
    data = GridDataModule([str(cached)], size=64, batch_size=2, workers=0).train_dataloader()
    grids = data.collate_fn([data.dataset[0], data.dataset[1]])
    plain = Stage1Module(str(model))
    module = Stage1Module(str(model), lora_rank=rank, distillation=ConsistencyDistillation(guidance=1.0))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1
    x, t = samples(*grids.mean.shape), torch.tensor([10, 900])
    expected = plain.predict(x, t, grids.text, grids.size)
    torch.testing.assert_close(module._teacher(grids.text, grids.size)(x, t), expected)
    assert (module.predict(x, t, grids.text, grids.size) - expected).abs().max() > 1e-3
    module.losses(grids, sample_noise(grids, 0, 1000, 0.0)).mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("distillation", [ConsistencyDistillation(), ProgressiveDistillation()])
def test_losses_fall_when_the_student_is_trained(distillation, model, cached):
    data = GridDataModule([str(cached)], size=64, batch_size=4, workers=0).train_dataloader()
    grids = data.collate_fn([data.dataset[number] for number in range(4)])
    module, sample = Stage1Module(str(model), distillation=distillation), sample_noise(grids, 0, 1000, 0.0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    found = []
    for _ in range(25):
        loss = module.losses(grids, sample).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.6 * found[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "recommended"),
    [("consistency", Sampling(steps=4, sampler="lcm", guidance=1.0)), ("progressive", Sampling(steps=4, guidance=1.0))],
)
def test_fit_with_the_shipped_config_exports_a_student_that_generates_in_four_steps(
    config, recommended, model, cached, tmp_path
):
    words = [f"--model.base={model}", f'--data.train=["{cached}"]', "--data.size=64", "--data.batch_size=2"]
    words += [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    faster = ["--model.warmup_steps=0", "--model.learning_rate=0.01"]
    fit.main(["fit", "stage1", "-c", "cpu", "-c", config, *words, "--data.workers=0", *faster])
    fit.export(tmp_path, tmp_path / "student")
    before, after = (Components.load(folder) for folder in (model, tmp_path / "student"))
    changed = [
        bool((a - b).abs().max() > 0) for a, b in zip(before.unet.parameters(), after.unet.parameters(), strict=True)
    ]
    assert all(changed)
    sampling = recommended_sampling(tmp_path / "student")
    assert sampling == recommended
    grid = GridSampler(after)(["a red ball"], sampling=sampling)
    assert grid.shape == (1, 3, 64, 64)
    assert grid.std() > 0
