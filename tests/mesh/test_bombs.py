"""A few bytes that would become gigabytes or minutes are refused before anything is made of them."""

import json
import time
import tracemalloc

import numpy as np
import pytest
from gltf_by_hand import ByHand, triangle

from instant3d.mesh import load
from instant3d.mesh.untrusted import TooLarge

MANY = 15_000_000 // 3 * 3
FLOAT, BYTE = 5126, 5121


def bufferless(document, count, kind, component=FLOAT):
    document.json["accessors"].append({"componentType": component, "count": count, "type": kind})
    return len(document.json["accessors"]) - 1


def refused_at_once(path, megabytes=1):
    assert path.stat().st_size < megabytes * 2**20
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(TooLarge, match="repeats its content") as caught:
        load(path)
    seconds, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 400 * 2**20
    assert seconds < 5


def test_load_refuses_accessors_without_a_buffer(tmp_path):
    document = ByHand()
    places, normals = (bufferless(document, MANY, "VEC3") for _ in range(2))
    primitive = {"attributes": {"POSITION": places, "NORMAL": normals}}
    document.json |= {"meshes": [{"primitives": [primitive] * 3}], "nodes": [{"mesh": 0}]}
    refused_at_once(document.save(tmp_path / "a.gltf"))


def test_load_refuses_a_skin_whose_vertices_lie_in_no_buffer(tmp_path):
    document, count = ByHand(), 3_000_000
    attributes = {"POSITION": bufferless(document, count, "VEC3")}
    attributes |= {f"JOINTS_{k}": bufferless(document, count, "VEC4", BYTE) for k in range(8)}
    attributes |= {f"WEIGHTS_{k}": bufferless(document, count, "VEC4") for k in range(8)}
    document.json |= {"meshes": [{"primitives": [{"attributes": attributes}]}], "skins": [{"joints": [0]}]}
    refused_at_once(document.save(tmp_path / "a.gltf", nodes=[{"mesh": 0, "skin": 0}]))


def test_load_refuses_a_skin_with_a_joint_named_very_often(tmp_path, monkeypatch):
    monkeypatch.setattr("instant3d.mesh.gltf_budget.BASE", 2**18)
    document = triangle()
    document.json["skins"] = [{"joints": [0] * 10_000}]
    refused_at_once(document.save(tmp_path / "a.gltf", nodes=[{"mesh": 0, "skin": 0}, *[{"mesh": 0, "skin": 0}] * 20]))


def test_load_refuses_a_morph_of_many_targets(tmp_path):
    document = ByHand()
    place = bufferless(document, 1_000_000, "VEC3")
    primitive = {"attributes": {"POSITION": place}, "targets": [{"POSITION": place}] * 1000}
    document.json["meshes"] = [{"primitives": [primitive], "weights": [0.5] * 1000}]
    refused_at_once(document.save(tmp_path / "a.gltf", nodes=[{"mesh": 0}]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0, 4])
def test_load_refuses_many_nodes_that_show_a_mesh_of_many_parts(tmp_path, monkeypatch, mode):
    monkeypatch.setattr("instant3d.mesh.gltf_budget.BASE", 2**22)
    document = triangle(mode=mode)
    document.json["meshes"][0]["primitives"] *= 2000
    refused_at_once(document.save(tmp_path / "a.gltf", nodes=[{"mesh": 0}] * 2000))


def test_load_refuses_one_triangle_repeated_by_a_stride_of_zero(tmp_path):
    document = triangle()
    document.json["bufferViews"][0]["byteStride"] = 0
    document.json["accessors"][0]["count"] = MANY
    refused_at_once(document.save(tmp_path / "a.gltf"))


def test_load_refuses_one_row_replaced_millions_of_times(tmp_path):
    document = triangle()
    for view in (document.view(bytes(4)), document.view(bytes(12))):
        document.json["bufferViews"][view]["byteStride"] = 0
    sparse = {"count": MANY, "indices": {"bufferView": 1, "componentType": 5125}, "values": {"bufferView": 2}}
    document.json["accessors"][0]["sparse"] = sparse
    refused_at_once(document.save(tmp_path / "a.gltf"))


@pytest.mark.slow
def test_load_reads_a_large_buffer_once_however_many_names_it_has(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(2**22))
    document = triangle()
    buffers = [{"uri": "a.bin", "byteLength": 36}, *({"uri": "./" * k + "a.bin", "byteLength": 36} for k in range(99))]
    views = [{"buffer": k, "byteLength": 36} for k in range(100)]
    accessors = [document.json["accessors"][0] | {"bufferView": k} for k in range(100)]
    primitives = [{"attributes": {"POSITION": k}} for k in range(100)]
    changes = {"bufferViews": views, "accessors": accessors, "meshes": [{"primitives": primitives}]}
    path = document.save(tmp_path / "a.gltf", buffers=buffers, **changes)
    tracemalloc.start()
    with pytest.raises(ValueError, match="almost no area"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    tracemalloc.stop()


@pytest.mark.slow
def test_load_accepts_honest_repetition(tmp_path):
    """A forest: a thousand copies of a tree of a hundred triangles."""
    rng = np.random.default_rng(0)
    document = ByHand()
    place = document.values(rng.normal(size=(300, 3)).astype(np.float32))
    document.json["meshes"] = [{"primitives": [{"attributes": {"POSITION": place}}]}]
    nodes = [{"mesh": 0, "translation": [k, 0, 0]} for k in range(1000)]
    assert sum(len(mesh.faces) for mesh in load(document.save(tmp_path / "a.gltf", nodes=nodes))) == 100_000


def test_load_keeps_a_dense_skinned_morphed_mesh_far_below_the_limit(tmp_path):
    """Every vertex of its own, quantised: the shortest file for the most memory."""
    count, document = 60_000, ByHand()
    rng = np.random.default_rng(0)
    place = document.values(rng.integers(-99, 99, (count, 3)).astype(np.int16), normalized=True)
    weights, joints = np.full((count, 4), 64, np.uint8), np.zeros((count, 4), np.uint8)
    attributes = {"POSITION": place, "WEIGHTS_0": document.values(weights, normalized=True)}
    attributes |= {"JOINTS_0": document.values(joints)}
    document.json["meshes"] = [{"primitives": [{"attributes": attributes}]}]
    document.json |= {"skins": [{"joints": [0]}], "nodes": [{"mesh": 0, "skin": 0}]}
    path = document.save(tmp_path / "a.gltf")
    assert len(load(path)[0].faces) == count // 3
    assert json.loads(path.read_text())["nodes"] == [{"mesh": 0, "skin": 0}]
