"""Exact diffusion model of a set of images, against the derivative of its density and closed forms."""

import math

import pytest
import torch

from instant3d.direct.guidance.finite_set import FiniteSetGuidance, scaled_linear
from instant3d.direct.view_prompts import view_shares

FRONT, SIDE, BACK = 0, 1, 2


def some_images(count, side=4):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def log_density(x_t, images, shares, abar, spread):
    """Log density of the noisy mixture, directly from its definition."""
    centres = (2 * images - 1).flatten(1)
    variance = abar * spread**2 + 1 - abar
    apart = (x_t.flatten()[None] - math.sqrt(abar) * centres).square().sum(1)
    return torch.logsumexp(shares.log() - apart / (2 * variance), dim=0)


@pytest.mark.parametrize("t", [0, 20, 500, 999])
def test_finite_set_noise_is_the_score_of_the_noisy_sets_density(t):
    images = some_images(5)
    guidance = FiniteSetGuidance(images, ["cup"] * 2 + ["hat"] * 3, torch.tensor([0, 1, 0, 1, 2]), spread=0.3)
    abar = float(guidance.abar[t])
    generator = torch.Generator().manual_seed(t)
    x_t = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    shares = torch.tensor([0.0, 0.0, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64)
    log_density(x_t, images, shares, abar, 0.3).backward()
    predicted = guidance.predict_noise(x_t.detach(), torch.tensor([t]), guidance.embed_prompts(["hat"]))
    torch.testing.assert_close(predicted, -math.sqrt(1 - abar) * x_t.grad, rtol=1e-9, atol=1e-9)


def test_finite_set_of_one_image_predicts_it_at_every_noise_level():
    image = some_images(1)
    guidance = FiniteSetGuidance(image, ["cup"], torch.tensor([FRONT]), spread=0.0)
    x0 = guidance.encode_images(some_images(2)[1:])
    for t in (20, 400, 980):
        abar = guidance.abar[t]
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
        pull = guidance.predict_noise(x_t, torch.tensor([t]), guidance.embed_prompts(["cup"])) - eps
        torch.testing.assert_close(pull, abar.sqrt() / (1 - abar).sqrt() * (x0 - (2 * image - 1)))


def test_finite_set_prompt_embeds_as_the_images_it_names():
    guidance = FiniteSetGuidance(some_images(4), ["cup", "cup", "hat", "hat"], torch.tensor([FRONT, BACK, FRONT, BACK]))
    shares_of = guidance.embed_prompts(["", "cup", "hat, back view"])
    expected = torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(shares_of, expected)


def test_finite_set_view_words_between_two_views_are_weighted_by_nearness():
    azimuth = torch.tensor([0.0, 45.0, 90.0], dtype=torch.float64)
    guidance = FiniteSetGuidance(some_images(3), ["cup"] * 3, view_shares(azimuth))
    torch.testing.assert_close(
        guidance.embed_prompts(["cup, front view"])[0], torch.tensor([2, 1, 0], dtype=torch.float64) / 3
    )


def test_finite_set_with_a_camera_means_only_the_image_from_there():
    around = torch.tensor([0.0, 60.0, 120.0], dtype=torch.float64)
    places = torch.stack([around.deg2rad().cos(), around.deg2rad().sin(), torch.zeros(3)], dim=1).repeat(2, 1)
    guidance = FiniteSetGuidance(
        some_images(6), ["cup"] * 3 + ["hat"] * 3, view_shares(around.repeat(2)), taken_from=places, spread=0.0
    )
    both = guidance.condition_on_camera(
        guidance.embed_prompts(["hat", "", "hat, side view"]), places[[1, 2, 1]] + 0.001
    )
    assert both[0].tolist() == [0, 0, 0, 0, 1, 0]
    assert both[1].tolist() == [0, 0, 0.5, 0, 0, 0.5]
    assert both[2].tolist() == [0, 0, 0, 0, 1, 0]
    x0, eps, abar = (
        guidance.encode_images(some_images(7)[6:]),
        torch.randn(1, 3, 4, 4, dtype=torch.float64),
        guidance.abar[300],
    )
    pull = guidance.predict_noise(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, torch.tensor([300]), both[:1]) - eps
    torch.testing.assert_close(pull, (abar / (1 - abar)).sqrt() * (x0 - guidance.encode_images(some_images(6)[4:5])))


def test_finite_set_without_cameras_ignores_the_camera():
    guidance = FiniteSetGuidance(some_images(2), ["cup"] * 2, torch.tensor([FRONT, BACK]))
    words = guidance.embed_prompts(["cup"])
    assert guidance.condition_on_camera(words, torch.eye(3)[:1]) is words


def test_finite_set_prompt_with_a_comma_is_no_view():
    guidance = FiniteSetGuidance(some_images(1), ["a cup, red"], torch.tensor([FRONT]))
    assert guidance.embed_prompts(["a cup, red"]).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("prompt", "message"), [("a spoon", "shows? 1 prompts, and 'a spoon' is none"), ("cup, side view", "no image")]
)
def test_finite_set_refuses_a_prompt_of_no_image(prompt, message):
    guidance = FiniteSetGuidance(some_images(1), ["cup"], torch.tensor([FRONT]))
    with pytest.raises(ValueError, match=message):
        guidance.embed_prompts([prompt])


def test_finite_set_needs_as_many_images_as_prompts_and_views():
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        FiniteSetGuidance(some_images(2), ["cup"], torch.tensor([FRONT, SIDE]))


def test_finite_set_averages_larger_images_down_and_passes_the_gradient_back():
    guidance = FiniteSetGuidance(some_images(1), ["cup"], torch.tensor([FRONT]))
    large = torch.full((1, 3, 16, 16), 0.75, dtype=torch.float64, requires_grad=True)
    latents = guidance.encode_images(large)
    torch.testing.assert_close(latents, torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64))
    latents.sum().backward()
    assert float(large.grad.sum()) == pytest.approx(2 * 3 * 4 * 4)


@pytest.mark.slow
def test_scaled_linear_is_stable_diffusions_schedule():
    diffusers = pytest.importorskip("diffusers")
    published = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    torch.testing.assert_close(scaled_linear().float(), published.alphas_cumprod, rtol=1e-4, atol=1e-5)
