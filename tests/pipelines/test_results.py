"""What the sheet and the film show, against the closed form of a sphere and against the slower way to the same."""

import dataclasses

import pytest
import torch
from sphere_network import RADIUS, sphere_network

from instant3d.cameras import orbit, structured_cameras, turntable
from instant3d.mesh import load
from instant3d.nerf.asset import Asset
from instant3d.pipelines import results
from instant3d.pipelines.results import SheetInputs
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.utils.progress import Progress, Stopwatch
from instant3d.views import Views


@pytest.fixture(scope="module")
def asset() -> Asset:
    views = Views(torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32), structured_cameras())
    return ViewsTo3D(sphere_network())(views, resolution=24)


def test_the_structured_views_are_among_the_turntables_so_that_they_need_no_rendering_of_their_own(asset, monkeypatch):
    around = asset.render(turntable(results.FRAMES), 16)
    expected = asset.render(structured_cameras(), 16)
    monkeypatch.setattr(asset, "render", lambda *_, **__: pytest.fail("rendered again"))
    shown = results._from(asset, structured_cameras(), around)
    torch.testing.assert_close(shown.rgb, expected.rgb, atol=0.02, rtol=0)


def test_cameras_of_other_places_get_pictures_of_their_own_in_their_order(asset):
    around = asset.render(turntable(results.FRAMES), 16, step=results.VIDEO_STEP)
    cameras = orbit([45.0, 10.0, 90.0, -77.0], [20.0, -30.0, 20.0, 60.0], [2.7, 2.0, 2.7, 3.0])
    shown = results._from(asset, cameras, around)
    torch.testing.assert_close(shown.rgb, asset.render(cameras, 16, step=results.VIDEO_STEP).rgb, atol=0.02, rtol=0)


def test_normals_at_the_depth_are_those_of_the_sphere(asset):
    """A pixel's normal is its place over the radius; the ray through the middle meets it facing the camera."""
    views = results._with_normals(asset, asset.render(structured_cameras(), 33, step=results.VIDEO_STEP))
    rays = views.cameras.rays(33, 33)
    along = (rays.origins * rays.directions).sum(-1)
    way = -along - (along**2 - 2.7**2 + RADIUS**2).clamp(min=0).sqrt()
    places = rays.origins + way[..., None] * rays.directions
    inside = (along**2 - 2.7**2 + RADIUS**2) > 0.1  # away from the rim, where rays only graze the sphere
    found = views.normals.permute(0, 2, 3, 1)[inside]
    assert inside.float().mean() > 0.1
    assert ((found * places[inside] / RADIUS).sum(-1) > 0.97).all()


def test_an_asset_that_no_picture_shows_has_no_normals_and_no_error(asset):
    clear = asset.render(orbit([0.0], [20.0], [9.0]), 8)
    views = results._with_normals(asset, dataclasses.replace(clear, alpha=torch.zeros_like(clear.alpha)))
    assert not views.normals.any()


def test_a_film_step_is_too_short_to_be_seen(asset):
    coarse, fine = (
        asset.render(structured_cameras(), 32, step=step).composite(1.0) for step in (results.VIDEO_STEP, 1 / 256)
    )
    assert -10 * torch.log10((coarse - fine).square().mean()) > 45


@pytest.mark.parametrize(("seen", "shown"), [(32, 128), (128, 192), (256, 384), (512, 512)])
def test_pictures_are_half_as_large_again_as_what_the_network_saw_within_bounds(seen, shown):
    assert results.image_size(seen) == shown


def test_what_is_written_is_what_is_told(asset, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FRAMES", 4)
    watch = Stopwatch()
    views = asset.render(structured_cameras(), 16)
    told = results.write(
        tmp_path, asset, SheetInputs("x", "views", views), size=16, formats=["ply", "ply"], watch=watch
    )
    assert sorted(told["files"]) == sorted(path.name for path in tmp_path.iterdir())
    (written,) = load(tmp_path / "mesh.ply")
    assert told["mesh"]["faces"] == len(written.faces)
    assert told["mesh"]["closed"]
    assert set(watch.seconds) == {"surface", "simplify", "unwrap", "texture", "write", "video"}


def test_a_stopwatch_adds_up_what_bears_one_name(monkeypatch):
    ticks = iter([0.0, 1.0, 10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr("instant3d.utils.progress.time.perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    for name in ("a", "b", "a"):
        with watch(name):
            pass
    assert watch.rounded() == {"a": 1.25, "b": 2.5}


def test_a_log_gets_a_line_every_ten_seconds_and_a_terminal_a_bar(monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("instant3d.utils.progress.time.monotonic", lambda: next(clock))
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        with Progress(stream).task("drawing") as on_step:
            for done in range(1, 6):
                on_step(done, 5)
    assert log.getvalue().splitlines() == ["instant3d: drawing", "instant3d: drawing: 3 of 5"]
    assert "drawing" in terminal.getvalue()
    assert "\r" in terminal.getvalue()
