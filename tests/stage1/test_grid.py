"""Packing four views into one image, and the alpha of each tile."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.scenes import images
from instant3d.stage1.grid import pack, to_views, unpack

ROOT = Path(__file__).parents[2]


def disc(size: int, color: tuple[float, float, float], radius: float = 0.3, fine: int = 8) -> tuple:
    """A disc on white, its edge pixels averaged over `fine` x `fine` points: rgb (3, S, S) and true alpha (S, S)."""
    line = (torch.arange(size * fine) + 0.5) / (size * fine) - 0.5
    inside = (line[:, None] ** 2 + line**2 < radius**2).float()
    alpha = inside.reshape(size, fine, size, fine).mean((1, 3))
    return torch.tensor(color)[:, None, None] * alpha + (1 - alpha), alpha


def test_pack_lays_tiles_in_reading_order():
    grid = pack(torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2))
    rows = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    assert torch.equal(grid, rows.float().expand(3, 4, 4))


def test_pack_neither_rotates_nor_mirrors_tiles():
    views = torch.rand(4, 3, 5, 5)
    assert torch.equal(pack(views)[:, 5:, :5], views[2])


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_unpack_inverts_pack(batch):
    views = torch.rand(*batch, 4, 3, 6, 6)
    assert torch.equal(unpack(pack(views)), views)
    grid = torch.rand(*batch, 3, 8, 8)
    assert torch.equal(pack(unpack(grid)), grid)


@pytest.mark.parametrize("shape", [(3, 3, 4, 4), (4, 3, 4, 5), (3, 4, 4)])
def test_pack_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="four square views"):
        pack(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 4, 6), (4, 4)])
def test_unpack_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="even side"):
        unpack(torch.zeros(shape))


def test_to_views_gives_each_tile_its_camera():
    """A ball off the axis, drawn by projection alone, is where its camera projects it."""
    point, cameras = torch.tensor([[0.3, -0.4, 0.2]]), structured_cameras()
    seen = cameras.project(point.expand(4, 1, 3))[0][:, 0]
    line = (torch.arange(64) + 0.5) / 64
    tiles = torch.stack(
        [((line[:, None] - v) ** 2 + (line - u) ** 2 > 0.01).float().expand(3, -1, -1) for u, v in seen]
    )
    views = to_views(pack(tiles))
    torch.testing.assert_close(views.cameras.cam_to_world, cameras.cam_to_world)
    weight = views.alpha[:, 0] / views.alpha.sum((1, 2, 3))[:, None, None]
    centres = torch.stack([(weight.sum(1) * line).sum(-1), (weight.sum(2) * line).sum(-1)], dim=-1)
    torch.testing.assert_close(centres, seen, atol=0.01, rtol=0)


@pytest.mark.parametrize("color", [(0.7, 0.1, 0.1), (0.0, 0.0, 0.0), (0.8, 0.8, 0.8)])
def test_to_views_alpha_is_the_share_of_a_pixel_that_the_object_covers(color):
    rgb, alpha = disc(48, color)
    views = to_views(pack(rgb.expand(4, 3, 48, 48)))
    # what is less than 4% grey counts as white
    torch.testing.assert_close(views.alpha[1, 0], alpha, atol=0.045 / (1 - min(color)), rtol=0)
    assert ((views.alpha > 0.1) & (views.alpha < 0.9)).sum() > 100, "edges are soft"
    solid = views.alpha[1] > 0.3
    torch.testing.assert_close(views.rgb[1][:, solid[0]].mean(1), torch.tensor(color), atol=1e-3, rtol=0)


def test_to_views_over_white_is_the_grid():
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(3, 48, 48, generator=generator)  # for any colours
    alpha = disc(48, (0, 0, 0))[1]
    rgb = texture * alpha + (1 - alpha)
    views = to_views(pack(rgb.expand(4, 3, 48, 48)))
    background = views.alpha[0] == 0
    torch.testing.assert_close(views.composite(1.0)[0][:, ~background[0]], rgb[:, ~background[0]], atol=1e-5, rtol=0)
    assert rgb[:, background[0]].min() > 0.955


def test_to_views_keeps_white_inside_the_object():
    rgb, _ = disc(48, (0.1, 0.2, 0.6))
    rgb[:, 22:26, 22:26] = 1
    assert to_views(pack(rgb.expand(4, 3, 48, 48))).alpha[:, :, 22:26, 22:26].min() == 1


def test_to_views_keeps_a_tile_without_white_around_it_whole_and_leaves_the_others_alone():
    rgb, _ = disc(48, (0.1, 0.2, 0.6))
    tiles = rgb.repeat(4, 1, 1, 1)
    tiles[2] = 0.4
    views = to_views(pack(tiles))
    assert views.alpha[2].min() == 1
    assert views.alpha[[0, 1, 3], :, 0].max() == 0


def test_to_views_keeps_an_object_thinner_than_its_edge_opaque():
    rgb = torch.ones(3, 32, 32)
    rgb[:, 8:24, 15:17] = torch.tensor([0.4, 0.6, 0.5])[:, None, None]
    alpha = to_views(pack(rgb.expand(4, 3, 32, 32))).alpha[0, 0]
    assert alpha[8:24, 15:17].min() == 1
    assert alpha.sum() == 32


def test_to_views_cuts_a_grid_as_an_image_file(tmp_path):
    pixels = (disc(48, (0.7, 0.1, 0.1))[0] * 255).round().to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    read = images.decode((tmp_path / "a.png").read_bytes(), None, "a.png")
    views = to_views(pack((pixels / 255).expand(4, 3, 48, 48)))
    np.testing.assert_array_equal(read.alpha, (views.alpha[0, 0] * 255).round().numpy())
    np.testing.assert_array_equal(read.rgb, (views.rgb[0] * 255).round().permute(1, 2, 0).numpy())


def test_to_views_of_the_example_over_white_is_the_example():
    """Real edges, textures and shades, with the renderer's alpha."""
    truth = scenes.read(ROOT / "examples" / "couch", frames=range(4)).views
    views = to_views(pack(truth.composite(1.0)))
    assert (views.alpha - truth.alpha).abs().mean() < 1e-3
    assert (views.composite(0.0) - truth.composite(0.0)).square().mean().sqrt() < 0.01
