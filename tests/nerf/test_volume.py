"""Volume rendering against fog, walls and balls whose images have closed forms."""

import math

import pytest
import torch

from instant3d.cameras import Cameras, Rays, intrinsics_from_fov, look_at, orbit, random_sphere
from instant3d.nerf.compositing import composite, rendering_weights
from instant3d.nerf.ray_sampling import box_span, even_edges, importance_edges
from instant3d.nerf.volume import march, render


class Fog:
    """Density that is the same everywhere; its colour encodes the position."""

    def __init__(self, density):
        self.value = density

    def density(self, points):
        return torch.full(points.shape[:-1], self.value)

    def __call__(self, points):
        return self.density(points), ((points + 1) / 2).clamp(0, 1)


class Ball:
    """An opaque ball off the centre, softened over 0.01."""

    centre = torch.tensor([0.3, -0.2, 0.1])
    radius = 0.4

    def density(self, points):
        away = (points - self.centre).norm(dim=-1) - self.radius
        return 300 * torch.sigmoid(-away / 0.005)

    def __call__(self, points):
        return self.density(points), ((points + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize("samples", [1, 7, 64])
def test_composite_fog_absorbs_by_its_length_alone(samples):
    edges = torch.linspace(1.0, 3.0, samples + 1)
    fog = composite(torch.full((samples,), 0.7), torch.ones(samples, 3), edges)
    torch.testing.assert_close(fog.alpha, 1 - torch.exp(torch.tensor(-0.7 * 2.0)))


def test_rendering_weights_leave_the_rest_of_the_light():
    density, edges = torch.rand(5, 9) * 4, torch.rand(5, 10).cumsum(-1)
    passed = torch.exp(-(density * edges.diff(dim=-1)).sum(-1))
    torch.testing.assert_close(rendering_weights(density, edges).sum(-1) + passed, torch.ones(5))


def test_composite_hides_what_stands_behind_a_wall():
    density, rgb = torch.tensor([0.0, 1e4, 1e4]), torch.eye(3)
    seen = composite(density, rgb, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    torch.testing.assert_close(seen.rgb, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(seen.distance, torch.tensor(1.5))


@pytest.mark.parametrize(
    ("origin", "direction", "near", "far"),
    [
        ((-3.0, 0.0, 0.0), (1.0, 0.0, 0.0), 2.0, 4.0),
        ((0.0, 0.0, 0.0), (0.0, 0.0, -1.0), 0.0, 1.0),  # from inside
        ((-2.0, -2.0, 0.0), (math.sqrt(0.5), math.sqrt(0.5), 0.0), math.sqrt(2), 3 * math.sqrt(2)),
        ((-3.0, 1.5, 0.0), (1.0, 0.0, 0.0), None, None),  # beside it
        ((3.0, 0.0, 0.0), (1.0, 0.0, 0.0), None, None),  # behind the camera
    ],
)
def test_box_span_is_where_rays_enter_and_leave_the_cube(origin, direction, near, far):
    start, end = box_span(Rays(torch.tensor(origin), torch.tensor(direction)))
    if near is None:
        assert start == end
    else:
        assert float(start) == pytest.approx(near, abs=1e-6)
        assert float(end) == pytest.approx(far, abs=1e-6)


@pytest.mark.parametrize(("samples", "importance"), [(3, 0), (16, 0), (16, 9)])
@pytest.mark.parametrize("seed", [None, 0])
def test_march_makes_fog_in_the_cube_exactly_as_opaque_as_each_rays_way_through_it(samples, importance, seed):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    cameras = random_sphere(3, torch.Generator().manual_seed(1))
    shown = render(Fog(0.8), cameras, 12, 12, samples=samples, importance=importance, generator=generator)
    near, far = box_span(cameras.rays(12, 12))
    torch.testing.assert_close(shown.alpha[:, 0], 1 - torch.exp(-0.8 * (far - near)), atol=1e-5, rtol=1e-5)


def test_importance_edges_keep_the_span_and_go_where_the_weight_is():
    edges = even_edges(torch.tensor(1.0), torch.tensor(3.0), 20)
    weight = torch.zeros(20)
    weight[7] = 1.0
    cut = importance_edges(edges, weight, 32)
    assert cut[0] == 1
    assert cut[-1] == 3
    assert (cut.diff() >= 0).all()
    close = ((cut > edges[6]) & (cut < edges[9])).float().mean()
    assert close > 0.7, "most of the cuts surround the surface"
    assert cut.diff().max() < 0.6, "and none of the span goes unseen"
    torch.testing.assert_close(importance_edges(edges, torch.zeros(20), 20), edges)


def test_render_of_a_ball_is_its_projected_disc_at_its_depth():
    camera = orbit([30.0], [20.0])
    shown = render(Ball(), camera, 64, 64, samples=64, importance=64)
    rays = camera.rays(64, 64)
    to_centre = Ball.centre - rays.origins
    along = (to_centre * rays.directions).sum(-1)
    miss = (to_centre - along[..., None] * rays.directions).norm(dim=-1)
    inside, outside = miss < Ball.radius - 0.03, miss > Ball.radius + 0.06
    assert shown.alpha[:, 0][inside].min() > 0.99
    assert shown.alpha[:, 0][outside].max() < 0.02
    distance = along - (Ball.radius**2 - miss**2).clamp(min=0).sqrt()
    depth = distance * (rays.directions * camera.cam_to_world[:, None, None, :3, 2]).sum(-1)
    assert (shown.depth[:, 0] - depth)[inside].abs().median() < 0.01
    surface = rays.at(distance[..., None])[..., 0, :]
    assert (2 * shown.rgb.movedim(1, -1) - 1 - surface)[inside].abs().median() < 0.02


def test_render_normals_point_out_of_a_ball_in_world_axes():
    camera = orbit([200.0], [-10.0])
    shown = render(Ball(), camera, 48, 48, samples=64, importance=32, with_normals=True)
    rays = camera.rays(48, 48)
    to_centre = Ball.centre - rays.origins
    along = (to_centre * rays.directions).sum(-1)
    miss = (to_centre - along[..., None] * rays.directions).norm(dim=-1)
    inside = miss < Ball.radius - 0.05
    surface = rays.at((along - (Ball.radius**2 - miss**2).clamp(min=0).sqrt())[..., None])[..., 0, :]
    outward = (surface - Ball.centre) / Ball.radius
    assert ((shown.normals.movedim(1, -1) * outward).sum(-1)[inside] > 0.98).float().mean() > 0.99


def test_render_does_not_depend_on_chunks():
    cameras = random_sphere(2, torch.Generator().manual_seed(0))
    whole = render(Ball(), cameras, 16, 16, samples=16, importance=16)
    pieces = render(Ball(), cameras, 16, 16, samples=16, importance=16, max_memory=2**20)
    torch.testing.assert_close(pieces.rgb, whole.rgb)
    torch.testing.assert_close(pieces.depth, whole.depth)


@pytest.mark.parametrize("seed", [None, 0])
def test_render_checkpointing_gives_the_same_gradient(seed):
    def gradient(checkpointing):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        density = torch.tensor(0.7, requires_grad=True)

        class Haze(Fog):
            def density(self, points):
                return density * (1 + points[..., 0]).clamp(min=0)

        cameras = random_sphere(1, torch.Generator().manual_seed(0))
        options = {"samples": 8, "importance": 4, "max_memory": 2**18, "checkpointing": checkpointing}
        render(Haze(0.0), cameras, 16, 16, generator=generator, **options).alpha.sum().backward()
        return density.grad

    torch.testing.assert_close(gradient(True), gradient(False))


def test_render_draws_nothing_in_evaluation_and_by_its_generator_in_training():
    cameras = random_sphere(1, torch.Generator().manual_seed(0))

    def rendered(seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return render(Ball(), cameras, 16, 16, samples=8, importance=8, generator=generator).rgb

    assert torch.equal(rendered(None), rendered(None))
    assert torch.equal(rendered(3), rendered(3))
    assert not torch.equal(rendered(3), rendered(4))


@pytest.mark.slow
def test_march_with_random_samples_is_right_on_average():
    ray = Rays(torch.tensor([[-3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))

    class Ramp(Fog):
        def density(self, points):
            return (points[..., 0] + 1) / 2  # from 0 to 1: one unit of thickness in all

    generator = torch.Generator().manual_seed(0)
    thickness = [-torch.log1p(-march(Ramp(0.0), ray, samples=4, generator=generator).alpha) for _ in range(800)]
    assert float(torch.stack(thickness).mean()) == pytest.approx(1.0, abs=0.01)


def test_render_changes_only_the_colours_of_place_when_world_and_camera_rotate_together():
    angle = math.radians(37)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    class Turned(Ball):
        def density(self, points):
            return Ball.density(self, points @ turn[:3, :3])

    camera = Cameras(look_at(torch.tensor([[2.0, 0.5, 0.8]])), intrinsics_from_fov([50.0]))
    moved = Cameras(turn @ camera.cam_to_world, camera.intrinsics)
    here, there = (
        render(field, eye, 24, 24, samples=96, importance=64) for field, eye in ((Ball(), camera), (Turned(), moved))
    )
    assert (here.alpha - there.alpha).abs().mean() < 2e-3
