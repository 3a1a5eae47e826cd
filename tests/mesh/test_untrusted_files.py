"""Untrusted files: each broken or hostile one is refused in one sentence that names the file."""

import json
import os
import struct

import numpy as np
import pytest
from gltf_by_hand import TRIANGLE, ByHand, png_header, triangle

from instant3d.mesh import load


def refused(path, because):
    with pytest.raises(ValueError, match=because) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def textured(document, texture):
    uv = {"TEXCOORD_0": document.values(np.zeros((3, 2), np.float32))}
    document = triangle(uv, document, material=0)
    document.json["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": texture}}}]
    return document


def with_positions(*rows):
    document = triangle()
    document.data = np.array(rows, np.float32).tobytes() + document.data[36:]
    return document


@pytest.mark.parametrize("required", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "VENDOR_secret"])
def test_load_refuses_an_unknown_required_extension(tmp_path, required):
    refused(triangle().save(tmp_path / "a.gltf", extensionsRequired=[required]), required)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_load_refuses_a_vertex_that_is_not_finite(tmp_path, bad):
    refused(
        with_positions([0, 0, 0], [1, 0, bad], [0, 1, 0]).save(tmp_path / "a.gltf"), "1 of 3 vertices are not finite"
    )


@pytest.mark.parametrize("last", [[2, 0, 0], [0.5, 1e-9, 0]])
def test_load_refuses_triangles_without_area(tmp_path, last):
    refused(with_positions([0, 0, 0], [1, 0, 0], last).save(tmp_path / "a.gltf"), "almost no area")


def test_load_refuses_an_index_out_of_range(tmp_path):
    document = ByHand()
    indices = document.values(np.array([0, 1, 3], np.uint16))
    refused(triangle(document=document, indices=indices).save(tmp_path / "a.gltf"), "there are 3")


@pytest.mark.parametrize("mode", [0, 1])
def test_load_refuses_points_and_lines_only(tmp_path, mode):
    refused(triangle(mode=mode).save(tmp_path / "a.gltf"), "no triangles")


def test_load_refuses_a_file_without_meshes(tmp_path):
    refused(ByHand().save(tmp_path / "a.gltf"), "no triangles")


def test_load_refuses_nodes_in_a_circle(tmp_path):
    nodes = [{"mesh": 0, "children": [1]}, {"children": [0]}]
    refused(triangle().save(tmp_path / "a.gltf", nodes=nodes, scenes=[{"nodes": [0]}]), "tree")


def test_load_refuses_a_texture_that_declares_too_many_pixels(tmp_path):
    document = ByHand()
    refused(textured(document, document.picture(png_header(8193, 1))).save(tmp_path / "a.gltf"), "8193 x 1 px")


def test_load_refuses_a_broken_texture(tmp_path):
    document = ByHand()
    refused(
        textured(document, document.picture(png_header(4, 4))).save(tmp_path / "a.gltf"), "texture is not a readable"
    )


def test_load_refuses_many_textures_that_are_large_together(tmp_path, monkeypatch):
    monkeypatch.setattr("instant3d.mesh.untrusted.MAX_PIXELS", 99)
    document = ByHand()
    refused(textured(document, document.picture(png_header(10, 10))).save(tmp_path / "a.gltf"), "more than 99 pixels")


def test_load_refuses_more_triangles_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("instant3d.mesh.gltf_reader.MAX_FACES", 2)
    nodes = [{"mesh": 0}] * 3  # one triangle, shown three times
    refused(triangle().save(tmp_path / "a.gltf", nodes=nodes), "more than 2 triangles")


def test_load_counts_a_strip_by_its_triangles(tmp_path, monkeypatch):
    monkeypatch.setattr("instant3d.mesh.gltf_reader.MAX_FACES", 3)
    document = ByHand()
    indices = document.values(np.array([0, 1, 2, 0, 1], np.uint16))
    assert len(load(triangle(document=document, indices=indices, mode=5).save(tmp_path / "a.gltf"))[0].faces) == 3
    monkeypatch.setattr("instant3d.mesh.gltf_reader.MAX_FACES", 2)
    refused(tmp_path / "a.gltf", "more than 2 triangles")


def test_load_refuses_an_accessor_larger_than_memory(tmp_path):
    document = triangle()
    document.json["accessors"][0]["count"] = 10**12
    refused(document.save(tmp_path / "a.gltf"), "has 1000000000000 elements")


@pytest.mark.parametrize(("field", "value"), [("byteLength", 10**6), ("byteOffset", -4), ("byteStride", 1000)])
def test_load_refuses_a_view_beyond_its_buffer(tmp_path, field, value):
    document = triangle()
    document.json["bufferViews"][0][field] = value
    refused(document.save(tmp_path / "a.gltf"), "reaches beyond")


@pytest.mark.parametrize("uri", ["../secret.bin", "/etc/hostname", "%2e%2e/secret.bin", "..\\secret.bin", "link.bin"])
def test_load_refuses_a_buffer_outside_the_folder(tmp_path, uri):
    (tmp_path / "secret.bin").write_bytes(TRIANGLE.tobytes())
    folder = tmp_path / "object"
    folder.mkdir()
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    refused(triangle().save(folder / "a.gltf", buffers=[{"uri": uri, "byteLength": 36}]), "outside its folder")


@pytest.mark.parametrize("uri", ["https://example.org/a.bin", "file:///etc/hostname", "gone.bin"])
def test_load_refuses_a_buffer_that_is_not_a_file_beside_it(tmp_path, uri):
    refused(triangle().save(tmp_path / "a.gltf", buffers=[{"uri": uri, "byteLength": 36}]), "refers to")


@pytest.mark.parametrize(
    "broken",
    [
        {"nodes": [{"mesh": 7}]},
        {"nodes": [{"mesh": 0, "rotation": "north"}]},
        {"nodes": [{"mesh": 0, "matrix": [1, 2]}]},
        {"nodes": 3},
        {"nodes": [[]]},
        {"meshes": [{"primitives": [{"attributes": {}}]}]},
        {"meshes": [{"primitives": None}]},
        {"accessors": [{"bufferView": 0, "componentType": 1, "count": 3, "type": "VEC3"}]},
        {"accessors": [{"bufferView": 0, "componentType": 5126, "count": "3", "type": "VEC3"}]},
        {"scene": 4, "scenes": [{"nodes": [0]}]},
        {"buffers": []},
        {"extensionsRequired": 5},
    ],
)
def test_load_refuses_a_document_with_nonsense_in_it(tmp_path, broken):
    refused(triangle().save(tmp_path / "a.gltf", **broken), "cannot be read")


@pytest.mark.parametrize("data", [b"", b"glTF", b"glTF" + bytes(30), b"[" * 100_000, b"{}", b"\xff\xfe\x00", b"[1]"])
@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_load_refuses_bytes_that_are_not_gltf(tmp_path, data, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    refused(path, "cannot be read")


def test_load_refuses_a_glb_cut_short_anywhere(tmp_path):
    text = json.dumps(triangle().json | {"buffers": [{"byteLength": 36}]}).encode()
    text += b" " * (-len(text) % 4)
    binary = TRIANGLE.tobytes()
    whole = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(binary), len(text), b"JSON") + text
    whole += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    path = tmp_path / "a.glb"
    path.write_bytes(whole)
    assert len(load(path)) == 1
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        refused(path, "cannot be read")


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.obj", OBJ + "f 1 2 9\n"),
        ("a.obj", OBJ),
        ("a.obj", ""),
        ("a.obj", "v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"),
        ("a.obj", "v a b c\nf 1 2 3\n"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n"),
        ("a.ply", "ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\nproperty float x\nend_header\n"),
        ("a.ply", "not a ply"),
        ("a.ply", ""),
    ],
)
def test_load_refuses_broken_obj_and_ply(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    refused(tmp_path / name, "cannot be read")


def test_load_refuses_an_obj_whose_material_lies_outside(tmp_path):
    folder = tmp_path / "object"
    folder.mkdir()
    (tmp_path / "m.mtl").write_text("newmtl m\nKd 1 0 0\n")
    (folder / "a.obj").write_text("mtllib ../m.mtl\nusemtl m\n" + OBJ + "f 1 2 3\n")
    refused(folder / "a.obj", "outside its folder")


@pytest.mark.parametrize(
    ("texture", "because"),
    [("/etc/hostname", "outside"), ("gone.png", "does not exist"), ("huge.png", "9000 x"), ("huge.dat", "9000 x")],
)
def test_load_refuses_an_obj_whose_texture_is_missing_or_unsafe_or_huge(tmp_path, texture, because):
    for name in ("huge.png", "huge.dat"):
        (tmp_path / name).write_bytes(png_header(9000, 2))
    (tmp_path / "m.mtl").write_text(f"newmtl m\nmap_Kd {texture}\n")
    (tmp_path / "a.obj").write_text("mtllib m.mtl\nusemtl m\n" + OBJ + "vt 0 0\nf 1/1 2/1 3/1\n")
    refused(tmp_path / "a.obj", because)


def test_load_refuses_a_file_that_is_no_mesh_or_does_not_exist(tmp_path):
    (tmp_path / "a.fbx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"expected one of \.glb"):
        load(tmp_path / "a.fbx")
    with pytest.raises(FileNotFoundError, match="no mesh file"):
        load(tmp_path / "none.glb")
