"""Writing meshes: axes, units and colours, never mirrored, read back by ourselves, trimesh, lib3mf and USD."""

import io
import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.ndimage import map_coordinates

from instant3d.mesh import FORMATS, Mesh, face_areas, load, save, vertex_colors

SUFFIXES = (".glb", ".obj", ".ply")
# A tetrahedron without any symmetry, counter-clockwise from outside; every coordinate has a value of its own.
VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0.25, 0.5, 3]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
COLORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.5, 0.8]], np.float32)
Y_UP = VERTICES[:, [0, 2, 1]] * [1, 1, -1]  # what a .glb or .obj should hold
IN_FILE = {".glb": Y_UP, ".obj": Y_UP, ".ply": VERTICES}  # Blender takes a .ply for z up

CHECKER = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]], [[0, 0, 255, 255], [9, 99, 199, 64]]], np.uint8)
UV = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]], np.float32)  # the four pixels' centres


def triangles(vertices, faces):
    """Corner positions by face, faces sorted and each turned to begin with its first corner."""
    corners = np.asarray(vertices)[np.asarray(faces)].round(5)
    turned = [np.roll(face, -min(range(3), key=lambda k: tuple(face[k])), axis=0) for face in corners]
    return np.array(sorted(turned, key=lambda face: face.reshape(-1).tolist()))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_save_gives_other_programs_the_same_unmirrored_object_with_the_formats_up_axis(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Mesh(VERTICES, FACES, colors=COLORS).save(path)
    read = trimesh.load(path, force="mesh", process=False)
    np.testing.assert_allclose(triangles(read.vertices, read.faces), triangles(IN_FILE[suffix], FACES), atol=1e-6)
    assert read.volume == pytest.approx(1.0)  # 2 x 3 / 6; negative if mirrored or inside out


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_reads_back_what_save_wrote(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    normals = np.eye(4, 3, dtype=np.float32) + np.array([0, 0, 1e-3])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    Mesh(VERTICES, FACES, colors=COLORS, normals=normals).save(path)
    (mesh,) = load(path)
    order = [np.flatnonzero(np.abs(mesh.vertices - place).max(1) < 1e-6)[0] for place in VERTICES]
    np.testing.assert_allclose(triangles(mesh.vertices, mesh.faces), triangles(VERTICES, FACES), atol=1e-6)
    # a .glb holds them in linear light, where a step of 1/255 near sRGB 0.2 is one of 3/255
    np.testing.assert_allclose(vertex_colors(mesh)[order], COLORS, atol=(1.5 if suffix == ".glb" else 0.51) / 255)
    np.testing.assert_allclose(mesh.normals[order], normals, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_save_vertex_colours_survive_a_round_trip_through_trimesh(tmp_path, suffix):
    Mesh(VERTICES, FACES, colors=COLORS).save(tmp_path / f"a{suffix}")
    scene = trimesh.load_scene(tmp_path / f"a{suffix}", process=False)
    again = tmp_path / ("again.ply" if suffix == ".ply" else "again.glb")  # trimesh writes a .ply's sRGB unchanged
    scene.export(again)
    (mesh,) = load(again)
    kept, as_y_up = vertex_colors(mesh), VERTICES[:, [0, 2, 1]] * [1, -1, 1]  # trimesh drops our comment
    for place, color in zip(as_y_up if suffix == ".ply" else VERTICES, COLORS, strict=True):
        at = np.abs(mesh.vertices - place).max(1) < 1e-5
        assert at.any()
        np.testing.assert_allclose(kept[at], np.tile(color, (at.sum(), 1)), atol=2 / 255)


def test_load_ply_without_our_comment_is_y_up(tmp_path):
    Mesh(VERTICES, FACES).save(tmp_path / "a.ply")
    data = (tmp_path / "a.ply").read_bytes()
    assert data.count(b"comment +z up, right-handed\n") == 1
    (tmp_path / "a.ply").write_bytes(data.replace(b"comment +z up, right-handed\n", b""))
    (mesh,) = load(tmp_path / "a.ply")
    np.testing.assert_allclose(mesh.vertices, VERTICES[:, [0, 2, 1]] * [1, -1, 1])  # (x, y, z) -> (x, -z, y)


def test_write_glb_vertex_colours_are_linear(tmp_path):
    path = tmp_path / "a.glb"
    Mesh(VERTICES, FACES, colors=COLORS).save(path)
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    document, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    stored = np.frombuffer(binary, "u1", 16, start).reshape(4, 4) / 255
    assert accessor["normalized"]
    np.testing.assert_allclose(stored[3], [0.0331048, 0.2140411, 0.6038273, 1], atol=0.51 / 255)  # sRGB 0.2, 0.5, 0.8


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_save_keeps_a_texture_the_right_way_up(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Mesh(VERTICES, FACES, uv=UV, texture=CHECKER).save(path)
    read = trimesh.load(path, force="mesh", process=False)
    image = getattr(read.visual.material, "baseColorTexture", None) or read.visual.material.image
    theirs = trimesh.visual.color.uv_to_color(read.visual.uv, image)  # v upwards, by trimesh's own look-up
    for place, pixel in zip(Y_UP, CHECKER.reshape(4, 4), strict=True):
        vertex = np.flatnonzero(np.abs(read.vertices - place).max(1) < 1e-6)[0]
        np.testing.assert_array_equal(theirs[vertex], pixel)
    (mesh,) = load(path)
    np.testing.assert_array_equal(mesh.texture, CHECKER)
    order = [np.flatnonzero(np.abs(mesh.vertices - place).max(1) < 1e-6)[0] for place in VERTICES]
    np.testing.assert_allclose(mesh.uv[order], UV, atol=1e-6)


def test_write_ply_takes_its_colours_from_the_texture(tmp_path):
    Mesh(VERTICES, FACES, uv=UV, texture=CHECKER).save(tmp_path / "a.ply")
    read = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(read.visual.vertex_colors[:, :3], CHECKER.reshape(4, 4)[:, :3])


def test_write_glb_keeps_material_wrapping_and_shared_textures(tmp_path):
    look = {"uv": UV, "texture": CHECKER, "wrap": ("mirror", "clamp"), "base_color": (0.1, 0.2, 0.3, 0.9)}
    parts = [Mesh(VERTICES + shift, FACES, **look, alpha_cutoff=0.3) for shift in (0, 4)]
    save(parts, tmp_path / "a.glb")
    read = load(tmp_path / "a.glb")
    assert [(mesh.wrap, mesh.base_color, mesh.alpha_cutoff) for mesh in read] == [
        (("mirror", "clamp"), (0.1, 0.2, 0.3, 0.9), 0.3)
    ] * 2
    assert read[0].texture is read[1].texture


def test_write_obj_keeps_parts_and_their_colours(tmp_path):
    parts = [Mesh(VERTICES, FACES, base_color=(1, 0, 0, 1)), Mesh(VERTICES + 5, FACES, base_color=(0, 0.2140411, 0, 1))]
    save(parts, tmp_path / "a.obj")
    assert "Kd 0.000000 0.500000 0.000000" in (tmp_path / "a.mtl").read_text()
    read = sorted(load(tmp_path / "a.obj"), key=lambda mesh: mesh.vertices[0, 0])
    np.testing.assert_allclose([mesh.base_color for mesh in read], [mesh.base_color for mesh in parts], atol=5e-3)
    np.testing.assert_allclose(triangles(read[1].vertices, read[1].faces), triangles(VERTICES + 5, FACES), atol=1e-5)


def test_read_obj_accepts_an_older_encoding(tmp_path):
    corners = "".join(f"v {x} {y} {z}\n" for x, y, z in Y_UP)
    text = f"# Stühle\nmtllib grün.mtl\nusemtl grün\n{corners}f 1 3 2\nf 1 2 4\n"
    (tmp_path / "a.obj").write_bytes(text.encode("latin-1"))
    (tmp_path / "grün.mtl").write_bytes("newmtl grün\nKd 0 1 0\n".encode("latin-1"))
    (mesh,) = load(tmp_path / "a.obj")
    assert mesh.base_color == (0, 1, 0, 1)


def test_load_glb_accepts_every_kind_of_image(tmp_path):
    for form in ("PNG", "JPEG", "WEBP"):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (200, 100, 50)).save(stream, form, quality=100)
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.open(stream))
        look = trimesh.visual.TextureVisuals(uv=UV, material=material)
        trimesh.Trimesh(VERTICES, FACES, visual=look, process=False).export(tmp_path / "a.glb")
        (mesh,) = load(tmp_path / "a.glb")
        np.testing.assert_allclose(mesh.texture[4, 4], [200, 100, 50, 255], atol=4)


def test_write_obj_texture_of_vertex_colours_is_bilinear_between_the_corners(tmp_path):
    """By scipy's bilinear look-up, pixel centres at halves, at the middle of every face's edges."""
    colors = 0.35 + 0.3 * COLORS
    Mesh(VERTICES, FACES, colors=colors).save(tmp_path / "a.obj")
    read = trimesh.load(tmp_path / "a.obj", process=False)
    middle = read.visual.uv[read.faces][:, [0, 0, 1]] / 2 + read.visual.uv[read.faces][:, [1, 2, 2]] / 2
    image = np.asarray(read.visual.material.image.convert("RGB")) / 255
    at = [(1 - middle[..., 1]) * len(image) - 0.5, middle[..., 0] * len(image[0]) - 0.5]
    shown = np.stack([map_coordinates(image[..., k], at, order=1) for k in range(3)], axis=-1)
    near = [int(np.abs(Y_UP - place).max(1).argmin()) for place in read.vertices]
    corner = colors[near][read.faces]
    wanted = (corner[:, [0, 0, 1]] + corner[:, [1, 2, 2]]) / 2
    np.testing.assert_allclose(shown, wanted, atol=1 / 255)


@pytest.mark.parametrize("suffix", [f".{name}" for name in FORMATS])
def test_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"
    Mesh(VERTICES, FACES).save(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        Mesh(VERTICES * 2, FACES).save(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_save_writes_only_known_formats_and_real_surfaces(tmp_path):
    with pytest.raises(ValueError, match=r"one of \.glb, \.obj, \.ply, \.stl, \.3mf, \.usdz, not as a\.fbx"):
        Mesh(VERTICES, FACES).save(tmp_path / "a.fbx")
    for name in FORMATS:
        with pytest.raises(ValueError, match="no triangle"):
            Mesh(VERTICES, np.zeros((0, 3), int)).save(tmp_path / f"a.{name}")
    assert list(tmp_path.iterdir()) == []


L_SHAPE = "0 0 0\n2 0 0\n2 1 0\n1 1 0\n1 2 0\n0 2 0\n"  # six corners, area 3


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("extra", [0, 1], ids=["alone", "beside a triangle"])
def test_load_ply_cuts_a_concave_face_without_filling_its_notch(tmp_path, start, extra):
    ring = " ".join(str((start + k) % 6) for k in range(6))
    faces = f"6 {ring}\n" + "3 0 1 2\n" * extra
    (tmp_path / "a.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 6\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {1 + extra}\nproperty list uchar int vertex_indices\nend_header\n{L_SHAPE}{faces}"
    )
    (mesh,) = load(tmp_path / "a.ply")
    assert face_areas(mesh).sum() == pytest.approx(3 + extra)


@pytest.mark.parametrize(("ring", "faces"), [("0 1 2 3", 2), ("4 1 2 3", 2)], ids=["convex", "concave"])
def test_load_ply_splits_a_polygon_with_a_colour_of_its_own_and_keeps_that_colour(tmp_path, ring, faces):
    (tmp_path / "a.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 2\nproperty list uchar int vertex_indices\nproperty uchar red\nproperty uchar green\n"
        f"property uchar blue\nend_header\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n0.9 0.9 0\n4 {ring} 255 0 0\n3 0 1 4 0 0 255\n"
    )
    (mesh,) = load(tmp_path / "a.ply")
    by_color = mesh.colors[mesh.faces[:, 0]]
    areas = face_areas(mesh)
    quad = {"0 1 2 3": 1.0, "4 1 2 3": 0.1}[ring]
    assert len(mesh.faces) == faces + 1
    assert areas[(by_color == (1, 0, 0)).all(1)].sum() == pytest.approx(quad)
    assert areas[(by_color == (0, 0, 1)).all(1)].sum() == pytest.approx(0.45)


@pytest.mark.parametrize(("suffix", "up", "top"), [("obj", "z", 3), ("ply", "z", 3), ("obj", "y", 2), ("glb", "z", 2)])
def test_load_takes_the_given_axis_of_an_obj_or_ply_as_up_and_that_of_gltf_from_its_standard(tmp_path, suffix, up, top):
    trimesh.creation.box((1, 2, 3)).export(tmp_path / f"a.{suffix}")  # x, y, z in the file
    height = np.ptp(np.concatenate([mesh.vertices for mesh in load(tmp_path / f"a.{suffix}", up)])[:, 2])
    assert height == pytest.approx(top)
