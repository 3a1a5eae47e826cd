"""Every kind of .glb, judged by the Khronos Group's own validator."""

import numpy as np
import pytest
import torch
import trimesh
from gltf_validator import validate
from sphere_network import sphere_network

from instant3d.cameras import structured_cameras
from instant3d.cli.main import main
from instant3d.mesh import Mesh, printable, save
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.views import Views

SPHERE = trimesh.creation.icosphere(2)
UV = (SPHERE.vertices[:, :2] / 2 + 0.5).astype(np.float32)
TEXTURE = np.full((8, 8, 4), 200, np.uint8)
NORMALS = {"normals": SPHERE.vertices}
COLORS = {"colors": np.abs(SPHERE.vertices)}
TEXTURED = {"uv": UV, "texture": TEXTURE}
LOOKS = {
    "plain": {},
    "normals": NORMALS,
    "colours": COLORS,
    "colours and normals": COLORS | NORMALS,
    "texture": TEXTURED,
    "texture and normals": TEXTURED | NORMALS,
    "cut-out texture": TEXTURED | {"alpha_cutoff": 0.5, "wrap": ("mirror", "clamp")},
    "texture, colours and normals": TEXTURED | COLORS | NORMALS,
}


def faults(report):
    """Errors and warnings; hints and information do not count."""
    return [message for message in report["issues"]["messages"] if message["severity"] < 2]


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS)
def test_glb_has_neither_error_nor_warning_for_khronos(tmp_path, look):
    Mesh(SPHERE.vertices, SPHERE.faces, **LOOKS[look]).save(tmp_path / "a.glb")
    report = validate(tmp_path / "a.glb")
    assert faults(report) == []
    assert report["info"]["totalTriangleCount"] == len(SPHERE.faces)


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    views = Views(torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32), structured_cameras())
    ViewsTo3D(sphere_network())(views, resolution=24).save(folder := tmp_path_factory.mktemp("asset"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "",
        "--for game",
        "--for print",
        "--for web",
        "--for print --texture none",
        "--texture none",
        "--texture 512",
        "--faces full",
        "--faces full --texture none",
        "--faces 4 --texture 16",
        "--origin centre",
        "--origin world",
        "--formats glb,obj,ply,stl,3mf,usdz",
    ],
)
def test_glb_of_the_mesh_command_has_no_fault_for_khronos_with(tmp_path, asset, options):
    assert main(["mesh", str(asset), "-o", str(tmp_path), "--resolution", "32", *options.split()]) == 0
    assert faults(validate(tmp_path / "mesh.glb")) == []


@pytest.mark.slow
def test_glb_of_several_parts_has_no_fault_for_khronos(tmp_path):
    save([Mesh(SPHERE.vertices + k, SPHERE.faces, **TEXTURED | NORMALS) for k in range(2)], tmp_path / "a.glb")
    assert faults(validate(tmp_path / "a.glb")) == []


@pytest.mark.slow
def test_glb_of_a_printable_solid_has_no_fault_for_khronos(tmp_path):
    printable(Mesh(SPHERE.vertices, SPHERE.faces, **COLORS | NORMALS), flat_bottom=True).save(tmp_path / "a.glb")
    assert faults(validate(tmp_path / "a.glb")) == []


@pytest.mark.slow
def test_validator_of_khronos_finds_the_fault_in_a_broken_file(tmp_path):
    Mesh(SPHERE.vertices, SPHERE.faces).save(tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes().replace(b'"type":"VEC3"', b'"type":"VEC4"')
    (tmp_path / "a.glb").write_bytes(data)
    assert faults(validate(tmp_path / "a.glb")) != []
