"""Sampling of grids, against diffusers' own pipeline and against the image that a perfect network would reach."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tiny_sdxl import SIZES, tiny_sdxl

from instant3d.modules.diffusion.schedulers import build_scheduler
from instant3d.modules.diffusion.text import TextEmbedding
from instant3d.stage1.sampler import GridSampler, classifier_free_guidance
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage1.spaced_scheduler import spaced_scheduler

PROMPTS = ["a red fire hydrant", "a blue wooden chair"]
ONE = TextEmbedding(torch.zeros(1, 4, 32), torch.zeros(1, 16))


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    return tiny_sdxl(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def sampler(components):
    return GridSampler(components)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Products in float32 on every processor, so that two implementations agree to its rounding."""
    monkeypatch.setattr("instant3d.stage1.sampler.fast_dtype", lambda: torch.float32)


def theirs(components, prompts, sampling, latents, **settings):
    """diffusers' own pipeline, whose scheduler is not respaced."""
    from diffusers import StableDiffusionXLPipeline

    changes = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    scheduler = build_scheduler({**components.scheduler.config, **changes}, sampling.sampler)
    pipeline = StableDiffusionXLPipeline(**{**components.parts, "scheduler": scheduler})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompts,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        guidance_rescale=sampling.rescale,
        latents=latents,
        output_type="latent",
        **settings,
    ).images


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("sampling", "negative"),
    [
        (Sampling(5, 5.0, sampler="ddim"), None),
        (Sampling(5, 5.0, sampler="euler"), "a teapot"),
        (Sampling(7, 3.0, rescale=0.7, sampler="euler"), None),
        (Sampling(4, 1.0, sampler="ddim"), None),
    ],
)
def test_sampler_latents_agree_with_diffusers_own_pipeline(components, tmp_path, kind, sampling, negative):
    components = dataclasses.replace(
        components, scheduler=build_scheduler({**SIZES["scheduler"], "prediction_type": kind}, "ddim")
    )
    sampler = GridSampler(components)
    text, nothing = sampler.encode(PROMPTS, negative)
    ours = sampler.denoise(text, nothing, sampling=dataclasses.replace(sampling, start="noise"), seeds=[3, 4])
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)])
    negatives = None if negative is None else [negative] * 2
    expected = theirs(components, PROMPTS, sampling, noise, negative_prompt=negatives)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.slow
def test_sampler_images_agree_with_diffusers_own_pipeline(components, sampler):
    from diffusers.image_processor import VaeImageProcessor

    latents = torch.randn(2, 4, 8, 8)
    raw = components.vae.decode(latents / components.vae.config.scaling_factor).sample.detach()
    torch.testing.assert_close(sampler.decode(latents), VaeImageProcessor().postprocess(raw, "pt"), atol=1e-5, rtol=0)


class Oracle:
    """A perfect UNet: its prediction at each timestep leads back to one clean latent."""

    def __init__(self, clean, kind):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.abar, self.clean, self.kind = (1 - betas).cumprod(0).float(), clean, kind
        self.config = SimpleNamespace(in_channels=4, sample_size=8)
        self.device, self.dtype, self.seen = torch.device("cpu"), torch.float32, []

    def __call__(self, x, timestep, **_):
        self.seen.append(int(timestep))
        signal, noise = self.abar[timestep].sqrt(), (1 - self.abar[timestep]).sqrt()
        eps = (x - signal * self.clean) / noise
        return (eps if self.kind == "epsilon" else signal * eps - noise * self.clean,)


def knowing(components, clean, kind="epsilon"):
    return dataclasses.replace(
        components,
        unet=Oracle(clean, kind),
        scheduler=build_scheduler({**SIZES["scheduler"], "prediction_type": kind}, "ddim"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++"])
@pytest.mark.parametrize("steps", [1, 15, 61])  # 61 and 15 do not divide 1000
@pytest.mark.parametrize("start", ["blob", "noise"])
@pytest.mark.parametrize("first", [None, 980, 500])
def test_sampler_with_a_perfect_network_ends_at_its_image(components, kind, name, steps, start, first):
    clean = torch.randn(4, 8, 8)
    sampler = GridSampler(knowing(components, clean, kind))
    sampling = Sampling(steps, 1.0, sampler=name, start=start, start_timestep=first)
    reached = sampler.denoise(ONE, ONE, sampling=sampling, seeds=[0])[0]
    torch.testing.assert_close(reached, clean, atol=1e-3, rtol=1e-3)
    seen = sampler.components.unet.seen
    assert len(seen) == steps
    assert seen[0] == (999 if first is None else first)
    assert seen == sorted(set(seen), reverse=True)
    assert seen[-1] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("steps", [7, 30])
def test_sampler_ddim_and_euler_take_the_same_path(sampler, steps):
    """Without noise of its own, DDIM is Euler's method in another scaling (Song et al. 2021, section 4.3)."""
    text, nothing = sampler.encode(PROMPTS[:1])
    ddim, euler = (
        sampler.denoise(text, nothing, sampling=Sampling(steps, sampler=name, start_timestep=900), seeds=[5])
        for name in ("ddim", "euler")
    )
    torch.testing.assert_close(ddim, euler, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("first", [None, 400])
def test_sampler_starts_at_the_encoded_blob_under_each_seeds_noise(components, sampler, name, first):
    from instant3d.stage1.initial_noise import start_image

    sampling = Sampling(20, sampler=name, sigma=0.2, start_timestep=first)
    scheduler, timesteps = spaced_scheduler(components.scheduler.config, sampling)
    x = sampler.start(scheduler, sampling, range(2000))
    abar = build_scheduler(SIZES["scheduler"], "ddim").alphas_cumprod[timesteps[0]]
    if name == "euler":
        x = x * abar.sqrt()
    encoded = components.vae.encode(2 * start_image("blob", 64, 0.2)[None] - 1).latent_dist.mode()[0]
    z = encoded.detach() * components.vae.config.scaling_factor
    torch.testing.assert_close(x.mean(0), abar.sqrt() * z, atol=0.1, rtol=0)  # four standard errors
    torch.testing.assert_close(x.var(0).mean(), 1 - abar, rtol=0.02, atol=0)


@pytest.mark.slow
def test_sampler_grid_depends_on_its_own_prompt_and_seed_alone(components, sampler):
    text, nothing = sampler.encode(PROMPTS)
    sampling = Sampling(4)
    scheduler, _ = spaced_scheduler(components.scheduler.config, sampling)
    together, alone = sampler.start(scheduler, sampling, [7, 8]), sampler.start(scheduler, sampling, [8])
    assert torch.equal(together[1], alone[0])
    together = sampler.denoise(text, nothing, sampling=sampling, seeds=[7, 8])
    torch.testing.assert_close(
        together[1:], sampler.denoise(text[1:], nothing[1:], sampling=sampling, seeds=[8]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.slow
def test_sampler_seed_gives_the_same_bytes_and_another_seed_another_image(sampler):
    first, again, other = (sampler(PROMPTS[:1], sampling=Sampling(3), seeds=[seed]) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)


@pytest.mark.slow
def test_sampler_gives_one_image_a_prompt_and_repeated_prompts_differ_by_their_seeds(sampler):
    grids = sampler([PROMPTS[0], PROMPTS[1], PROMPTS[0]], sampling=Sampling(2))
    assert grids.shape == (3, 3, 64, 64)
    assert grids.min() >= 0
    assert grids.max() <= 1
    torch.testing.assert_close(grids[2:], sampler(PROMPTS[:1], sampling=Sampling(2), seeds=[2]), atol=1e-4, rtol=0)
    assert not torch.allclose(grids[0], grids[2], atol=1e-2)


@pytest.mark.slow
def test_sampler_at_once_changes_no_image_and_counts_every_step(components, sampler):
    counted = []
    turns = GridSampler(components, at_once=2)
    prompts, sampling = [*PROMPTS, PROMPTS[0]], Sampling(3)
    grids = turns(prompts, sampling=sampling, on_step=lambda done, total: counted.append((done, total)))
    torch.testing.assert_close(grids, sampler(prompts, sampling=sampling), atol=1e-4, rtol=0)
    assert counted == [(k, 6) for k in range(1, 7)]


def test_guidance_of_one_evaluates_the_network_once_and_stronger_guidance_twice(components, monkeypatch):
    sizes = []

    class Counting(Oracle):
        def __call__(self, x, timestep, **conditions):
            sizes.append(
                (
                    len(x),
                    conditions["encoder_hidden_states"].shape[0],
                    conditions["added_cond_kwargs"]["time_ids"].tolist(),
                )
            )
            return super().__call__(x, timestep, **conditions)

    sampler = GridSampler(dataclasses.replace(components, unet=Counting(torch.zeros(4, 8, 8), "epsilon")))
    for guidance in (1.0, 2.0):
        sampler.denoise(ONE, ONE, sampling=Sampling(1, guidance), seeds=[0])
    size = [64.0, 64.0, 0.0, 0.0, 64.0, 64.0]  # an uncropped image of the grid's own size
    assert sizes == [(1, 1, [size]), (2, 2, [size] * 2)]


@pytest.mark.parametrize(("stop", "evaluated"), [(1.0, [2, 2, 2, 2, 2]), (0.6, [2, 2, 2, 1, 1]), (0.0, [1] * 5)])
def test_guidance_stop_ends_guidance_after_its_share_of_the_steps(components, monkeypatch, stop, evaluated):
    sizes, forward = [], components.unet.forward
    monkeypatch.setattr(
        components.unet, "forward", lambda x, *more, **named: sizes.append(len(x)) or forward(x, *more, **named)
    )
    text, nothing = GridSampler(components).encode(["a red ball"])
    GridSampler(components).denoise(text, nothing, sampling=Sampling(5, guidance_stop=stop), seeds=[0])
    assert sizes == evaluated


def test_guidance_leads_away_from_the_negative_prompt():
    away, toward = torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 2.0)
    assert torch.equal(classifier_free_guidance(away, toward, 5.0), torch.full((1, 4, 2, 2), 10.0))
    assert torch.equal(classifier_free_guidance(away, toward, 1.0), toward)


def test_guidance_with_full_rescaling_restores_the_standard_deviation():
    away, toward = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    plain, half, full = (classifier_free_guidance(away, toward, 7.5, rescale) for rescale in (0.0, 0.5, 1.0))
    torch.testing.assert_close(full.std((1, 2, 3)), toward.std((1, 2, 3)))
    torch.testing.assert_close(half, (plain + full) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("first", [999, 980, 60])
def test_spaced_scheduler_visits_as_many_noise_levels_as_steps_and_no_other(first):
    every = build_scheduler(SIZES["scheduler"], "ddim").alphas_cumprod
    for steps in range(1, first + 2, 1 + first // 40):
        scheduler, timesteps = spaced_scheduler(
            SIZES["scheduler"], Sampling(steps, sampler="ddim", start_timestep=first)
        )
        assert len(timesteps) == steps == len(scheduler.timesteps)
        assert timesteps[0] == first
        torch.testing.assert_close(scheduler.alphas_cumprod.flip(0), every[timesteps], rtol=1e-4, atol=0)


def test_spaced_scheduler_samples_a_schedule_that_ends_in_pure_noise(components):
    clean = torch.randn(4, 8, 8)
    parts = knowing(components, clean, "v_prediction")
    config = {**parts.scheduler.config, "rescale_betas_zero_snr": True}
    abar = build_scheduler(config, "ddim").alphas_cumprod
    assert abar[-1] == 0
    for name in ("ddim", "euler"):
        sampler = GridSampler(dataclasses.replace(parts, scheduler=build_scheduler(config, "ddim")))
        sampler.components.unet.abar = abar
        reached = sampler.denoise(ONE, ONE, sampling=Sampling(10, 1.0, sampler=name), seeds=[0])[0]
        torch.testing.assert_close(reached, clean, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("sampling", "seeds", "message"),
    [
        (Sampling(), [1], "got 1 seeds for 2 prompts"),
        (Sampling(0), [1, 2], "at least one step"),
        (Sampling(rescale=1.5), [1, 2], "between 0 and 1"),
        (Sampling(guidance_stop=-0.1), [1, 2], "between 0 and 1, got -0.1"),
        (Sampling(start_timestep=1000), [1, 2], "timesteps 0 to 999"),
        (Sampling(30, start_timestep=20), [1, 2], "30 steps do not fit"),
        (Sampling(start="ring"), [1, 2], "got 'ring'"),
    ],
)
def test_sampler_refuses_settings_out_of_range(sampler, sampling, seeds, message):
    with pytest.raises(ValueError, match=message):
        sampler(PROMPTS, sampling=sampling, seeds=seeds)


@pytest.mark.slow
def test_half_precision_inside_a_float32_network_changes_little(sampler, monkeypatch):
    plain = sampler(PROMPTS, sampling=Sampling(4))
    monkeypatch.setattr("instant3d.stage1.sampler.fast_dtype", lambda: torch.bfloat16)
    rough = sampler(PROMPTS, sampling=Sampling(4))
    assert not torch.equal(plain, rough)
    assert (plain - rough).abs().mean() < 0.02


@pytest.mark.slow
def test_half_precision_weights_give_nearly_the_same_from_latents_in_float32(components, sampler):
    halved = dataclasses.replace(
        components, unet=copy.deepcopy(components.unet).bfloat16(), vae=copy.deepcopy(components.vae).bfloat16()
    )
    half = GridSampler(halved)
    text, nothing = half.encode(PROMPTS)
    latents = half.denoise(text, nothing, sampling=Sampling(4), seeds=[0, 1])
    assert latents.dtype == torch.float32
    assert (half.decode(latents) - sampler(PROMPTS, sampling=Sampling(4))).abs().mean() < 0.02


def test_vae_that_overflows_in_half_precision_runs_in_float32(components, sampler):
    vae = copy.deepcopy(components.vae).half()
    vae.register_to_config(force_upcast=True)
    half = GridSampler(dataclasses.replace(components, vae=vae))
    latents = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(half.decode(latents), sampler.decode(latents), atol=2e-3, rtol=0)
    assert vae.dtype == torch.float32


def test_sampler_output_is_an_ordinary_tensor(sampler):
    grid = sampler(PROMPTS[:1], sampling=Sampling(1))
    grid[:] = grid * torch.ones(1, requires_grad=True)


def test_sampler_refuses_one_text_in_place_of_a_list(sampler):
    with pytest.raises(ValueError, match="put it into a list"):
        sampler("a red fire hydrant")


@pytest.mark.parametrize("steps", [1, 4, 7, 50])
def test_lcm_visits_the_timesteps_of_diffusers_own_schedule(components, steps):
    theirs = build_scheduler(SIZES["scheduler"], "lcm")
    theirs.set_timesteps(steps)
    scheduler, timesteps = spaced_scheduler(components.scheduler.config, Sampling(steps, sampler="lcm"))
    assert timesteps.tolist() == theirs.timesteps.tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("steps", "first"), [(1, None), (4, None), (15, 980)])
def test_lcm_with_a_perfect_network_ends_at_its_image(components, kind, steps, first):
    clean = torch.randn(4, 8, 8)
    sampler = GridSampler(knowing(components, clean, kind))
    sampling = Sampling(steps, 1.0, sampler="lcm", start_timestep=first)
    reached = sampler.denoise(ONE, ONE, sampling=sampling, seeds=[0])[0]
    torch.testing.assert_close(reached, clean, atol=1e-3, rtol=1e-3)
    seen = sampler.components.unet.seen
    assert len(set(seen)) == steps
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == (999 if first is None else first)


def test_lcm_latents_agree_with_diffusers_scheduler_given_the_same_noise(components, sampler, monkeypatch):
    noise = [torch.randn(2, 4, 8, 8) for _ in range(2)]
    module = "diffusers.schedulers.scheduling_lcm.randn_tensor"
    text, nothing = sampler.encode(PROMPTS)
    sampling = Sampling(3, 1.5, sampler="lcm", start="noise")
    coming = iter(noise)
    monkeypatch.setattr(module, lambda *_, **__: next(coming))
    ours = sampler.denoise(text, nothing, sampling=sampling, seeds=[3, 4])
    coming = iter(noise)
    start = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)])
    torch.testing.assert_close(ours, theirs(components, PROMPTS, sampling, start), atol=2e-4, rtol=2e-4)


def test_lcm_grid_depends_on_its_own_seed_alone_and_its_steps_have_noise_of_their_own(components):
    clean = torch.randn(4, 8, 8)
    runs = []

    class Watching(Oracle):
        def __call__(self, x, timestep, **conditions):
            runs[-1].append(x)
            return super().__call__(x, timestep, **conditions)

    sampler = GridSampler(dataclasses.replace(knowing(components, clean), unet=Watching(clean, "epsilon")))
    for seeds in ([7, 8], [8]):
        runs.append([])
        sampling = Sampling(3, 1.0, sampler="lcm", start="noise")
        text = ONE[[0] * len(seeds)]
        sampler.denoise(text, text, sampling=sampling, seeds=seeds)
    for together, alone in zip(*runs, strict=True):
        torch.testing.assert_close(together[1:], alone)
    first, second, third = (x.flatten() for x in runs[1])
    assert all(
        torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.3 for a, b in ((first, second - third), (first, second))
    )


def test_lcm_refuses_more_steps_than_it_was_distilled_for(sampler):
    with pytest.raises(ValueError, match="at most 50 steps from timestep 999, got 51"):
        sampler(PROMPTS[:1], sampling=Sampling(51, sampler="lcm"))
