"""Another mesh of a finished asset: what is reported is measured again by trimesh, and failures leave nothing."""

import errno
import json

import numpy as np
import pytest
import torch
import trimesh
from sphere_network import RADIUS, sphere_network

from instant3d.cameras import structured_cameras
from instant3d.mesh import Mesh
from instant3d.nerf.asset import FILE
from instant3d.nerf.triplane_file import write_triplane
from instant3d.pipelines.remesh import remesh
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.utils.mesh_options import MeshOptions
from instant3d.views import Views

pytestmark = pytest.mark.slow

SMALL = MeshOptions(faces=300, texture=64)


@pytest.fixture(scope="module")
def sphere():
    views = Views(torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32), structured_cameras())
    return ViewsTo3D(sphere_network())(views)


@pytest.fixture(scope="module")
def triplane(sphere, tmp_path_factory):
    path = tmp_path_factory.mktemp("asset") / FILE
    write_triplane(sphere.triplane, sphere.decoder, path)
    return path


def test_remesh_reports_what_trimesh_measures_in_the_file(triplane, tmp_path):
    record = remesh(triplane, tmp_path, options=SMALL)
    read = trimesh.load(tmp_path / "mesh.glb", force="mesh")
    reported = record["mesh"]
    assert (reported["faces"], reported["texture"]) == (len(read.faces), read.visual.material.baseColorTexture.width)
    read.merge_vertices(merge_tex=True, merge_norm=True)
    assert (reported["closed"], reported["components"]) == (read.is_watertight, read.body_count)
    assert reported["volume"] == pytest.approx(read.volume, rel=1e-3)
    assert sorted(reported["size"]) == pytest.approx(sorted(read.extents), rel=1e-3)
    assert set(record["seconds"]) == {"load", "surface", "simplify", "unwrap", "texture", "write"}


def test_remesh_finds_the_surface_on_two_nodes_for_each_texel_of_the_planes(triplane, tmp_path):
    """Planes of 16 texels: the surface in full has as many faces as one on a grid of 32, and is the sphere."""
    options = MeshOptions(faces=None, texture=None)
    counts = [
        remesh(triplane, tmp_path / str(nodes), options=options, resolution=nodes)["mesh"] for nodes in (None, 32, 48)
    ]
    assert counts[0] == counts[1]
    assert counts[2]["faces"] > counts[0]["faces"]
    assert counts[0]["volume"] == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.1)


@pytest.mark.parametrize(("density", "message"), [(-20.0, "field is empty"), (5.0, "field is full")])
def test_remesh_of_a_field_without_a_surface_is_refused_and_writes_nothing(sphere, tmp_path, density, message):
    decoder = sphere_network().decoder
    decoder.last.weight[0], decoder.last.bias[0] = 0.0, density
    write_triplane(sphere.triplane, decoder, tmp_path / FILE)
    with pytest.raises(ValueError, match=message):
        remesh(tmp_path / FILE, tmp_path / "out", options=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_remesh_onto_a_full_disk_leaves_the_old_files_as_they_were(triplane, tmp_path, monkeypatch):
    (tmp_path / "mesh.glb").write_bytes(b"old")

    def save(mesh, path, **how):
        if path.suffix == ".ply":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_bytes(b"new")

    monkeypatch.setattr(Mesh, "save", save)
    with pytest.raises(OSError, match="No space left"):
        remesh(triplane, tmp_path, options=SMALL, formats=("glb", "ply"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"mesh.glb": b"old"}


def test_remesh_record_is_plain_json(triplane, tmp_path):
    record = remesh(triplane, tmp_path, options=SMALL, formats=("obj", "stl"))
    assert json.loads(json.dumps(record)) == record
    assert record["files"] == ["mesh.mtl", "mesh.obj", "mesh.stl", "mesh_0.png"]
