"""Wavefront files as other programs write them. What each holds is counted by hand."""

import numpy as np
import pytest
from PIL import Image

from instant3d.mesh import Mesh, face_areas, load, save
from instant3d.mesh.untrusted import TooLarge

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
UV = "vt 0 0\nvt 1 0\nvt 0 1\n"


def written(folder, text, name="a.obj"):
    (folder / name).write_text(text)
    return folder / name


def area(meshes):
    return sum(float(face_areas(mesh).sum()) for mesh in meshes)


def textured(folder, use, image="red.png"):
    Image.new("RGB", (2, 2), (220, 0, 0)).save(folder / "red.png")
    (folder / "red.png").rename(folder / image)
    written(folder, f"newmtl m\n{use}\n", "m.mtl")
    return written(folder, "mtllib m.mtl\nusemtl m\n" + TRIANGLE + UV + "f 1/1 2/2 3/3\n")


def test_read_obj_relative_indices_count_from_where_they_stand(tmp_path):
    text = TRIANGLE + "f -3 -2 -1\nv 5 0 0\nv 6 0 0\nv 5 1 0\nf -3 -2 -1\n"
    (mesh,) = load(written(tmp_path, text))
    assert sorted(mesh.vertices[:, 0].tolist()) == [0, 0, 1, 5, 5, 6]
    assert area([mesh]) == pytest.approx(1)


def test_read_obj_relative_indices_of_textures_and_normals_count_in_their_own_lists(tmp_path):
    text = TRIANGLE + "vt 0.5 0.5\nvn 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\nf -3/-3/-1 -2/-2/-1 -1/-1/-1\nvn 1 0 0\n"
    (mesh,) = load(written(tmp_path, "mtllib m.mtl\nusemtl m\n" + text) if _library(tmp_path) else tmp_path)
    order = [np.flatnonzero((mesh.vertices == place).all(1))[0] for place in ([0, 0, 0], [1, 0, 0], [0, 0, 1])]
    np.testing.assert_allclose(mesh.uv[order], [[0, 1], [1, 1], [0, 0]])
    np.testing.assert_allclose(mesh.normals, [[0, -1, 0]] * 3)


def _library(folder):
    Image.new("RGB", (2, 2)).save(folder / "t.png")
    return written(folder, "newmtl m\nmap_Kd t.png\n", "m.mtl")


@pytest.mark.parametrize("face", ["-4 -2 -1", "0 1 2", "1 2 4", "1/1 2 3", "1/1 2 3/1/1", "1//1 2//1 3//1", "1 2 x"])
def test_read_obj_refuses_a_face_that_names_a_missing_row_or_has_no_known_form(tmp_path, face):
    with pytest.raises(ValueError, match="face"):
        load(written(tmp_path, TRIANGLE + f"vt 0 0\nf {face}\n"))


@pytest.mark.parametrize("statement", ["mtllib a.mtl\nmtllib b.mtl", "mtllib a.mtl b.mtl", "mtllib b.mtl\tmy own.mtl"])
def test_read_obj_finds_a_material_in_any_library(tmp_path, statement):
    written(tmp_path, "newmtl one\nKd 1 0 0\n", "a.mtl")
    written(tmp_path, "newmtl one\nKd 1 0 0\n", "my own.mtl")
    written(tmp_path, "newmtl two\nKd 0 0 1\n", "b.mtl")
    (mesh,) = load(written(tmp_path, f"# mtllib none\n{statement}\n{TRIANGLE}usemtl two\nf 1 2 3\n"))
    assert mesh.base_color == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("library", "color"),
    [
        ("Kd 0 0 0\nKe 1 0 0\n", (1, 0, 0, 1)),
        ("Ke 0 0 1\nKd 1 0 0\n", (1, 0, 1, 1)),
        ("Kd 0 1 0\nKe 0 0 0\n", (0, 1, 0, 1)),
    ],
)
def test_read_obj_adds_the_emitted_colour_to_the_diffuse_one(tmp_path, library, color):
    written(tmp_path, f"newmtl lamp\n{library}", "a.mtl")
    (mesh,) = load(written(tmp_path, f"mtllib a.mtl\n{TRIANGLE}usemtl lamp\nf 1 2 3\n"))
    assert mesh.base_color == pytest.approx(color)


@pytest.mark.parametrize("use", ["map_Ke red.png", "Ke 1 1 1\nmap_Ke red.png", "Ke 0 0 0\nmap_Ke red.png"])
def test_read_obj_shows_the_emitted_texture_of_a_black_surface(tmp_path, use):
    Image.new("RGB", (2, 2), (200, 40, 10)).save(tmp_path / "red.png")
    written(tmp_path, f"newmtl lamp\nKd 0 0 0\n{use}\n", "a.mtl")
    text = f"mtllib a.mtl\n{TRIANGLE}vt 0 0\nvt 1 0\nvt 0 1\nusemtl lamp\nf 1/1 2/2 3/3\n"
    (mesh,) = load(written(tmp_path, text))
    assert mesh.texture[0, 0].tolist() == [200, 40, 10, 255]
    assert mesh.base_color == (1, 1, 1, 1)


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("mirrored", [False, True])
def test_read_obj_does_not_fill_in_a_concave_face(tmp_path, turn, mirrored):
    ring = np.roll([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)], turn, axis=0)  # an L of three unit squares
    ring = ring[::-1] if mirrored else ring
    text = "".join(f"v {x} {y} {x}\n" for x, y in ring) + "f 1 2 3 4 5 6\n"
    meshes = load(written(tmp_path, text))
    assert area(meshes) == pytest.approx(3 * 2**0.5)  # it lies aslant
    assert len(meshes[0].faces) == 4


def test_read_obj_keeps_the_area_of_a_concave_quad_and_a_ring_round_a_hole(tmp_path):
    arrow = "v 0 0 0\nv 2 1 0\nv 0 2 0\nv 1 1 0\nf 1 2 3 4\n"  # half of 2 x 2 is the whole, the notch takes 1 of it
    assert area(load(written(tmp_path, arrow))) == pytest.approx(1)
    outer, inner = [(0, 0), (3, 0), (3, 3), (0, 3)], [(1, 1), (1, 2), (2, 2), (2, 1)]
    ring = [*outer, outer[0], *inner, inner[0]]  # one polygon, joined by a cut that runs there and back
    text = "".join(f"v {x} {y} 0\n" for x, y in ring) + "f " + " ".join(map(str, range(1, 11))) + "\n"
    assert area(load(written(tmp_path, text))) == pytest.approx(9 - 1)


def test_read_obj_refuses_a_concave_face_of_very_many_corners(tmp_path, monkeypatch):
    monkeypatch.setattr("instant3d.mesh.polygons.MAX_TESTS", 100)
    comb = [(k / 2, 1 if k % 2 else 0) for k in range(200)] + [(100, -1), (0, -1)]
    text = "".join(f"v {x} {y} 0\n" for x, y in comb) + "f " + " ".join(map(str, range(1, len(comb) + 1))) + "\n"
    with pytest.raises(TooLarge, match="triangulate it first"):
        load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("use", "uv"),
    [
        ("map_Kd -s 2 3 1 red.png", [[0, 1], [2, 1], [0, -2]]),
        ("map_Kd -o 0.5 0.25 red.png", [[0.5, 0.75], [1.5, 0.75], [0.5, -0.25]]),
        ("map_Kd -s 2 -o 1 red.png", [[1, 1], [3, 1], [1, 0]]),
        ("map_Kd -blendu on -mm 0 1 -bm 0.3 -s 1 1 red.png", [[0, 1], [1, 1], [0, 0]]),
        ("MAP_KD   red.png", [[0, 1], [1, 1], [0, 0]]),
    ],
)
def test_read_obj_applies_the_options_of_a_texture(tmp_path, use, uv):
    (mesh,) = load(textured(tmp_path, use))
    assert mesh.texture[0, 0].tolist() == [220, 0, 0, 255]
    order = [np.flatnonzero((mesh.vertices == place).all(1))[0] for place in ([0, 0, 0], [1, 0, 0], [0, 0, 1])]
    np.testing.assert_allclose(mesh.uv[order], uv)


def test_read_obj_clamps_a_texture_and_refuses_an_unknown_option(tmp_path):
    assert load(textured(tmp_path, "map_Kd -clamp on red.png"))[0].wrap == ("clamp", "clamp")
    with pytest.raises(ValueError, match="option -frob"):
        load(textured(tmp_path, "map_Kd -frob 3 red.png"))


@pytest.mark.parametrize(
    "name",
    [
        r"D:\Projects\chair\red.png",
        r"\\server\share\red.png",
        "/red.png",
        "/home/me/chair/red.png",
        "Red.PNG",
        "./red.png",
        "C:/Chair/RED.png",
    ],
)
def test_read_obj_finds_a_texture_beside_the_object_by_the_path_it_had_elsewhere(tmp_path, name):
    (mesh,) = load(textured(tmp_path, f"map_Kd {name}"))
    assert mesh.texture[0, 0].tolist() == [220, 0, 0, 255]


def test_read_obj_takes_the_longest_end_of_a_foreign_path(tmp_path):
    path = textured(tmp_path, "map_Kd C:/chair/Textures/red.png")
    (tmp_path / "textures").mkdir()
    Image.new("RGB", (2, 2), (0, 0, 99)).save(tmp_path / "textures" / "red.png")
    assert load(path)[0].texture[0, 0].tolist() == [0, 0, 99, 255]


@pytest.mark.parametrize("name", ["50% grey.png", "my  red.png", "größe.png", "a%20b.png"])
def test_read_obj_texture_may_have_any_name(tmp_path, name):
    assert load(textured(tmp_path, f"map_Kd {name}", name))[0].texture.shape == (2, 2, 4)


def test_read_obj_loses_nothing_by_a_byte_order_mark_or_continued_lines(tmp_path):
    path = tmp_path / "a.obj"
    path.write_bytes(b"\xef\xbb\xbf" + (TRIANGLE + "f 1 \\\n2 3\n").encode())
    assert len(load(path)[0].faces) == 1


@pytest.mark.slow
def test_read_obj_refuses_many_materials_for_few_faces(tmp_path):
    text = TRIANGLE + "".join(f"usemtl {k}\nf 1 2 3\n" for k in range(5000))
    with pytest.raises(TooLarge, match="5000 materials"):
        load(written(tmp_path, text))


PLY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize(
    "faces",
    [
        "element face 1\nproperty int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n0\n",
        "element face 1\nproperty list uchar int corners\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
        "element face 1\nproperty uchar red\nend_header\n0 0 0\n1 0 0\n0 1 0\n3\n",
        "element face 1\nend_header\n0 0 0\n1 0 0\n0 1 0\n\n",
    ],
)
def test_read_ply_without_corners_of_faces_is_refused_in_a_sentence(tmp_path, faces):
    with pytest.raises(ValueError, match=r"a\.ply cannot be read"):
        load(written(tmp_path, PLY + faces, "a.ply"))


def test_obj_objects_and_materials_are_named_after_the_asset_or_else_mesh(tmp_path):
    corners, faces = np.eye(3), np.array([[0, 1, 2]])
    save([Mesh(corners, faces, name="a-red-chair")] * 2 + [Mesh(corners, faces)], tmp_path / "a.obj")
    expected = ["a_red_chair", "a_red_chair_1", "mesh"]
    words = [line.split() for line in (tmp_path / "a.obj").read_text().splitlines()]
    assert [rest for word, *rest in words if word in ("o", "usemtl")] == [[name] for name in expected for _ in range(2)]
    library = (tmp_path / "a.mtl").read_text().splitlines()
    assert [line.split()[1] for line in library if line.startswith("newmtl")] == expected
