"""Score distillation against closed forms: a model of one image, linear encoders, and plain linear algebra."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from instant3d.direct.guidance.sds import (
    classifier_free_guidance,
    mix_conditions,
    perp_neg,
    predict_noise,
    sample_timesteps,
    sds_surrogate_loss,
    timestep_weight,
)
from instant3d.modules.diffusion.noise_process import add_noise
from instant3d.utils.tensor_dataclass import TensorDataclass

ABAR = torch.linspace(0.9999, 0.005, 1000, dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class OneImageGuidance:
    """Exact model of one image, whose latents are a linear map of images."""

    abar = ABAR

    def __init__(self, image: Tensor, encoder: Tensor) -> None:
        self.image, self.encoder = image, encoder

    def encode_images(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.encoder.T

    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        abar = self.abar[t][:, None]
        return (x_t - abar.sqrt() * self.image) / (1 - abar).sqrt()


def sds(guidance: OneImageGuidance, images: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """One step of score distillation; returns x0."""
    x0, abar = guidance.encode_images(images), guidance.abar[t]
    (eps_hat,) = predict_noise(guidance, add_noise(x0.detach(), eps, abar), t, [torch.zeros(len(t), 1)])
    sds_surrogate_loss(x0, timestep_weight(abar)[:, None] * (eps_hat - eps)).backward()
    return x0.detach()


def test_sds_gradient_on_an_image_is_the_closed_form_through_the_encoder():
    encoder, images = drawn(5, 12), drawn(4, 3, 2, 2, seed=1).requires_grad_()
    guidance, t, eps = (
        OneImageGuidance(drawn(5, seed=2), encoder),
        torch.tensor([20, 300, 700, 980]),
        drawn(4, 5, seed=3),
    )
    x0 = sds(guidance, images, t, eps)
    abar = ABAR[t][:, None]
    # for any noise: eps_hat - eps = sqrt(abar / (1 - abar)) (x0 - image)
    expected = (1 - abar) * (abar / (1 - abar)).sqrt() * (x0 - guidance.image) / 4
    torch.testing.assert_close(images.grad.flatten(1), expected @ encoder, atol=1e-12, rtol=1e-10)


def test_sds_gradient_of_the_only_image_is_zero():
    image = drawn(12)
    images = image.reshape(1, 3, 2, 2).repeat(4, 1, 1, 1).requires_grad_()
    sds(
        OneImageGuidance(image, torch.eye(12).double()), images, torch.tensor([20, 300, 700, 980]), drawn(4, 12, seed=3)
    )
    assert images.grad.abs().max() < 1e-12


def test_sds_surrogate_loss_has_exactly_the_gradient_over_the_batch():
    x0, gradient = drawn(3, 4, 2, 2).requires_grad_(), drawn(3, 4, 2, 2, seed=1).requires_grad_()
    loss = sds_surrogate_loss(x0, gradient)
    loss.backward()
    assert torch.equal(x0.grad, gradient.detach() / 3)
    assert gradient.grad is None
    assert loss.item() == pytest.approx(gradient.square().sum().item() / 6)


def test_sds_is_equivariant_to_the_order_of_samples():
    order = torch.tensor([2, 0, 3, 1])
    guidance, t, eps = (
        OneImageGuidance(drawn(12), torch.eye(12).double()),
        torch.tensor([20, 300, 700, 980]),
        drawn(4, 12),
    )
    one, other = (drawn(4, 3, 2, 2, seed=1)[places].requires_grad_() for places in (torch.arange(4), order))
    sds(guidance, one, t, eps)
    sds(guidance, other, t[order], eps[order])
    torch.testing.assert_close(one.grad[order], other.grad)


class Learned(nn.Module):
    """A guidance model with a weight, which counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 6).double(), 0

    def predict_noise(self, x_t: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x_t) * (1 + t[:, None]) + conditions


def test_predict_noise_makes_one_call_with_the_results_of_single_ones():
    guidance, x_t, t = Learned(), drawn(3, 6), torch.tensor([5, 6, 7])
    conditions = [drawn(3, 6, seed=seed) for seed in range(4)]
    found = predict_noise(guidance, x_t, t, conditions)
    assert guidance.calls == 1
    for prediction, condition in zip(found, conditions, strict=True):
        torch.testing.assert_close(prediction, guidance.predict_noise(x_t, t, condition))


def test_predict_noise_passes_no_gradient_to_the_guidance_model():
    guidance, x0 = Learned(), drawn(3, 6).requires_grad_()
    (prediction,) = predict_noise(guidance, x0, torch.tensor([5, 6, 7]), [torch.zeros(3, 6)])
    sds_surrogate_loss(x0, prediction).backward()
    assert not prediction.requires_grad
    assert [parameter.grad for parameter in guidance.parameters()] == [None, None]


@dataclass(frozen=True)
class Words(TensorDataclass):
    tokens: Tensor
    mask: Tensor


def test_mix_conditions_is_the_weighted_mean_of_embeddings():
    words, shares = drawn(2, 3, 4, 5), torch.tensor([[0.25, 0.75, 0], [0, 0, 1]])
    expected = torch.stack([0.25 * words[0, 0] + 0.75 * words[0, 1], words[1, 2]])
    torch.testing.assert_close(mix_conditions(words, shares), expected)
    mask = torch.tensor([[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]] * 2).bool()
    mixed = mix_conditions(Words(words, mask), shares)
    torch.testing.assert_close(mixed.tokens, expected)
    assert mixed.mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_sample_timesteps_fills_the_range_with_both_ends_and_repeats_for_a_seed():
    found = sample_timesteps(40_000, 1000, torch.Generator().manual_seed(0))
    assert (found.min(), found.max()) == (20, 980)
    assert found.double().mean().item() == pytest.approx(500, abs=5)
    assert torch.equal(found, sample_timesteps(40_000, 1000, torch.Generator().manual_seed(0)))
    assert set(sample_timesteps(99, 10, least=0.5, most=1.0).tolist()) == {5, 6, 7, 8, 9}
    with pytest.raises(ValueError, match=r"0 <= least <= most <= 1, got 0.98 and 0.02"):
        sample_timesteps(1, 1000, least=0.98, most=0.02)


def test_timestep_weight_is_the_named_formula():
    abar = torch.tensor([1.0, 0.25, 0.0])
    assert timestep_weight(abar).tolist() == [0, 0.75, 1]
    assert timestep_weight(abar, "fantasia3d").tolist() == [0, 0.375, 0]
    assert timestep_weight(abar, "uniform").tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"no weighting 'sds'.*dreamfusion, uniform, fantasia3d"):
        timestep_weight(abar, "sds")


def test_classifier_free_guidance_of_one_is_the_prompts_own_prediction_and_of_zero_none():
    unconditional, positive = drawn(2, 3, 4, 2, 2)
    torch.testing.assert_close(classifier_free_guidance(unconditional, positive, 1.0), positive)
    torch.testing.assert_close(classifier_free_guidance(unconditional, positive, 0.0), unconditional)
    torch.testing.assert_close(
        classifier_free_guidance(unconditional, positive, 7.5), 7.5 * positive - 6.5 * unconditional
    )


@pytest.fixture
def predictions():
    """Predictions for no prompt, the prompt and two negative ones, (3, 4, 2, 2) each; weights (2, 3)."""
    unconditional, positive, *negative = drawn(4, 3, 4, 2, 2)
    return unconditional, positive, torch.stack(negative), torch.tensor([[1.0, 0.5, 3.0], [0.3, 2.0, 0.0]])


def subtracted(predictions, scale=1.0):
    """What Perp-Neg subtracts from plain guidance, a row for each sample, and the rows of e_pos."""
    unconditional, positive, *rest = predictions
    removed = classifier_free_guidance(unconditional, positive, scale) - perp_neg(unconditional, positive, *rest, scale)
    return removed.flatten(1), (positive - unconditional).flatten(1)


def test_perp_neg_subtracts_what_is_perpendicular_to_the_prompt_in_each_sample(predictions):
    removed, toward = subtracted(predictions)
    size = removed.norm(dim=1) * toward.norm(dim=1)
    assert size.min() > 1
    assert ((removed * toward).sum(1).abs() / size).max() < 1e-12


def test_perp_neg_subtracts_all_that_negatives_add_besides_the_prompt(predictions):
    unconditional, _, negative, weights = predictions
    removed, toward = subtracted(predictions)
    for sample in range(3):
        # the part of a vector that no multiple of e_pos explains, by least squares
        basis = toward[sample][:, None]
        for index in range(2):
            away = (negative[index, sample] - unconditional[sample]).flatten()[:, None]
            rest = away - basis @ torch.linalg.lstsq(basis, away).solution
            removed[sample] -= weights[index, sample] * rest[:, 0]
    assert removed.abs().max() < 1e-12


def test_perp_neg_with_the_positive_prompt_as_negative_changes_nothing(predictions):
    unconditional, positive, _, weights = predictions
    found = perp_neg(unconditional, positive, torch.stack([positive, positive]), weights, 100.0)
    assert torch.equal(found, classifier_free_guidance(unconditional, positive, 100.0))


def test_perp_neg_of_weight_zero_is_plain_guidance(predictions):
    unconditional, positive, negative, weights = predictions
    for perpendicular in (True, False):
        found = perp_neg(unconditional, positive, negative, 0 * weights, 7.0, perpendicular=perpendicular)
        assert torch.equal(found, classifier_free_guidance(unconditional, positive, 7.0))


def test_perp_neg_is_linear_in_weights_and_scale(predictions):
    unconditional, positive, negative, weights = predictions
    once, _ = subtracted(predictions)
    torch.testing.assert_close(subtracted((unconditional, positive, negative, 2 * weights))[0], 2 * once)
    torch.testing.assert_close(subtracted(predictions, scale=5.0)[0], 5 * once)
    apart = [subtracted((unconditional, positive, negative[[k]], weights[[k]]))[0] for k in range(2)]
    torch.testing.assert_close(apart[0] + apart[1], once)


def test_perp_neg_does_not_depend_on_the_length_of_the_positive_prediction(predictions):
    unconditional, positive, negative, weights = predictions
    scaled = unconditional + 40 * (positive - unconditional)
    torch.testing.assert_close(subtracted((unconditional, scaled, negative, weights))[0], subtracted(predictions)[0])


def test_perp_neg_is_finite_for_a_prompt_without_effect(predictions):
    unconditional, _, negative, weights = predictions
    found = perp_neg(unconditional, unconditional, negative, weights, 2.0)
    plain = perp_neg(unconditional, unconditional, negative, weights, 2.0, perpendicular=False)
    torch.testing.assert_close(found, plain)
    assert found.isfinite().all()


def test_perp_neg_does_not_depend_on_other_samples_of_the_batch(predictions):
    unconditional, positive, negative, weights = predictions
    whole = perp_neg(unconditional, positive, negative, weights, 7.0)
    for k in range(3):
        alone = perp_neg(unconditional[[k]], positive[[k]], negative[:, [k]], weights[:, [k]], 7.0)
        torch.testing.assert_close(alone[0], whole[k])


def test_perp_neg_without_the_projection_subtracts_negatives_whole(predictions):
    unconditional, positive, negative, weights = predictions
    found = perp_neg(unconditional, positive, negative, weights, 3.0, perpendicular=False)
    for k in range(3):
        toward = (
            positive[k] - unconditional[k] - sum(weights[i, k] * (negative[i, k] - unconditional[k]) for i in range(2))
        )
        torch.testing.assert_close(found[k], unconditional[k] + 3 * toward)


def test_perp_neg_of_half_precision_computes_in_float32(predictions):
    unconditional, positive, negative, weights = (part.half() for part in predictions)
    found = perp_neg(unconditional, positive, negative, weights, 100.0)
    expected = perp_neg(*(part.double() for part in (unconditional, positive, negative, weights)), 100.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-4)
