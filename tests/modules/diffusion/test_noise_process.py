import pytest
import torch

from instant3d.modules.diffusion import noise_process
from instant3d.modules.diffusion.schedulers import build_scheduler
from instant3d.modules.diffusion.sdxl import SCHEDULER

ABAR = build_scheduler(SCHEDULER, "ddim").alphas_cumprod.double()


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, 5, 4, 3, 3, generator=generator, dtype=torch.float64)
    return z, eps, ABAR[torch.tensor([0, 10, 400, 900, 999])]


def test_add_noise_agrees_with_diffusers(drawn):
    z, eps, _ = drawn
    timesteps = torch.tensor([0, 10, 400, 900, 999])
    expected = build_scheduler(SCHEDULER, "ddim").add_noise(z.float(), eps.float(), timesteps)
    abar = build_scheduler(SCHEDULER, "ddim").alphas_cumprod[timesteps]
    torch.testing.assert_close(noise_process.add_noise(z.float(), eps.float(), abar), expected)


def test_training_target_is_the_noise_or_the_velocity_of_diffusers(drawn):
    z, eps, abar = drawn
    torch.testing.assert_close(noise_process.training_target("epsilon", z, eps, abar), eps)
    timesteps = torch.tensor([0, 10, 400, 900, 999])
    velocity = build_scheduler(SCHEDULER, "ddim").get_velocity(z.float(), eps.float(), timesteps)
    torch.testing.assert_close(noise_process.training_target("v_prediction", z, eps, abar).float(), velocity)


@pytest.mark.parametrize("kind", noise_process.KINDS)
def test_predict_clean_and_predict_noise_invert_the_training_target(kind, drawn):
    z, eps, abar = drawn
    prediction = noise_process.training_target(kind, z, eps, abar)
    torch.testing.assert_close(
        noise_process.predict_clean(kind, prediction, noise_process.add_noise(z, eps, abar), abar), z
    )
    torch.testing.assert_close(
        noise_process.predict_noise(kind, prediction, noise_process.add_noise(z, eps, abar), abar), eps
    )


def test_training_target_of_velocity_is_the_derivative_of_a_sample_along_the_angle_of_its_noise():
    z, eps = torch.randn(2, 1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    angle = torch.tensor([0.6], dtype=torch.float64, requires_grad=True)
    moved = torch.autograd.functional.jacobian(lambda a: noise_process.add_noise(z, eps, a.cos() ** 2), angle)[..., 0]
    torch.testing.assert_close(noise_process.training_target("v_prediction", z, eps, angle.detach().cos() ** 2), moved)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weight_of_noise_prediction_is_min_snr_over_snr(gamma):
    snr = ABAR / (1 - ABAR)
    expected = torch.minimum(snr, torch.tensor(gamma, dtype=snr.dtype)) / snr
    torch.testing.assert_close(noise_process.min_snr_weight("epsilon", ABAR, gamma), expected)
    assert expected.min() < 0.01 < 0.99 < expected.max()  # both branches occur


@pytest.mark.parametrize("kind", noise_process.KINDS)
def test_min_snr_weight_times_the_error_is_min_snr_times_the_error_of_the_clean_sample(kind, drawn):
    z, eps, abar = drawn
    x_t, target = noise_process.add_noise(z, eps, abar), noise_process.training_target(kind, z, eps, abar)
    prediction = target + 0.1 * torch.ones_like(z)
    weighed = noise_process.min_snr_weight(kind, abar, 5.0) * (prediction - target).square().mean((1, 2, 3))
    of_clean = (noise_process.predict_clean(kind, prediction, x_t, abar) - z).square().mean((1, 2, 3))
    torch.testing.assert_close(weighed, (abar / (1 - abar)).clamp(max=5.0) * of_clean)


@pytest.mark.parametrize("kind", noise_process.KINDS)
def test_min_snr_weight_is_finite_without_noise_and_without_signal(kind):
    weights = noise_process.min_snr_weight(kind, torch.tensor([0.0, 1.0]), 5.0)
    assert torch.isfinite(weights).all()
    assert weights[1] == 0  # a sample without noise has no weight


def test_add_noise_keeps_half_precision(drawn):
    z, eps, abar = (tensor.half() for tensor in drawn)
    assert noise_process.add_noise(z, eps, abar.float()).dtype == torch.float16


def test_noise_process_checks_prediction_kind_and_gamma(drawn):
    z, eps, abar = drawn
    with pytest.raises(ValueError, match="one of epsilon, v_prediction, not 'sample'"):
        noise_process.training_target("sample", z, eps, abar)
    with pytest.raises(ValueError, match="above 0, got 0"):
        noise_process.min_snr_weight("epsilon", abar, 0)
