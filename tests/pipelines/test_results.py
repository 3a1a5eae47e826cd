"""What the sheet and the film show, against the closed form of a sphere and against the slower way to the same."""

import pytest
import torch
from sphere_network import sphere_network

from instant3d.cameras import structured_cameras
from instant3d.mesh import load
from instant3d.nerf.asset import Asset
from instant3d.pipelines import results
from instant3d.pipelines.results import SheetInputs
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.utils.progress import Progress, Stopwatch
from instant3d.views import Views

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def asset() -> Asset:
    views = Views(torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32), structured_cameras())
    return ViewsTo3D(sphere_network())(views, resolution=24)


def test_sheet_rows_show_inputs_volume_mesh_normals_and_the_mesh_around(asset, tmp_path, monkeypatch):
    sheets, cameras = [], structured_cameras()
    monkeypatch.setattr(results, "FRAMES", 4)
    monkeypatch.setattr(results.visualization, "write_contact_sheet", lambda rows, *_, **__: sheets.append(rows))
    views = asset.render(cameras, 32)
    results.write(tmp_path, asset, SheetInputs("x", "views", views), size=64, formats=[], watch=Stopwatch())
    ((given, volume, mesh, normals, around),) = sheets
    assert [len(row.images) for row in (given, volume, mesh, normals, around)] == [4, 4, 4, 4, 4]
    solid = asset.render(cameras, 64).alpha > 0.5
    outline = (mesh.images < 0.99).any(1, keepdim=True)  # a grey or coloured ball on white
    assert (outline & solid).sum() / (outline | solid).sum() > 0.9  # pixels at the rim are mixed
    # the middle pixel shows the side that faces the camera: its normal is the camera's direction from the centre
    toward = torch.nn.functional.normalize(cameras.positions, dim=-1)
    middle = normals.images[:, :, 31:33, 31:33].mean((-2, -1)) * 2 - 1
    torch.testing.assert_close(torch.nn.functional.normalize(middle, dim=-1), toward, atol=0.1, rtol=0)


def test_video_step_is_too_short_to_be_seen(asset):
    coarse, fine = (
        asset.render(structured_cameras(), 32, step=step).composite(1.0) for step in (results.VIDEO_STEP, 1 / 256)
    )
    assert -10 * torch.log10((coarse - fine).square().mean()) > 45


@pytest.mark.parametrize(("size", "shown"), [(32, 128), (128, 192), (256, 384), (512, 512)])
def test_image_size_is_half_as_large_again_as_the_networks_input_within_bounds(size, shown):
    assert results.image_size(size) == shown


def test_write_records_what_it_wrote_and_offers_the_mesh_before_the_images(asset, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FRAMES", 4)
    watch = Stopwatch()
    views = asset.render(structured_cameras(), 16)
    before = []  # there when the mesh is offered
    reported = results.write(
        tmp_path,
        asset,
        SheetInputs("x", "views", views),
        size=16,
        formats=["ply", "ply"],
        watch=watch,
        on_mesh=lambda files: before.append((files, {path.name for path in tmp_path.iterdir()})),
    )
    assert before == [([tmp_path / "mesh.ply"], {"mesh.ply", "triplane.safetensors"})]
    assert sorted(reported["files"]) == sorted(path.name for path in tmp_path.iterdir())
    (written,) = load(tmp_path / "mesh.ply")
    assert reported["mesh"]["faces"] == len(written.faces)
    assert reported["mesh"]["closed"]
    assert set(watch.seconds) == {"surface", "simplify", "unwrap", "texture", "write", "video"}


def test_stopwatch_adds_up_what_bears_one_name(monkeypatch):
    ticks = iter([0.0, 1.0, 10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr("instant3d.utils.progress.time.perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    for name in ("a", "b", "a"):
        with watch(name):
            pass
    assert watch.rounded() == {"a": 1.25, "b": 2.5}


def test_progress_log_gets_a_line_every_ten_seconds_and_a_terminal_a_bar(monkeypatch):
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
