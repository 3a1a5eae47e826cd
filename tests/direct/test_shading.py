"""Shaded fields: a ball against the closed form, modes against each other, density evaluations."""

import pytest
import torch
from analytic_fields import Formula, ball
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import orbit
from instant3d.direct.shading import SCALE, ShadedField, light_directions
from instant3d.nerf.field import finite_difference_normals
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField
from instant3d.nerf.volume import march, render

BALL = ball(100.0, radius=0.5, softness=0.05)
LIGHT = torch.tensor([0.0, 3.0, 4.0])


def shell(count: int = 200) -> Tensor:
    """Points (count, 3) at distances of 0.4 to 0.6 from the origin."""
    generator = torch.Generator().manual_seed(0)
    toward = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return toward * (0.4 + 0.2 * torch.rand(count, 1, generator=generator))


def new_field(batch: int = 2) -> TriplaneField:
    """Field of an untrained decoder with the blob."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(4, 16, 2, activation="softplus", blob=17.5, blob_radius=0.343, rgb="scaled"))
    return TriplaneField(Triplane(0.3 * torch.randn(batch, 3, 4, 8, 8)), decoder)


class Counted:
    """A field that counts the points at which it is evaluated."""

    def __init__(self) -> None:
        self.points = 0

    def density(self, points: Tensor) -> Tensor:
        self.points += points.shape[-2]
        return BALL.density(points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        self.points += points.shape[-2]
        return BALL(points)


def test_normals_of_a_ball_are_its_radii():
    torch.testing.assert_close(
        finite_difference_normals(BALL, shell()), F.normalize(shell(), dim=-1), atol=1e-3, rtol=0
    )


def test_normals_are_found_where_density_has_long_been_zero():
    """Softplus of the blob's slope ends in float32's zero; before the activation it goes on."""
    decoder = Decoder(DecoderConfig(2, 8, 2, blob=300.0, blob_radius=0.5))
    torch.nn.init.zeros_(decoder.last.weight)
    field = TriplaneField(Triplane(torch.zeros(3, 2, 4, 4)), decoder)
    points = 1.8 * shell()
    assert field.density(points).max() == 0
    torch.testing.assert_close(finite_difference_normals(field, points), F.normalize(points, dim=-1), atol=1e-3, rtol=0)


def test_normals_of_a_new_field_with_the_blob_on_are_unit_and_finite_everywhere():
    points = 2 * torch.rand(2, 500, 3, generator=torch.Generator().manual_seed(1)) - 1
    lengths = finite_difference_normals(new_field(), points).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(2, 500))


def test_normals_by_finite_differences_agree_with_the_derivative():
    field, points = new_field(), shell()[None].expand(2, -1, -1)
    height = Formula(field.raw_density)
    points = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(height.density(points).sum(), points)
    exact = -F.normalize(gradient, dim=-1)
    cosine = (finite_difference_normals(field, points.detach()) * exact).sum(-1)
    assert cosine.median() > 0.9999  # bilinear planes have edges, where the two differ


def test_shaded_lambertian_ball_receives_the_cosine_of_its_normal_and_at_least_a_tenth():
    points = shell()
    cosine = (F.normalize(points, dim=-1) * LIGHT / 5).sum(-1, keepdim=True).clamp(min=0.1)
    expected = 0.3 + 0.7 * cosine
    density, lit = ShadedField(BALL, "lambertian", LIGHT, ambient=0.3)(points)
    assert torch.equal(density, BALL.density(points))
    torch.testing.assert_close(lit, BALL(points)[1] * expected, atol=2e-3, rtol=0)
    grey = ShadedField(BALL, "textureless", LIGHT, ambient=0.3)(points)[1]
    torch.testing.assert_close(grey, expected.expand(-1, 3), atol=2e-3, rtol=0)


def test_shading_makes_the_side_towards_the_light_the_brighter_one():
    """Views from above and below, under a light from above."""
    cameras = orbit([0.0, 0.0], [80.0, -80.0])
    shown = render(
        ShadedField(BALL, "textureless", torch.tensor([0.0, 0.0, 1.0])), cameras, 9, 9, samples=64, importance=0
    )
    top, bottom = shown.rgb[:, :, 4, 4].mean(-1)
    assert top.item() == pytest.approx(0.1 + 0.9 * 0.98, abs=0.03)
    assert bottom.item() == pytest.approx(0.1 + 0.9 * 0.1, abs=0.03)


def test_normal_shading_shows_the_worlds_axes_as_colours():
    points = torch.tensor([[0.5, 0.0, 0.0], [0.0, -0.5, 0.0], [0.0, 0.0, 0.5]])
    expected = torch.tensor([[1.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 1.0]])
    torch.testing.assert_close(ShadedField(BALL, "normal")(points)[1], expected, atol=1e-3, rtol=0)


def test_shading_by_ambient_light_alone_leaves_the_colours_and_albedo_leaves_the_field():
    points = shell()
    torch.testing.assert_close(ShadedField(BALL, "lambertian", LIGHT, ambient=1.0)(points)[1], BALL(points)[1])
    for some, other in zip(ShadedField(BALL, "albedo")(points), BALL(points), strict=True):
        assert torch.equal(some, other)


@pytest.mark.parametrize(("mode", "evaluations"), [("albedo", 1), ("lambertian", 7), ("textureless", 7), ("normal", 7)])
def test_normals_are_computed_only_where_shading_needs_them(mode, evaluations):
    field = Counted()
    ShadedField(field, mode, LIGHT)(shell(50))
    assert field.points == 50 * evaluations


def test_shading_gives_each_object_its_own_light():
    field, points = new_field(), shell()[None].expand(2, -1, -1)
    lights = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    both = ShadedField(field, "textureless", lights)(points)[1]
    for k in range(2):
        torch.testing.assert_close(both[k], ShadedField(field, "textureless", lights[k].expand(2, 3))(points)[1][k])
    assert (both[0] - both[1]).abs().max() > 0.3


def test_shading_alone_trains_the_density():
    planes = (0.3 * torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    field = TriplaneField(Triplane(planes), new_field().decoder)
    rays = orbit([0.0], [20.0], radius=2.0).rays(6, 6).map(lambda part: part.flatten(-3, -2))
    shown = march(ShadedField(field, "normal"), rays, samples=16)
    (shown.rgb / shown.alpha.detach().clamp(min=0.1)[..., None]).square().sum().backward()
    assert planes.grad.isfinite().all()
    assert planes.grad.abs().max() > 1e-4


def test_light_directions_are_around_the_cameras():
    """A light's direction is the camera's position moved by noise of one unit of the paper's world, on the sphere."""
    cameras = orbit([30.0] * 4000, [20.0] * 4000, radius=1.9)
    lights = light_directions(cameras, torch.Generator().manual_seed(0))
    torch.testing.assert_close(lights.norm(dim=-1), torch.ones(4000))
    toward = F.normalize(cameras.positions[0], dim=-1)
    torch.testing.assert_close(F.normalize(lights.mean(0), dim=-1), toward, atol=0.02, rtol=0)
    sideways = (lights / (lights @ toward)[:, None] - toward).norm(dim=-1)  # tangent of the angle between the two
    assert sideways.median().item() == pytest.approx(1.177 / SCALE / 1.9, rel=0.1)  # Rayleigh's median


def test_shading_without_a_light_is_refused():
    with pytest.raises(ValueError, match="lambertian shading needs directions"):
        ShadedField(BALL, "lambertian")
