"""`instant3d reconstruct` with photos without cameras, as a user meets it."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from sphere_network import sphere_network

from instant3d import scenes
from instant3d.cli import main as cli


@pytest.fixture(autouse=True)
def small_images(monkeypatch) -> None:
    monkeypatch.setattr("instant3d.pipelines.results.SMALLEST", 48)
    monkeypatch.setattr("instant3d.pipelines.results.FRAMES", 6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "sphere"
    sphere_network().save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Discs, as a sphere looks from everywhere, in two colours."""
    paths = [tmp_path / "front.png", tmp_path / "right.png"]
    for path, colour in zip(paths, ((200, 40, 30), (30, 40, 200)), strict=True):
        image = Image.new("RGBA", (40, 40))
        ImageDraw.Draw(image).ellipse((8, 8, 31, 31), (*colour, 255))
        image.save(path)
    return paths


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_photos_become_a_mesh_and_a_scene_with_the_azimuths_given(capsys, photos, weights, tmp_path):
    code, out, _ = run(
        capsys, "reconstruct", *photos, "-o", tmp_path / "out", "--weights", weights, "--resolution", 24,
        "--poses", "given", "--azimuths", "0,70", "--save-scene", tmp_path / "scene",
    )  # fmt: skip
    assert (code, out.count("\n")) == (0, 1)
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [camera["azimuth"] for camera in record["cameras"]] == [270.0, 340.0]
    assert record["cut_by"] == ["alpha", "alpha"]
    assert len(record["agreement"]["mask_iou"]) == 2
    assert (tmp_path / "out" / "mesh.glb").is_file()
    assert len(scenes.read(tmp_path / "scene").names) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--azimuths", "0"], "1 azimuths were given for 2 photos"),
        (["--poses", "guess", "--azimuths", "0,90"], "leave out one of the two"),
        (["--views", "0"], "leave out --views"),
        (["--elevation", "100"], "expected -89 to 89"),
    ],
)
def test_photos_with_contradicting_options_are_one_sentence(capsys, photos, weights, tmp_path, options, message):
    code, out, err = run(capsys, "reconstruct", *photos, "-o", tmp_path / "out", "--weights", weights, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "out").exists()
