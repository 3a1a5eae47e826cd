"""Sampling of planes against `grid_sample` and closed forms."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.nerf.plane_sampling import _corner_maps, sample_planes

WORLD_AXES = ((0, 1), (0, 2), (1, 2))  # planes xy, xz, yz: which axis runs along the width, which along the height


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_planes(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=chance(1), dtype=dtype)


def random_points(*shape: int, reach: float = 1.6, dtype: torch.dtype = torch.float32) -> Tensor:
    """Points inside and outside the cube."""
    return reach * (2 * torch.rand(*shape, 3, generator=chance(2), dtype=dtype) - 1)


def by_grid_sample(planes: Tensor, points: Tensor) -> Tensor:
    """The second implementation: three calls of torch's own sampler, written out."""
    total = torch.zeros(())
    for plane, (width, height) in enumerate(WORLD_AXES):
        grid = torch.stack([points[..., width], points[..., height]], -1)[:, None]
        sampled = F.grid_sample(planes[:, plane], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + sampled[:, :, 0].transpose(1, 2)
    return total


@pytest.mark.parametrize(("objects", "side"), [(1, 8), (3, 5)])
def test_sample_planes_equals_grid_sample_inside_and_outside(objects, side):
    planes, points = random_planes(objects, 3, 4, side, side), random_points(objects, 300)
    torch.testing.assert_close(sample_planes(planes, points), by_grid_sample(planes, points))


def test_sample_planes_gradients_to_planes_and_points_equal_those_of_grid_sample():
    planes = random_planes(2, 3, 4, 7, 7, dtype=torch.float64).requires_grad_()
    points = random_points(2, 200, dtype=torch.float64).requires_grad_()
    wanted = torch.randn(2, 200, 4, generator=chance(3), dtype=torch.float64)
    ours = torch.autograd.grad((sample_planes(planes, points) * wanted).sum(), (planes, points))
    theirs = torch.autograd.grad((by_grid_sample(planes, points) * wanted).sum(), (planes, points))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_sample_planes_shows_a_bright_texel_at_its_place_in_the_world_along_the_whole_column(plane):
    side, column, row = 8, 5, 2
    planes = torch.zeros(1, 3, 1, side, side)
    planes[0, plane, 0, row, column] = 1
    width, height = WORLD_AXES[plane]
    points = random_points(1, 50, reach=1.0)
    points[..., width] = (column + 0.5) / side * 2 - 1
    points[..., height] = (row + 0.5) / side * 2 - 1
    torch.testing.assert_close(sample_planes(planes, points), torch.ones(1, 50, 1))


def test_sample_planes_at_corners_and_border_of_the_cube_equals_grid_sample():
    planes = random_planes(1, 3, 2, 4, 4)
    edge = torch.tensor([-1.25, -1.0, -0.75, 0.0, 0.75, 1.0, 1.25, 5.0])  # 1.25: half a texel beyond the last centre
    points = torch.cartesian_prod(edge, edge, edge)[None]
    torch.testing.assert_close(sample_planes(planes, points), by_grid_sample(planes, points))


def test_sample_planes_is_not_disturbed_by_coarse_matrix_products():
    planes, points = random_planes(1, 3, 4, 64, 64), random_points(1, 500)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sampled = sample_planes(planes, points)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(sampled, by_grid_sample(planes, points), rtol=0, atol=1e-4)


def test_sample_planes_under_inference_mode_first_leaves_gradients_possible_later():
    _corner_maps.cache_clear()
    planes, points = random_planes(1, 3, 2, 6, 6), random_points(1, 10)
    with torch.inference_mode():
        sample_planes(planes, points)
    points.requires_grad_()
    sample_planes(planes, points).sum().backward()
    assert points.grad is not None
    assert points.grad.abs().sum() > 0


def test_sample_planes_gradients_by_planes_alone_are_those_of_all_together():
    """Trained planes at fixed points have a backward pass of their own; its gradients are those of the full one."""
    for dtype in (torch.float64, torch.float32):
        planes = random_planes(2, 3, 4, 7, 7, dtype=dtype).requires_grad_()
        points, wanted = random_points(2, 200, dtype=dtype), torch.randn(2, 200, 4, generator=chance(3), dtype=dtype)
        (ours,) = torch.autograd.grad((sample_planes(planes, points) * wanted).sum(), planes)
        (theirs,) = torch.autograd.grad((by_grid_sample(planes, points) * wanted).sum(), planes)
        torch.testing.assert_close(ours, theirs)
