import pytest
import torch

from instant3d.modules.diffusion import noise_process
from instant3d.modules.diffusion.components import build_scheduler
from instant3d.modules.diffusion.sdxl import SCHEDULER

ABAR = build_scheduler(SCHEDULER, "ddim").alphas_cumprod.double()


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, 5, 4, 3, 3, generator=generator, dtype=torch.float64)
    return z, eps, ABAR[torch.tensor([0, 10, 400, 900, 999])]


def test_a_fresh_network_is_shown_what_diffusers_would_show_it(drawn):
    z, eps, _ = drawn
    timesteps = torch.tensor([0, 10, 400, 900, 999])
    expected = build_scheduler(SCHEDULER, "ddim").add_noise(z.float(), eps.float(), timesteps)
    abar = build_scheduler(SCHEDULER, "ddim").alphas_cumprod[timesteps]
    torch.testing.assert_close(noise_process.add_noise(z.float(), eps.float(), abar), expected)


def test_the_wanted_answers_are_noise_and_the_velocity_that_diffusers_knows(drawn):
    z, eps, abar = drawn
    torch.testing.assert_close(noise_process.training_target("epsilon", z, eps, abar), eps)
    timesteps = torch.tensor([0, 10, 400, 900, 999])
    velocity = build_scheduler(SCHEDULER, "ddim").get_velocity(z.float(), eps.float(), timesteps)
    torch.testing.assert_close(noise_process.training_target("v_prediction", z, eps, abar).float(), velocity)


@pytest.mark.parametrize("kind", noise_process.KINDS)
def test_a_right_answer_stands_for_the_clean_sample_and_for_its_noise(kind, drawn):
    z, eps, abar = drawn
    answer = noise_process.training_target(kind, z, eps, abar)
    torch.testing.assert_close(
        noise_process.predict_clean(kind, answer, noise_process.add_noise(z, eps, abar), abar), z
    )
    torch.testing.assert_close(
        noise_process.predict_noise(kind, answer, noise_process.add_noise(z, eps, abar), abar), eps
    )


def test_velocity_is_the_way_that_a_sample_moves_along_the_angle_of_its_noise():
    z, eps = torch.randn(2, 1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    angle = torch.tensor([0.6], dtype=torch.float64, requires_grad=True)
    moved = torch.autograd.functional.jacobian(lambda a: noise_process.add_noise(z, eps, a.cos() ** 2), angle)[..., 0]
    torch.testing.assert_close(noise_process.training_target("v_prediction", z, eps, angle.detach().cos() ** 2), moved)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_weights_of_noise_prediction_are_min_snr_over_snr(gamma):
    snr = ABAR / (1 - ABAR)
    expected = torch.minimum(snr, torch.tensor(gamma, dtype=snr.dtype)) / snr
    torch.testing.assert_close(noise_process.min_snr_weight("epsilon", ABAR, gamma), expected)
    assert expected.min() < 0.01 < 0.99 < expected.max()  # both branches are met


@pytest.mark.parametrize("kind", noise_process.KINDS)
def test_a_weighed_error_is_the_error_of_the_clean_sample_times_min_snr(kind, drawn):
    z, eps, abar = drawn
    x_t, wanted = noise_process.add_noise(z, eps, abar), noise_process.training_target(kind, z, eps, abar)
    answer = wanted + 0.1 * torch.ones_like(z)
    weighed = noise_process.min_snr_weight(kind, abar, 5.0) * (answer - wanted).square().mean((1, 2, 3))
    of_clean = (noise_process.predict_clean(kind, answer, x_t, abar) - z).square().mean((1, 2, 3))
    torch.testing.assert_close(weighed, (abar / (1 - abar)).clamp(max=5.0) * of_clean)


@pytest.mark.parametrize("kind", noise_process.KINDS)
def test_weights_stay_finite_without_noise_and_without_signal(kind):
    weights = noise_process.min_snr_weight(kind, torch.tensor([0.0, 1.0]), 5.0)
    assert torch.isfinite(weights).all()
    assert weights[1] == 0  # a sample without noise teaches nothing


def test_half_precision_samples_stay_half(drawn):
    z, eps, abar = (tensor.half() for tensor in drawn)
    assert noise_process.add_noise(z, eps, abar.float()).dtype == torch.float16


def test_an_unknown_kind_and_a_useless_gamma_are_refused(drawn):
    z, eps, abar = drawn
    with pytest.raises(ValueError, match="one of epsilon, v_prediction, not 'sample'"):
        noise_process.training_target("sample", z, eps, abar)
    with pytest.raises(ValueError, match="above 0, got 0"):
        noise_process.min_snr_weight("epsilon", abar, 0)
