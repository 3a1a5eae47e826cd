"""Inference rendering against closed forms, symmetry, the training renderer and the textbook."""

import dataclasses
import math

import pytest
import torch
from analytic_fields import Formula, ball, fog, place_colour
from torch import Tensor
from torch.nn import functional as F

from benchmarks import textbook
from instant3d.cameras import Cameras, intrinsics_from_fov, look_at, orbit
from instant3d.nerf import occupancy_render, volume
from instant3d.nerf.occupancy import THRESHOLD, Occupancy
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField
from instant3d.views import Views

CAMERAS = orbit([30.0, 200.0], [20.0, -10.0])
EVERYWHERE = fog(0.7, (-2, -2, -2), (2, 2, 2))


def psnr(some: Views, other: Views) -> float:
    return float(-10 * (some.composite(1.0) - other.composite(1.0)).square().mean().log10())


def chord(cameras: Cameras, size: int, low: Tensor, high: Tensor) -> Tensor:
    """Length (V, size, size) of each pixel's ray inside a box."""
    rays = cameras.rays(size, size)
    one, other = (low - rays.origins) / rays.directions, (high - rays.origins) / rays.directions
    return (torch.maximum(one, other).amin(-1) - torch.minimum(one, other).amax(-1).clamp(min=0)).clamp(min=0)


def asymmetric_object() -> tuple[Triplane, Decoder]:
    """A smooth object whose three planes all matter, made without training: density from a sum of squares."""
    side, channels = 32, 3
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    planes = torch.zeros(3, channels, side, side)
    planes[0, 0] = (axis[None] - 0.2).square() + 2 * (axis[:, None] + 0.1).square()  # of x and y
    planes[1, 0] = 3 * (axis[:, None] - 0.1).square()  # of z
    planes[0, 1], planes[1, 1], planes[2, 1] = axis[None], axis[:, None], axis[None]  # x, z, y
    decoder = Decoder(DecoderConfig(channels, width=8, layers=3, density_bias=0.0))
    with torch.no_grad():
        for layer in (decoder.first, *decoder.hidden, decoder.last):
            layer.weight.zero_()
        decoder.first.weight[0, [0, 3]] = 1.0
        decoder.first.bias[1:4] = 1.0
        for output, plane in ((1, 0), (2, 1), (3, 2)):
            decoder.first.weight[output, 3 * plane + 1] = 1.0  # 1 + x, 1 + z, 1 + y
        decoder.hidden[0].weight.copy_(torch.eye(8))
        decoder.last.weight[0, 0], decoder.last.bias[0] = -150.0, 60.0
        for output in (1, 2, 3):
            decoder.last.weight[output, output], decoder.last.bias[output] = 3.0, -3.0
    return Triplane(planes), decoder


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_occupancy_render_of_fog_that_fills_the_cube_absorbs_by_the_length_of_the_chord(sigma):
    field = fog(sigma, (-2, -2, -2), (2, 2, 2))
    shown = occupancy_render.render(field, CAMERAS, 24, 24)
    length = chord(CAMERAS, 24, torch.tensor([-1.0] * 3), torch.tensor([1.0] * 3))
    torch.testing.assert_close(
        shown.alpha[:, 0], 1 - torch.exp(-sigma * length), rtol=0, atol=occupancy_render.DARK + 1e-5
    )


def test_occupancy_render_of_a_box_of_fog_off_centre_absorbs_by_the_length_of_the_chord_up_to_one_step():
    low, high, sigma, step = torch.tensor([-0.5, -0.2, 0.1]), torch.tensor([0.3, 0.6, 0.7]), 1.5, 1 / 128
    shown = occupancy_render.render(fog(sigma, low.tolist(), high.tolist()), CAMERAS, 24, 24, step=step)
    expected = 1 - torch.exp(-sigma * chord(CAMERAS, 24, low, high))
    assert (shown.alpha[:, 0] - expected).abs().max() < 2 * sigma * step
    assert (shown.alpha[:, 0] - expected).abs().mean() < 0.2 * sigma * step


def test_occupancy_render_opacity_of_even_fog_does_not_depend_on_the_step():
    coarse, fine = (occupancy_render.render(EVERYWHERE, CAMERAS, 16, 16, step=step) for step in (0.11, 1 / 200))
    torch.testing.assert_close(coarse.alpha, fine.alpha, rtol=0, atol=1e-5)


def test_occupancy_render_of_a_ray_that_misses_the_cube_is_empty():
    away = Cameras(look_at(torch.tensor([[2.7, 0, 0]]), torch.tensor([[5.0, 0, 0]])), intrinsics_from_fov(50.0)[None])
    assert occupancy_render.render(EVERYWHERE, away, 8, 8).alpha.max() == 0


def test_occupancy_render_from_inside_the_fog_shows_only_what_lies_ahead():
    inside = Cameras(
        look_at(torch.tensor([[0.5, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])), intrinsics_from_fov(2.0)[None]
    )
    alpha = occupancy_render.render(EVERYWHERE, inside, 3, 3).alpha[0, 0, 1, 1]
    torch.testing.assert_close(alpha, torch.tensor(1 - math.exp(-0.7 * 0.5)), rtol=0, atol=1e-4)


def test_occupancy_render_of_an_opaque_sphere_shows_its_disc_its_depth_its_colours_and_its_normals():
    centre, radius = torch.tensor([0.1, -0.2, 0.15]), 0.5
    cameras, size = orbit([40.0], [25.0]), 48
    shown = occupancy_render.render(ball(2000.0, centre.tolist(), radius, 1e-3), cameras, size, size, with_normals=True)
    rays = cameras.rays(size, size)
    origins = rays.origins - centre
    along = (origins * rays.directions).sum(-1)
    beneath = along**2 - (origins**2).sum(-1) + radius**2
    inner, outer = beneath > 0.02, beneath < -0.02  # away from the rim
    distance = -along - beneath.clamp(min=0).sqrt()
    surface = rays.origins + distance[..., None] * rays.directions
    depth = distance * (rays.directions * cameras.cam_to_world[:, None, None, :3, 2]).sum(-1)
    assert shown.alpha[:, 0][inner].min() > 0.99
    assert shown.alpha[:, 0][outer].max() < 1e-3
    assert (shown.depth[:, 0] - depth)[inner].abs().max() < 0.02
    assert (shown.rgb.movedim(1, -1) - place_colour(surface))[inner].abs().max() < 0.02
    cosine = (shown.normals.movedim(1, -1) * F.normalize(surface - centre, dim=-1)).sum(-1)
    assert cosine[inner].min() > 0.98


@pytest.mark.parametrize("sigma", [0.006, 0.05])
def test_occupancy_render_colour_is_straight_even_where_fog_is_thin(sigma):
    red = Formula(fog(sigma, (-2, -2, -2), (2, 2, 2)).densities, lambda p: torch.tensor([0.9, 0.2, 0.1]).expand_as(p))
    shown = occupancy_render.render(red, CAMERAS, 8, 8)
    assert shown.alpha.max() < 4 * sigma
    seen = shown.rgb.movedim(1, -1)[shown.alpha[:, 0] > sigma / 10]
    torch.testing.assert_close(seen, torch.tensor([0.9, 0.2, 0.1]).expand_as(seen), rtol=0, atol=1e-4)


def test_occupancy_render_does_not_change_when_world_and_camera_rotate_together():
    field = ball(50.0, (0.3, 0.1, -0.2), 0.35, 0.02)
    turned = ball(50.0, (-0.1, 0.3, -0.2), 0.35, 0.02)  # by 90 degrees about +z: x to y, y to -x
    before = occupancy_render.render(field, orbit([10.0], [30.0]), 32, 32)
    after = occupancy_render.render(turned, orbit([100.0], [30.0]), 32, 32)
    torch.testing.assert_close(after.alpha, before.alpha, rtol=0, atol=2e-3)
    torch.testing.assert_close(after.depth, before.depth, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_occupancy_render_agrees_with_the_textbook_and_with_the_training_renderer():
    triplane, decoder = asymmetric_object()
    field, plain = TriplaneField(triplane, decoder), textbook.TextbookField(triplane, decoder)
    cameras = orbit([30.0], [20.0])
    shown = occupancy_render.render(field, cameras, 32, 32, with_normals=True)
    assert psnr(shown, textbook.render(plain, cameras, 32, 32, 256, 0)) > 45
    with torch.no_grad():
        trained = volume.render(field, cameras, 32, 32, samples=192, importance=0, with_normals=True)
    assert psnr(shown, trained) > 45
    solid = trained.alpha > 0.5
    assert 0.1 < solid.float().mean() < 0.9
    assert (shown.depth - trained.depth)[solid].abs().max() < 0.015
    assert (shown.normals * trained.normals).sum(1, keepdim=True)[solid].min() > 0.98


@pytest.mark.slow
def test_occupancy_render_of_a_blob_looks_the_same_in_inference_in_training_and_in_the_textbook():
    chance = torch.Generator().manual_seed(0)
    triplane = Triplane(torch.randn(3, 6, 8, 8, generator=chance))
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(6, 16, 2, "softplus", aggregate="mean", blob=40.0, blob_radius=0.6, rgb="scaled"))
    with torch.no_grad():
        decoder.last.weight.mul_(5)
        decoder.alpha.fill_(0.5)
    field, cameras = TriplaneField(triplane, decoder), orbit([30.0], [20.0])
    shown = occupancy_render.render(field, cameras, 24, 24)
    assert psnr(shown, textbook.render(textbook.TextbookField(triplane, decoder), cameras, 24, 24, 256, 0)) > 40
    with torch.no_grad():
        assert psnr(shown, volume.render(field, cameras, 24, 24, samples=256, importance=0)) > 40
    assert 0.05 < shown.alpha.mean() < 0.5
    assert shown.rgb[shown.alpha.expand_as(shown.rgb) > 0.9].max() > 1.1  # nothing has clamped it


@pytest.mark.slow
def test_occupancy_render_does_not_depend_on_the_memory_allowed():
    triplane, decoder = asymmetric_object()
    field = TriplaneField(triplane, decoder)
    whole, pieces = (occupancy_render.render(field, CAMERAS, 24, 24, max_memory=m) for m in (2**28, 2**17))
    torch.testing.assert_close(pieces.rgb, whole.rgb, rtol=0, atol=1e-3)
    torch.testing.assert_close(pieces.alpha, whole.alpha, rtol=0, atol=1e-3)
    torch.testing.assert_close(pieces.depth, whole.depth, rtol=0, atol=1e-3)


def test_occupancy_render_gives_the_same_image_for_the_same_call():
    field = ball(50.0, (0.3, 0.1, -0.2), 0.35, 0.02)
    assert torch.equal(
        occupancy_render.render(field, CAMERAS, 16, 16).rgb, occupancy_render.render(field, CAMERAS, 16, 16).rgb
    )


class Counted:
    """A field that keeps the points at which it was asked."""

    def __init__(self, field: Formula) -> None:
        self.field = field
        self.asked: list[Tensor] = []
        self.coloured: list[Tensor] = []

    def density(self, points: Tensor) -> Tensor:
        self.asked.append(points)
        return self.field.density(points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        self.coloured.append(points)
        return self.field(points)


def test_occupancy_render_reads_the_field_only_near_matter_and_colour_only_where_it_is_visible():
    centre, radius = torch.tensor([0.3, 0.2, -0.1]), 0.3
    field = Counted(ball(500.0, centre.tolist(), radius, 1e-3))
    grid = Occupancy.from_field(field)
    field.asked.clear()
    occupancy_render.render(field, orbit([0.0], [0.0]), 64, 64, occupancy=grid)
    away = torch.linalg.vector_norm(torch.cat(field.asked) - centre, dim=-1) - radius
    # all is asked within two cells of matter and their diagonals, but for the rest of a packet that began there
    assert away.max() < 2 * math.sqrt(3) / 32 + 8 * occupancy_render.PACKET * occupancy_render.STEP
    assert away.median() < 2 * math.sqrt(3) / 32
    assert len(away) < 0.1 * 64 * 64 * 128
    coloured = torch.cat(field.coloured)
    depth = radius - torch.linalg.vector_norm(coloured - centre, dim=-1)
    assert depth.max() < 0.1  # nothing shines through that much matter
    assert (coloured[:, 0] > centre[0] - 0.05).all()  # the camera is on +x


def test_occupancy_render_of_a_triplane_is_the_same_without_samples_in_cells_that_hold_almost_nothing():
    field = TriplaneField(*asymmetric_object())
    grid = Occupancy.from_field(field)
    everywhere = dataclasses.replace(grid, filled=None)
    shown, full = (
        occupancy_render.render(field, CAMERAS, 24, 24, occupancy=some, exact=True) for some in (grid, everywhere)
    )
    assert 0.05 < full.alpha.mean() < 0.9
    assert (shown.alpha - full.alpha).abs().max() < 1e-4
    assert (shown.composite(1.0) - full.composite(1.0)).abs().max() < 1e-4
    assert grid.filled.sum() < 0.9 * (grid.to_occupied == 0).sum()


def test_occupancy_of_a_field_with_hard_edges_reads_density_in_all_cells():
    thin = fog(50.0, (0.01, -0.5, -0.5), (0.02, 0.5, 0.5))  # between the nodes of the grid
    assert Occupancy.from_field(thin).filled is None


def test_occupancy_render_gives_the_same_image_with_a_grid_found_before():
    field = ball(50.0, (0.3, 0.1, -0.2), 0.35, 0.02)
    known = occupancy_render.render(field, CAMERAS, 16, 16, occupancy=Occupancy.from_field(field))
    assert torch.equal(known.rgb, occupancy_render.render(field, CAMERAS, 16, 16).rgb)


def test_occupancy_render_of_an_empty_field_gives_empty_images():
    shown = occupancy_render.render(fog(0.0, (-1, -1, -1), (1, 1, 1)), CAMERAS, 8, 8, with_normals=True)
    assert shown.alpha.max() == 0
    assert shown.depth.max() == 0
    assert torch.isfinite(shown.rgb).all()


def test_occupancy_drops_haze_below_the_threshold_and_keeps_it_above():
    below, above = (fog(share * THRESHOLD, (-2, -2, -2), (2, 2, 2)) for share in (0.9, 1.1))
    assert occupancy_render.render(below, CAMERAS, 8, 8).alpha.max() == 0
    assert occupancy_render.render(above, CAMERAS, 8, 8).alpha.max() > THRESHOLD


def test_skip_empty_never_passes_through_an_occupied_cell():
    field = ball(50.0, (0.3, 0.1, -0.2), 0.3, 0.01)
    grid = Occupancy.from_field(field, side=16)
    chance = torch.Generator().manual_seed(0)
    points = 2 * torch.rand(3, 400, generator=chance) - 1
    directions = F.normalize(torch.randn(3, 400, generator=chance), dim=0)
    way = grid.skip_empty(points, directions)
    along = points[..., None] + directions[..., None] * (way[:, None] - 2e-4).clamp(min=0) * torch.linspace(0, 1, 200)
    cell = ((along + 1) * 8).floor().long().clamp(0, 15)
    distance = grid.to_occupied[tuple(cell)]
    assert (way[grid.to_occupied[tuple(cell[..., 0])] == 0] == 0).all()
    moved = (way > 0)[:, None] & (along.abs() < 1).all(0)
    assert (distance[moved] > 0).all()
    assert (way > 0).float().mean() > 0.5


def test_occupancy_cells_hold_all_matter_and_a_margin_of_one_cell_around_it():
    low, high = (-0.25, 0.0, 0.25), (0.25, 0.25, 0.5)  # on nodes of a grid of 16 cells
    grid = Occupancy.from_field(fog(5.0, low, high), side=16)
    cells = (grid.to_occupied == 0).nonzero()
    # nodes 6..10, 8..10, 10..12 are in matter: they touch one cell more on either side, and the margin adds another
    assert cells.amin(0).tolist() == [6 - 2, 8 - 2, 10 - 2]
    assert cells.amax(0).tolist() == [10 + 1, 10 + 1, 12 + 1]
    assert len(cells) == 8 * 6 * 6


def test_occupancy_render_refuses_a_step_without_length():
    with pytest.raises(ValueError, match="must be positive"):
        occupancy_render.render(EVERYWHERE, CAMERAS, 4, 4, step=0.0)
