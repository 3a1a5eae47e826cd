"""Furniture libraries: how things stand and how large they are, whose they are, and what a stranger's zip may not."""

import io
import json
import tempfile
import tracemalloc
import zipfile

import no_pool
import numpy as np
import pytest
import trimesh
from PIL import Image

from data_prep.execution import process_pool
from data_prep.manifests import object_manifest
from data_prep.sources import furniture
from data_prep.sources.__main__ import main
from data_prep.sources.furniture import caption, properties
from instant3d import mesh

CC0 = "This file is under\nhttp://creativecommons.org/choose/zero/\n"
BY = "These files are under\n\thttp://creativecommons.org/licenses/by/3.0/us/ .\n"
# In a file's axes (+y up): a tetrahedron that is 1 wide, 2 high and 4 deep, its longest edge along +z.
WEDGE = "v 0 0 0\nv 1 0 0\nv 0 2 0\nv 0 0 4\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
SIZE = {"width": 50, "depth": 200}  # centimetres: with a height of 100 half of it, in the same proportions


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No processes, which take seconds to start."""
    monkeypatch.setattr(process_pool, "run", no_pool.run)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "objects.jsonl"


def library(path, *pieces, files=None, head="license=Public domain\n", licence=CC0, encoding="latin-1"):
    """A library of these pieces (their keys without numbers); models that no file is given for are wedges."""
    text = f"# made by hand\nid=Test\n{head}"
    contents = {"LICENSE.TXT": licence}
    for number, piece in enumerate(pieces, start=1):
        piece = {"model": f"/m/{number}/m.obj", "name": f"Thing {number}", **SIZE, "height": 100 * number, **piece}
        text += "".join(f"{key}#{number}={value}\n" for key, value in piece.items())
        contents[piece["model"].lstrip("/")] = WEDGE
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("PluginFurnitureCatalog.properties", text.encode(encoding))
        for name, data in {**contents, **(files or {})}.items():
            if data is not None:
                file.writestr(name, data)
    return path


def add(path, out, *more, code=0):
    assert main(["sweethome3d", str(path), "--workers", "1", "-o", str(out), *more]) == code
    return {row["name"]: row for row in map(json.loads, out.read_text().splitlines())} if out.is_file() else {}


def failures(out):
    rows = map(json.loads, out.with_name("objects.failures.jsonl").read_text().splitlines())
    return {row["id"]: (row["kind"], row["reason"]) for row in rows}


def png(*pixels):
    stream = io.BytesIO()
    Image.fromarray(np.array([pixels], np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def corners(path):
    """As trimesh reads the file, in its own axes (+y up)."""
    points = np.unique(np.round(trimesh.load_scene(path).to_geometry().vertices, 5) + 0.0, axis=0)
    return points[np.lexsort(points.T)].tolist()


def test_manifest_row_has_name_author_and_source_of_a_piece(tmp_path, out):
    piece = {"id": "Test#wedge1", "name": "Door wedge", "category": "Office", "creator": "Ann & Bob", "tags": "Wood"}
    (row,) = add(library(tmp_path / "Own.sh3f", piece), out).values()
    content = (out.parent / row["file"]).read_bytes()
    fields = {key: value for key, value in row.items() if key not in ("sha256", "bytes")}
    assert fields == {
        "id": "Test__wedge1",
        "file": "sweethome3d/Own/Test__wedge1.glb",
        "uid": "Test#wedge1",
        "source": "sweethome3d/Own",
        "license": "CC0-1.0",
        "captions": ["door wedge"],
        "name": "Door wedge",
        "author": "Ann & Bob",
        "category": "Office",
    }
    assert (row["bytes"], content[:4]) == (len(content), b"glTF")
    (item,) = object_manifest.find(out)
    assert item.caption == "door wedge"


def test_sweethome3d_piece_has_its_size_in_metres_and_the_librarys_axes(tmp_path, out):
    (row,) = add(library(tmp_path / "a.sh3f", {}), out).values()
    assert corners(out.parent / row["file"]) == [[0, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, 0, 2]]


def test_sweethome3d_piece_is_turned_before_it_is_sized(tmp_path, out):
    turn = "1 0 0 0 0 1 0 -1 0"  # by rows: what was z becomes y, what was y becomes -z
    piece = {"modelRotation": turn, "width": 100, "depth": 100, "height": 800}
    (row,) = add(library(tmp_path / "a.sh3f", piece), out).values()
    assert corners(out.parent / row["file"]) == [[0, 0, -1], [0, 0, 0], [1, 0, 0], [0, 8, 0]]


def test_sweethome3d_normals_stay_at_right_angles_to_a_stretched_face(tmp_path, out):
    slope = "v 0 0 0\nv 1 1 0\nv 0 0 -1\nvn -0.70710678 0.70710678 0\nf 1//1 2//1 3//1\n"
    piece = {"width": 300, "height": 100, "depth": 100}  # a slope of 45 degrees becomes one of 1 in 3
    (row,) = add(library(tmp_path / "a.sh3f", piece, files={"m/1/m.obj": slope}), out).values()
    (part,) = mesh.load(out.parent / row["file"])
    np.testing.assert_allclose(part.normals, [np.array([-1, 0, 3]) / np.sqrt(10)] * 3, atol=1e-6)  # in world axes


def test_sweethome3d_licences_come_from_the_notice_beside_a_model_or_from_the_library(tmp_path, out):
    html = (
        '<h1><a href="http://www.blendswap.com/blends/view/89509">Blend #89509</a></h1><h3>Released under '
        '<a href="https://creativecommons.org/licenses/by/3.0/">Creative Commons Attribution 3.0</a></h3>'
    )
    text = "Released under\nCreative Commons Zero (Public Domain)\nDownloaded from http://www.blendswap.com/blends/view/7\n"
    notices = {"m/2/89509 - LICENSE.html": html, "m/3/BLENDSWAP_LICENSE.txt": text}
    rows = add(library(tmp_path / "a.sh3f", {}, {}, {}, files=notices, licence=BY), out)
    assert {name: (row["license"], row.get("url")) for name, row in rows.items()} == {
        "Thing 1": ("CC-BY-3.0-US", None),
        "Thing 2": ("CC-BY-3.0", "http://www.blendswap.com/blends/view/89509"),
        "Thing 3": ("CC0-1.0", "http://www.blendswap.com/blends/view/7"),
    }


def test_sweethome3d_author_in_the_librarys_licence_precedes_the_pieces_creator(tmp_path, out):
    head = "license=Creative Commons Attribution 3.0 Unported license  Copyright \xa9 2003-2008 Zo\xeb & Co\n"
    (row,) = add(library(tmp_path / "a.sh3f", {"creator": "Z"}, head=head, licence=None), out).values()
    assert (row["author"], row["license"]) == ("Zo\xeb & Co", "CC-BY-3.0")


def test_sweethome3d_takes_only_what_may_be_passed_on_unless_an_option_allows_more(tmp_path, out, capsys):
    path = library(tmp_path / "a.sh3f", {}, head="license=All rights reserved\n", licence="See the author.")
    assert add(path, out) == {}
    assert "1 under All rights reserved" in capsys.readouterr().out
    assert add(path, out, "--licences", "all")["Thing 1"]["license"] == "All rights reserved"


def test_sweethome3d_images_are_inside_and_holes_in_them_are_holes(tmp_path, out):
    leaf = "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 2 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl leaf\nf 1/1 2/2 3/3\n"
    files = {
        "m/1/m.obj": leaf,
        "m/1/m.mtl": "newmtl leaf\nKd 1 1 1\nmap_Kd img/leaf.png\n",
        "m/1/img/leaf.png": png((10, 200, 30, 255), (0, 0, 0, 0)),
    }
    (row,) = add(library(tmp_path / "a.sh3f", {}, files=files), out).values()
    (part,) = mesh.load(out.parent / row["file"])
    assert part.texture[0].tolist() == [[10, 200, 30, 255], [0, 0, 0, 0]]
    assert part.alpha_cutoff == 0.5


def test_sweethome3d_piece_with_a_missing_texture_file_loses_the_texture_alone(tmp_path, out):
    files = {
        "m/1/m.obj": "mtllib m.mtl\nusemtl red\n" + WEDGE,
        "m/1/m.mtl": "newmtl red\nKd 1 0 0\nmap_Kd C:/Documents and Settings/me/wood.jpg\nmap_Bump /etc/hostname\n",
        "m/2/m.obj": "mtllib gone.mtl\nusemtl red\n" + WEDGE,
    }
    rows = add(library(tmp_path / "a.sh3f", {}, {}, files=files), out)
    (part,) = mesh.load(out.parent / rows["Thing 1"]["file"])
    assert part.base_color == (1, 0, 0, 1)
    assert len(rows) == 2


def test_models_that_cannot_be_converted_are_left_out_and_reported(tmp_path, out, monkeypatch):
    monkeypatch.setattr(furniture, "MAX_MODEL_BYTES", 10_000)
    files = {
        "m/2/m.obj": "v 1 2\n",
        "m/3/m.obj": WEDGE + "#" * 20_000,  # which a zip holds in a few bytes
        "m/6/m.obj": None,
    }
    pieces = [{"id": f"t#{k}"} for k in range(9)]
    pieces[3] |= {"model": "/m/4/m.dae"}
    pieces[6] |= {"width": "0"}
    pieces[7] |= {"modelRotation": "1 0 0 0 1 0 0 0 nan"}
    pieces[8] |= {"modelRotation": "-1 0 0 0 1 0 0 0 1"}
    rows = add(library(tmp_path / "a.sh3f", *pieces, files=files), out, code=1)
    assert list(rows) == ["Thing 1", "Thing 5"]
    failed = failures(out)
    assert {name: kind for name, (kind, _) in failed.items()} == {
        "t__1": "broken",
        "t__2": "too_large",
        "t__3": "broken",
        "t__5": "broken",
        "t__6": "broken",
        "t__7": "broken",
        "t__8": "broken",
    }
    assert failed["t__3"][1].startswith("m/4/m.dae is not a mesh that can be read")
    assert "bytes; at most 10000 are taken" in failed["t__2"][1]
    assert "is no rotation" in failed["t__8"][1]


def test_sweethome3d_writes_and_reads_nothing_outside_of_a_models_folder(tmp_path, out, monkeypatch):
    scratch = tmp_path / "scratch" / "deep"
    scratch.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    Image.new("RGB", (2, 2), "blue").save(tmp_path / "secret.png")
    material = f"newmtl a\nKd 1 0 0\nmap_Kd {tmp_path}/secret.png\n"
    files = {
        "m/1/m.obj": "mtllib m.mtl ../../evil.mtl\nmtllib ../../evil.mtl\nmtllib m.mtl\nusemtl a\n" + WEDGE,
        "m/1/m.mtl": material + "newmtl b\nmap_Kd ../../../evil.png\nmap_Kd ../other.png\n",
        "m/1/../../evil.mtl": material,
        "evil.mtl": material,
        "m/other.png": png((0, 0, 0, 255)),
        "../evil.png": png((0, 0, 0, 255)),
        "top.obj": "mtllib ../evil.mtl\nusemtl a\n" + WEDGE,
        "../evil.mtl": material,
    }
    pieces = [{}, {"model": "/m/../../evil.obj"}, {"model": "/../evil.obj"}, {"model": "top.obj"}]
    rows = add(library(tmp_path / "a.sh3f", *pieces, files=files), out)
    (part, *_) = mesh.load(out.parent / rows["Thing 1"]["file"])
    assert (part.texture, part.base_color) == (None, (1, 0, 0, 1))
    assert {path.name for path in tmp_path.rglob("*")} >= {"secret.png", "a.sh3f"}
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(scratch.iterdir())


@pytest.mark.slow
def test_sweethome3d_unpacks_a_zip_entry_with_a_false_size_no_further_than_it(tmp_path, out):
    path = library(tmp_path / "a.sh3f", {}, {}, files={"m/2/LICENSE.txt": b"x" * 50_000_000})
    size, lie = (50_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert path.read_bytes().count(size) == 2  # before the member and in the list at the end
    path.write_bytes(path.read_bytes().replace(size, lie))
    tracemalloc.start()
    add(path, out, code=2)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_sweethome3d_converts_nothing_in_a_second_call_and_equal_models_are_one(tmp_path, out, capsys):
    path = library(tmp_path / "a.sh3f", {}, {"height": 100}, {})
    assert [row["name"] for row in add(path, out).values()] == ["Thing 1", "Thing 3"]
    assert "2 new; 1 left out as duplicates" in capsys.readouterr().out
    before = {file: file.stat().st_mtime_ns for file in out.parent.rglob("*.glb")}
    content = out.read_bytes()
    add(path, out)
    assert "0 new; 2 there already; 1 left out as duplicates" in capsys.readouterr().out
    assert out.read_bytes() == content
    assert all(file.stat().st_mtime_ns == time for file, time in before.items() if "a__1" in file.name)


def test_folders_of_libraries_and_several_libraries_join(tmp_path, out):
    library(tmp_path / "one.sh3f", {"name": "Left"})
    library(tmp_path / "two.sh3f", {"name": "Right", "height": 70})
    rows = add(tmp_path, out)
    assert {name: row["id"] for name, row in rows.items()} == {"Left": "one__1", "Right": "two__1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name#1=Caf\\u00e9", {"name#1": "Caf\xe9"}),
        ("a = b\\\n   c\nd:e", {"a": "bc", "d": "e"}),
        ("! no\n  # no\nk\\=1 v=2", {"k=1": "v=2"}),
        ("price=10\\u20AC\\tnet", {"price": "10\u20ac\tnet"}),
        ("path=C:\\\\x\nempty=\nlone", {"path": "C:\\x", "empty": "", "lone": ""}),
        ("smile=\\ud83d\\ude00\r\nnext=1", {"smile": "\U0001f600", "next": "1"}),
    ],
)
def test_properties_are_read_as_java_reads_them(text, expected):
    assert properties(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Grand piano", "grand piano"),
        ("TV stand", "TV stand"),
        ("Apple iMac 1998", "apple iMac 1998"),
        ("Wall RJ45 plug", "wall RJ45 plug"),
        ("Concept Sedan 02 Sport", "concept sedan sport"),
        ("Chair 12", "chair"),
        ("Double-hung  window", "double-hung window"),
        ("Wall type A plug", "wall type A plug"),
    ],
)
def test_caption_of_a_name_begins_in_lower_case_but_for_acronyms(name, expected):
    assert caption(name) == expected


def not_a_zip(path):
    path.write_bytes(b"PK but no more")


def no_catalogue(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "nothing")


@pytest.mark.parametrize(
    ("make", "because"),
    [
        (not_a_zip, "is no .sh3f library"),
        (no_catalogue, "PluginFurnitureCatalog.properties"),
        (None, "is no furniture"),
    ],
)
def test_library_that_is_invalid_is_one_sentence(tmp_path, out, capsys, make, because):
    if make is not None:
        make(tmp_path / "a.sh3f")
    assert add(tmp_path / "a.sh3f", out, code=2) == {}
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert because in error
