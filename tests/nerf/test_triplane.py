"""The decoder against concatenation and the whole MLP, fields of a batch, and baked fields."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.textbook import TextbookField
from instant3d.nerf.baked_field import BakedField, bake, density_then_color, grid_density
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField, scaled_sigmoid

TEXTS = {"activation": "softplus", "aggregate": "mean", "blob": 3.0, "blob_radius": 0.4, "rgb": "scaled"}


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_planes(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=chance(1), dtype=dtype)


def random_points(*shape: int, reach: float = 1.6, dtype: torch.dtype = torch.float32) -> Tensor:
    """Points inside and outside the cube."""
    return reach * (2 * torch.rand(*shape, 3, generator=chance(2), dtype=dtype) - 1)


def random_decoder(channels: int = 6, width: int = 16, layers: int = 4, **options: str | float) -> Decoder:
    decoder = Decoder(DecoderConfig(channels, width, layers, **options))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance(parameter.numel())) * 0.4)
        for alpha in decoder.buffers():
            alpha.fill_(0.6)
    return decoder


@pytest.mark.parametrize("options", [{}, {"activation": "silu", "density": "exp"}, TEXTS])
def test_decoder_project_gives_what_concatenation_and_the_whole_mlp_give(options):
    triplane, decoder = Triplane(random_planes(3, 6, 9, 9)), random_decoder(**options)
    points = random_points(400)
    density, rgb = TriplaneField(triplane, decoder)(points)
    expected_density, expected_rgb = TextbookField(triplane, decoder)(points)
    torch.testing.assert_close(density, expected_density, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rgb, expected_rgb, rtol=1e-4, atol=1e-5)


def test_decoder_project_passes_the_same_gradients_to_planes_and_weights():
    planes, points = random_planes(3, 6, 5, 5).requires_grad_(), random_points(100)
    decoder = random_decoder()
    wanted = [planes, *decoder.parameters()]
    found = []
    for kind in (TriplaneField, TextbookField):
        density, rgb = kind(Triplane(planes), decoder)(points)
        found.append(torch.autograd.grad(density.sum() + rgb.square().sum(), wanted))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_triplane_field_density_alone_equals_density_beside_colour():
    field = TriplaneField(Triplane(random_planes(3, 6, 5, 5)), random_decoder())
    points = random_points(100)
    torch.testing.assert_close(field.density(points), field(points)[0])


def test_triplane_field_objects_of_a_batch_do_not_mix():
    planes, points, decoder = random_planes(2, 3, 6, 5, 5), random_points(2, 60), random_decoder()
    together = TriplaneField(Triplane(planes), decoder)(points)[1]
    for k in range(2):
        torch.testing.assert_close(together[k], TriplaneField(Triplane(planes[k]), decoder)(points[k])[1])


@pytest.mark.parametrize("baked", [True, False])
def test_density_then_color_of_chosen_points_equals_the_field_baked_or_not(baked):
    field = TriplaneField(Triplane(random_planes(3, 6, 9, 9)), random_decoder())
    points, chosen = random_points(300), torch.tensor([7, 250, 0])
    expected_density, expected_rgb = field(points)
    density, color_at = density_then_color(bake(field, exact=True) if baked else field, points)
    torch.testing.assert_close(density, expected_density, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(color_at(chosen), expected_rgb[chosen], rtol=1e-4, atol=1e-5)


def test_density_then_color_of_a_baked_field_runs_its_decoder_once(monkeypatch):
    field, passes = bake(TriplaneField(Triplane(random_planes(3, 6, 5, 5)), random_decoder()), exact=True), []
    read = BakedField._read
    monkeypatch.setattr(BakedField, "_read", lambda *given: passes.append(1) or read(*given))
    density_then_color(field, random_points(100))[1](torch.arange(50))
    assert len(passes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"activation": "relu"}, {"activation": "silu"}, TEXTS])
def test_baked_field_equals_the_field(options):
    field = TriplaneField(Triplane(random_planes(3, 6, 9, 9)), random_decoder(**options))
    points = random_points(20_000)  # more than one chunk
    expected_density, expected_rgb = field(points)
    density, rgb = bake(field, exact=True)(points)
    torch.testing.assert_close(density, expected_density, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rgb, expected_rgb, rtol=1e-4, atol=1e-5)
    rounded = BakedField(field, torch.bfloat16)
    torch.testing.assert_close(rounded(points)[1], expected_rgb, rtol=0, atol=0.03)
    torch.testing.assert_close(rounded.density(points), rounded(points)[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("options", [{}, TEXTS])
def test_grid_density_equals_densities_point_by_point(options):
    field = TriplaneField(Triplane(random_planes(3, 6, 9, 9)), random_decoder(**options))
    axis = torch.linspace(-1.2, 1.1, 9)
    at_once = grid_density(bake(field, exact=True), axis)
    points = torch.cartesian_prod(axis, axis, axis)
    torch.testing.assert_close(at_once.flatten(), field.density(points), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_decoder_mean_of_three_planes_is_read_alike_from_each_of_them(plane):
    """A plane that holds the same everywhere counts a third, whichever it is."""
    decoder = random_decoder(aggregate="mean")
    planes = torch.zeros(3, 6, 4, 4)
    planes[plane] = 3 * torch.randn(6, generator=chance(4))[:, None, None]
    state = planes[plane, :, 0, 0] / 3
    for layer in (decoder.first, *decoder.hidden):
        state = F.relu(layer(state))
    expected = torch.sigmoid(decoder.last(state)[1:]) * 1.002 - 0.001
    rgb = TriplaneField(Triplane(planes), decoder)(random_points(20, reach=0.7))[1]
    torch.testing.assert_close(rgb, expected.expand(20, 3))


def test_decoder_of_a_new_field_is_a_blob():
    """softplus(blob (1 - |x| / radius) + bias): half of the blob's height lies at half of its radius."""
    decoder = Decoder(DecoderConfig(2, 8, 2, density_bias=-1.0, blob=17.5, blob_radius=0.343))
    torch.nn.init.zeros_(decoder.last.weight)
    field, points = TriplaneField(Triplane(torch.zeros(3, 2, 4, 4)), decoder), random_points(300, reach=1.0)
    distance = points.square().sum(-1).sqrt()
    torch.testing.assert_close(
        field.density(points), F.softplus(17.5 - 17.5 / 0.343 * distance - 1), rtol=1e-4, atol=1e-5
    )
    height = field.raw_density(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.343 / 2, 0.0], [0.0, 0.0, 0.343]]))
    torch.testing.assert_close(height, torch.tensor([17.5, 8.75, 0.0]))


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
def test_scaled_sigmoid_has_the_slope_of_the_plain_one_at_zero_and_twice_its_range_at_a_half(alpha):
    raw = torch.linspace(-30, 30, 61, dtype=torch.float64).requires_grad_()
    value = scaled_sigmoid(raw, alpha)
    assert value[30].item() == pytest.approx(1 / (2 * alpha))
    (slope,) = torch.autograd.grad(value.sum(), raw)
    assert slope[30].item() == pytest.approx(0.25)
    torch.testing.assert_close(value + value.flip(0), torch.full_like(value, 1 / alpha))
    assert 0 < value.min() < 1e-6
    assert 1 / alpha - 1e-6 < value.max() <= 1 / alpha
    torch.testing.assert_close(scaled_sigmoid(raw, 1.0), torch.sigmoid(raw))
    assert torch.autograd.gradcheck(
        lambda x: scaled_sigmoid(x, alpha), torch.randn(5, dtype=torch.float64).requires_grad_()
    )


def test_decoder_alpha_travels_with_the_weights_and_is_the_same_in_training_and_evaluation():
    decoder, other = random_decoder(rgb="scaled"), Decoder(DecoderConfig(6, 16, 4, rgb="scaled"))
    other.load_state_dict(decoder.state_dict())
    field, points = TriplaneField(Triplane(random_planes(3, 6, 9, 9)), other.train()), random_points(50)
    torch.testing.assert_close(field(points)[1], torch.sigmoid(0.6 * field._raw(points, 4)[:, 1:]) / 0.6)
    trained = field(points)[1]
    other.eval()
    assert torch.equal(field(points)[1], trained)
    assert field(points)[1].max() > 1
    assert "alpha" not in random_decoder().state_dict()


def test_decoder_refuses_a_blob_without_a_radius():
    with pytest.raises(ValueError, match="a blob of density needs a radius above 0, got 0"):
        Decoder(DecoderConfig(2, blob=1.0, blob_radius=0))


def test_triplane_refuses_planes_of_another_shape():
    with pytest.raises(ValueError, match="needs planes of shape"):
        Triplane(torch.zeros(3, 4, 5, 6))


def test_decoder_config_takes_an_architectures_fields_and_defaults_for_those_that_it_lacks():
    network = SimpleNamespace(channels=5, width=999, decoder_width=7, layers=999, decoder_layers=3, density="exp")
    assert DecoderConfig.from_architecture(network) == DecoderConfig(channels=5, width=7, layers=3, density="exp")
