"""From one photo by a converted Zero123++ and a converted InstantMesh to an asset: the command and its views."""

import json
from types import SimpleNamespace

import pytest
import torch
from golden_generators import GoldenGenerator
from golden_sets import Golden
from PIL import Image

from instant3d import scenes
from instant3d.cameras import orbit
from instant3d.cli import main as cli
from instant3d.pipelines import convert, photo_to_views
from instant3d.pipelines.photo_to_views import cut_from


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    source = GoldenGenerator("zero123plus").source(folder / "source")
    convert.VIEW_GENERATORS["zero123plus"](source).save(folder / "zero123plus", source, torch.float32)
    convert.convert("instantmesh", Golden("instantmesh").folder, folder / "instantmesh", image_size=64)
    convert.convert("triposr", Golden("triposr").folder, folder / "triposr", image_size=64)
    return folder


@pytest.fixture
def photo(tmp_path):
    image = Image.new("RGBA", (90, 60))
    image.paste((220, 30, 20, 255), (50, 10, 80, 50))
    image.save(tmp_path / "mug.png")
    return tmp_path / "mug.png"


@pytest.fixture(autouse=True)
def small_images(monkeypatch):
    for name, value in (("SMALLEST", 8), ("LARGEST", 8), ("FRAMES", 2)):
        monkeypatch.setattr(f"instant3d.pipelines.results.{name}", value)


@pytest.mark.slow
def test_reconstruct_makes_an_asset_of_a_photo_by_generated_views(weights, photo, tmp_path, capsys):
    arguments = ["--views-by", weights / "zero123plus", "--weights", weights / "instantmesh", "--steps", 1, "--seed", 7]
    out = tmp_path / "out"
    code = cli.main([*map(str, ["reconstruct", photo, *arguments, "-o", out, "--resolution", 8, "--device", "cpu"])])
    captured = capsys.readouterr()
    assert (code, captured.out.count("\n")) == (0, 1)
    assert "not trained with" not in captured.err
    record = json.loads((out / "result.json").read_text())
    assert (record["cut_by"], record["sampling"]) == ("alpha", {"steps": 1, "guidance": 4.0, "seed": 7})
    assert all((out / name).exists() for name in record["files"])
    views = scenes.read(out / "views").views
    # the photo's own camera is at our front, azimuth 270, and the views are 30, 90, ... degrees on from it
    wanted = orbit([300.0, 0.0, 60.0, 120.0, 180.0, 240.0], [20.0, -10.0] * 3, 4.0, 30.0)
    torch.testing.assert_close(views.cameras.cam_to_world, wanted.cam_to_world, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--weights", "triposr", "--views-by", "zero123plus"], "make an object of one image"),
        (["--weights", "instantmesh", "--views-by", "instantmesh"], "model_index.json does not exist"),
        (["--weights", "instantmesh", "--views-by", "nowhere"], "instant3d convert zero123plus"),
        (["--weights", "instantmesh", "--seed", "3"], "--seed belongs to --views-by"),
    ],
)
def test_reconstruct_refuses_what_does_not_fit_in_one_sentence(weights, photo, tmp_path, capsys, arguments, fault):
    given = [str(weights / word) if not word.startswith("-") and word != "3" else word for word in arguments]
    assert cli.main(["reconstruct", str(photo), *given, "-o", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert fault in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("background", [0.5, 1.0, 127 / 255])
def test_cut_from_restores_colour_and_opacity_of_a_disc_on_grey(background):
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    alpha = (20 - (x**2 + y**2).sqrt() + 0.5).clamp(0, 1)[None]
    color = torch.tensor([0.9, 0.1, 0.2])[:, None, None]
    rgb, found = cut_from(alpha * color + (1 - alpha) * background, background)
    torch.testing.assert_close(found, alpha, atol=0.03, rtol=0)
    torch.testing.assert_close((rgb * (found > 0.99)), (color * (found > 0.99)), atol=0.02, rtol=0)


def test_cut_from_keeps_all_of_a_view_without_its_background():
    tile = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    rgb, alpha = cut_from(tile, 0.5)
    assert torch.equal(rgb, tile)
    assert bool((alpha == 1).all())


def test_split_grid_reads_the_views_row_by_row():
    grid = torch.arange(6.0).reshape(3, 2).repeat_interleave(8, 0).repeat_interleave(8, 1).expand(3, -1, -1) / 6
    parts = SimpleNamespace(
        rows_and_columns=(3, 2), background=255, layout=SimpleNamespace(cameras=orbit([0.0] * 6, 20.0))
    )
    views = photo_to_views.split_grid(grid, parts)
    torch.testing.assert_close(views.rgb[:, 0, 4, 4], torch.arange(6.0) / 6)
