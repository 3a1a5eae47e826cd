"""Progressive distillation of stage 1: diffusers' DDIM and a network whose answer is known."""

import pytest
import torch
from balls import write_balls
from diffusers import DDIMScheduler
from tiny_sdxl import tiny_sdxl_folder

from instant3d.modules.diffusion.noise_process import add_noise, training_target
from instant3d.stage1 import cache_builder
from instant3d.stage1.data import GridDataModule
from instant3d.stage1.module import Stage1Module
from instant3d.stage1.progressive import ProgressiveDistillation, implied_clean
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage1.spaced_scheduler import spaced_scheduler

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
KINDS = ["epsilon", "v_prediction"]


def samples(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("steps", "teacher_steps"), [(4, 3), (2, 8), (7, 1), (1, 5)])
def test_visited_timesteps_are_those_of_the_samplers(steps, teacher_steps):
    visited = ProgressiveDistillation(steps=steps, teacher_steps=teacher_steps).visited(torch.arange(1000), 1000)
    config = {**SCHEDULE, "num_train_timesteps": 1000}
    of_student = spaced_scheduler(config, Sampling(steps=steps))[1].tolist()
    of_teacher = spaced_scheduler(config, Sampling(steps=steps * teacher_steps))[1].tolist()
    assert sorted(set(visited[0].tolist()), reverse=True) == of_student
    assert sorted(set(visited[:-1].flatten().tolist()), reverse=True) == of_teacher
    assert sorted(set(visited[-1].tolist()), reverse=True) == [*of_student[1:], -1]
    inside = (visited[0] >= torch.arange(1000) - 1) & (visited[-1] < torch.arange(1000) + 1)  # but for rounding
    assert bool(inside.all())


def test_implied_clean_is_that_of_a_step_of_diffusers_ddim():
    scheduler = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    x, output, abar = samples(2, 3, 4, 4), samples(2, 3, 4, 4, seed=1), scheduler.alphas_cumprod
    for timestep, after in ((999, 749), (249, -1)):
        step = scheduler.step(output, timestep, x)
        reached = abar[after] if after >= 0 else torch.tensor(1.0)
        found = implied_clean(x, step.prev_sample, abar[timestep].expand(2), reached.expand(2))
        torch.testing.assert_close(found, step.pred_original_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_where_twenty_steps_of_diffusers_ddim_lead(kind):
    """A student that reaches in one step what the teacher does in five has no loss; the teacher itself has one."""
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=kind, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    abar, settings = scheduler.alphas_cumprod, ProgressiveDistillation(teacher_steps=5)
    clean, noise = samples(1, 3, 4, 4), samples(1, 3, 4, 4, seed=1)

    def teacher(x, t):
        return torch.tanh(1.3 * x) + t.reshape(-1, 1, 1, 1) / 1000

    for first, drawn in ((999, 800), (749, 600), (499, 251), (249, 0)):
        start = reached = add_noise(clean, noise, abar[[first]])
        visited = [t for t in scheduler.timesteps.tolist() if first - 250 < t <= first]
        assert len(visited) == 5
        for t in visited:
            reached = scheduler.step(teacher(reached, torch.tensor([t])), t, reached).prev_sample
        after = abar[[first - 250]] if first > 249 else torch.ones(1)
        z = implied_clean(start, reached, abar[[first]], after)
        output = training_target(kind, z, (start - abar[first].sqrt() * z) / (1 - abar[first]).sqrt(), abar[[first]])
        data = (kind, abar, clean, noise, torch.tensor([drawn]))
        perfect = settings.losses(*data, lambda x, t, output=output: output, teacher)
        assert perfect.item() < 1e-6
        assert settings.losses(*data, teacher, teacher).item() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_zero_for_the_exact_network_of_one_clean_sample_and_not_for_another(kind):
    """With a single clean sample z, every trajectory ends at z, and straight ahead."""
    abar = DDIMScheduler(**SCHEDULE).alphas_cumprod
    z, noise, drawn = samples(1, 3, 4, 4), samples(4, 3, 4, 4, seed=1), torch.tensor([30, 300, 600, 999])

    def network(x, t):
        share = abar[t].reshape(-1, 1, 1, 1)
        return training_target(kind, z, (x - share.sqrt() * z) / (1 - share).sqrt(), abar[t])

    clean = z.expand(4, -1, -1, -1)
    exact = ProgressiveDistillation().losses(kind, abar, clean, noise, drawn, network, network)
    assert exact.max() < 1e-6
    constant = ProgressiveDistillation().losses(
        kind, abar, clean, noise, drawn, lambda x, t: torch.zeros_like(x), network
    )
    assert constant.min() > 0.01


def test_errors_are_weighted_by_the_truncated_snr():
    """A clean sample that is off by one everywhere costs max(SNR, 1)."""
    abar, z = DDIMScheduler(**SCHEDULE).alphas_cumprod, samples(4, 3, 4, 4)
    noise, drawn = samples(4, 3, 4, 4, seed=1), torch.tensor([999, 700, 400, 0])

    def network(answer):
        def predict(x, t):
            share = abar[t].reshape(-1, 1, 1, 1)
            return (x - share.sqrt() * answer) / (1 - share).sqrt()

        return predict

    found = ProgressiveDistillation().losses("epsilon", abar, z, noise, drawn, network(z + 1), network(z))
    snr = (abar / (1 - abar))[[999, 749, 499, 249]]
    torch.testing.assert_close(found, torch.maximum(snr, torch.ones(4)), rtol=1e-3, atol=1e-3)


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0 and 3"):
        ProgressiveDistillation(steps=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sdxl_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def cached(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    cache_builder.build_cache([write_balls(folder / "balls")], model, folder / "cache", report=lambda line: None)
    return folder / "cache"


@pytest.fixture(scope="module")
def grids(cached):
    data = GridDataModule([str(cached)], size=64, batch_size=2, workers=0).train_dataloader()
    return data.collate_fn([data.dataset[number] for number in range(3)])


@pytest.mark.slow
def test_teacher_is_guided_at_the_noisiest_timesteps_alone(model, grids):
    plain = Stage1Module(str(model))
    settings = ProgressiveDistillation(guidance=3.0, guidance_stop=0.66)
    teacher = Stage1Module(str(model), distillation=settings)._teacher(grids.text, grids.size)
    x, t = samples(*grids.mean.shape), torch.tensor([339, 340, 999])
    with torch.no_grad():
        toward = plain.predict(x, t, grids.text, grids.size)
        away = plain.predict(x, t, grids.text.map(torch.zeros_like), grids.size)
        expected = torch.cat([toward[:1], (3 * toward - 2 * away)[1:]])
        torch.testing.assert_close(teacher(x, t), expected)
