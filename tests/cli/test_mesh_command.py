"""`instant3d mesh`: another mesh of a finished asset, read by other programs."""

import json
import re

import numpy as np
import pytest
import torch
import trimesh
from sphere_network import RADIUS, sphere_network

from instant3d.cameras import structured_cameras
from instant3d.cli.main import main
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.views import Views

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asset")
    views = Views(torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32), structured_cameras())
    made = ViewsTo3D(sphere_network())(views, resolution=24)
    made.save(folder)
    return folder


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["mesh", *map(str, arguments), "--resolution", "32"])
    return code, *capsys.readouterr()


def test_mesh_command_writes_a_lighter_sphere_that_stands_on_the_ground(capsys, asset, tmp_path):
    (tmp_path / "out").mkdir()  # a folder that exists may be added to
    code, out, err = run(capsys, asset, "-o", tmp_path / "out", "--faces", 400, "--texture", 64)
    assert (code, out.count("\n"), err) == (0, 1, "")
    mesh = trimesh.load(tmp_path / "out" / "mesh.glb", force="mesh")
    assert len(mesh.faces) <= 400
    assert mesh.visual.material.baseColorTexture.size == (64, 64)
    low, high = mesh.bounds
    assert low[1] == pytest.approx(0, abs=1e-5)  # y is up
    np.testing.assert_allclose(high - low, 2 * RADIUS, atol=0.05)
    np.testing.assert_allclose((low + high)[[0, 2]], 0, atol=1e-4)


def test_mesh_command_replaces_a_single_file_of_any_format(capsys, asset, tmp_path):
    for _ in range(2):
        assert run(capsys, asset, "-o", tmp_path / "ball.stl", "--faces", 300, "--size-mm", 30)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["ball.stl"]
    assert trimesh.load(tmp_path / "ball.stl").extents.max() == pytest.approx(30, rel=1e-3)


def test_mesh_command_for_print_makes_a_solid_of_the_spheres_volume_and_prints_it(capsys, asset, tmp_path):
    code, out, _ = run(capsys, asset, "-o", tmp_path / "ball.glb", "--for", "print", "--texture", "none")
    assert code == 0
    mesh = trimesh.load(tmp_path / "ball.glb", force="mesh")
    mesh.merge_vertices(merge_norm=True, merge_tex=True)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.1)  # a coarse grid
    assert float(re.search(r"closed, volume (\S+),", out)[1]) == pytest.approx(mesh.volume, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--faces", 0], "between 4 and 5000000 faces, got 0"),
        (["--faces", 10_000_000], "between 4 and 5000000 faces, got 10000000"),
        (["--texture", 100_000], "between 16 and 8192 pixels a side, got 100000"),
        (["--formats", "fbx"], "choose among glb"),
    ],
)
def test_mesh_command_refuses_bad_options_in_one_sentence(capsys, asset, tmp_path, arguments, message):
    code, out, err = run(capsys, asset, "-o", tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_mesh_command_refuses_an_asset_that_is_not_there_and_a_file_that_is_no_mesh(capsys, asset, tmp_path):
    assert run(capsys, tmp_path / "nowhere", "-o", tmp_path / "out")[0] == 2
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = run(capsys, asset, "-o", tmp_path / "notes.txt")
    assert (code, err.count("\n")) == (2, 1)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["notes.txt"]'
