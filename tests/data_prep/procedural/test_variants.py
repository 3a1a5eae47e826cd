"""Variants: the object that their rows describe, the original's bytes, and what is made anew, refused or left out."""

import json
import struct

import no_pool
import numpy as np
import pytest
import trimesh
from gltf_by_hand import triangle

from data_prep.execution import process_pool
from data_prep.manifests import object_manifest
from data_prep.procedural import variants
from data_prep.rendering import sanitized_gltf
from data_prep.sources.__main__ import main as sources
from instant3d import mesh
from instant3d.mesh import Mesh

# A tetrahedron with no symmetry, in world axes, its corner at the origin.
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.0]])
FACES = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
NAMES = [f"thing{k}" for k in range(6)]


def write(folder, *rows):
    """Objects of different sizes with these rows in a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, row in enumerate(rows):
        Mesh(CORNERS * (1 + k), FACES).save(folder / f"{row['id']}.glb")
    lines = [json.dumps({"file": f"{row['id']}.glb", **row}) + "\n" for row in rows]
    (folder / "objects.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(autouse=True)
def at_once(request, monkeypatch):
    """No processes, but where a test is about them."""
    if "processes" not in request.node.name:
        monkeypatch.setattr(process_pool, "run", no_pool.run)


@pytest.fixture
def objects(tmp_path):
    credit = {"license": "CC-BY-3.0", "author": "Ann", "source": "shop", "split": "train"}
    return write(tmp_path / "objects", *({"id": name, "captions": [f"a {name}"], **credit} for name in NAMES))


def run(objects, out, *more, code=0):
    assert variants.main([str(objects), "-o", str(out), "--workers", "1", *map(str, more)]) == code
    manifest = out / "objects.jsonl"
    return {row["id"]: row for row in map(json.loads, manifest.read_text().splitlines())} if manifest.is_file() else {}


def chunks(path):
    """The JSON and the bytes of the binary chunk, by the format's own definition."""
    data = path.read_bytes()
    magic, version, total, length, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + length]), data[20 + length + 8 :]


def described(row, points):
    """World points after what a row says: mirrored along x, stretched, then turned from +x towards +y."""
    x, y, z = (points * row["stretched"] * (-1 if row["mirrored"] else 1, 1, 1)).T
    angle = np.radians(row["turned_deg"])
    return np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle), z], axis=1)


def corners_of(path):
    """World coordinates of a file's vertices as trimesh reads them, sorted."""
    scene = trimesh.load_scene(path)
    x, y, z = scene.to_geometry().vertices.T
    return sorted_rows(np.stack([x, -z, y], axis=1))


def sorted_rows(points):
    points = np.unique(np.round(points, 4) + 0.0, axis=0)
    return points[np.lexsort(points.T)]


def test_variant_is_mirrored_stretched_and_turned_as_its_row_says_to_another_program(objects, tmp_path):
    rows = run(objects, tmp_path / "out")
    assert len(rows) == 3 * len(NAMES)
    assert {row["mirrored"] for row in rows.values()} == {True, False}
    for row in rows.values():
        size = 1 + NAMES.index(row["variant_of"])
        expected = sorted_rows(described(row, CORNERS * size))
        np.testing.assert_allclose(corners_of(tmp_path / "out" / row["file"]), expected, atol=2e-4 * size)
        assert all(0.75 <= factor <= 1.3 for factor in row["stretched"])


def test_variant_that_is_mirrored_is_read_right_side_out(objects, tmp_path):
    for row in run(objects, tmp_path / "out").values():
        size = 1 + NAMES.index(row["variant_of"])
        (part,) = mesh.load(tmp_path / "out" / row["file"])
        a, b, c = np.moveaxis(part.vertices[part.faces], 1, 0)
        volume = np.einsum("fi,fi->", a, np.cross(b, c)) / 6  # below 0 for a solid that is inside out
        assert volume == pytest.approx(size**3 * np.prod(row["stretched"]), rel=1e-4)
        expected = sorted_rows(described(row, CORNERS * size))
        np.testing.assert_allclose(sorted_rows(part.vertices), expected, atol=2e-4 * size)


def test_variant_in_blender_is_the_same(objects, tmp_path):
    rows = run(objects, tmp_path / "out", "--count", 1)
    mirrored = next(row for row in rows.values() if row["mirrored"])
    sanitized_gltf.write(tmp_path / "out" / mirrored["file"], tmp_path / "plain.glb")
    expected = described(mirrored, CORNERS)
    expected -= (expected.min(0) + expected.max(0)) / 2
    expected /= np.linalg.norm(expected, axis=1).max()
    np.testing.assert_allclose(corners_of(tmp_path / "plain.glb"), sorted_rows(expected), atol=2e-4)


def test_variant_copies_the_binary_chunk_and_adds_only_a_node(objects, tmp_path):
    rows = run(objects, tmp_path / "out")
    for row in rows.values():
        old, old_bytes = chunks(objects / f"{row['variant_of']}.glb")
        new, new_bytes = chunks(tmp_path / "out" / row["file"])
        assert new_bytes == old_bytes
        assert new["nodes"][:-1] == old["nodes"]
        assert new["nodes"][-1]["children"] == old["scenes"][0]["nodes"]
        untouched = old.keys() - {"nodes", "scenes"}
        assert {key: new[key] for key in untouched} == {key: old[key] for key in untouched}


def test_variant_rows_keep_words_licence_author_and_split_and_reach_the_scene(objects, tmp_path):
    run(objects, tmp_path / "out", "--count", 2)
    item = next(item for item in object_manifest.find(tmp_path / "out") if item.id == "thing3-v2")
    assert item.caption == "a thing3"
    facts = {key: item.facts[key] for key in ("license", "author", "source", "split", "variant_of")}
    assert facts == {
        "license": "CC-BY-3.0",
        "author": "Ann",
        "source": "shop",
        "split": "train",
        "variant_of": "thing3",
    }
    assert {"turned_deg", "stretched", "mirrored"} <= item.facts.keys()
    joined = tmp_path / "joined" / "objects.jsonl"
    assert sources(["folder", str(tmp_path / "out"), "-o", str(joined)]) == 0
    assert next(other for other in object_manifest.find(joined) if other.id == "thing3-v2").facts == item.facts


def test_variants_depend_on_seed_and_id_alone(objects, tmp_path):
    one = run(objects, tmp_path / "one")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "objects.jsonl").write_text((objects / "objects.jsonl").read_text().splitlines()[4] + "\n")
    (objects / "thing4.glb").rename(tmp_path / "alone" / "thing4.glb")
    again = run(tmp_path / "alone", tmp_path / "two")
    assert again == {name: row for name, row in one.items() if row["variant_of"] == "thing4"}
    for name in again:
        assert (tmp_path / "two" / f"{name}.glb").read_bytes() == (tmp_path / "one" / f"{name}.glb").read_bytes()
    other = run(tmp_path / "alone", tmp_path / "three", "--seed", 1)
    assert all(other[name]["turned_deg"] != row["turned_deg"] for name, row in again.items())


def test_variants_of_a_second_call_are_only_what_is_missing_or_of_another_seed_or_original(objects, tmp_path, capsys):
    out = tmp_path / "out"
    first = run(objects, out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.glb")}
    (out / "thing1-v2.glb").unlink()
    assert run(objects, out) == first
    assert "18 variants of 6 objects, 1 of them new" in capsys.readouterr().out
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"thing1-v2.glb"}
    Mesh(CORNERS * 9, FACES).save(objects / "thing2.glb")
    run(objects, out)
    assert "3 of them new" in capsys.readouterr().out
    run(objects, out, "--seed", 5)
    assert "18 of them new" in capsys.readouterr().out


def test_variants_never_mirror_objects_with_a_left_side_or_writing_nor_any_with_no_mirror(tmp_path):
    names = {"a": "a left shoe", "b": "a wall clock", "c": "a bookcase"}
    objects = write(tmp_path / "objects", *({"id": key, "captions": [name]} for key, name in names.items()))
    rows = run(objects, tmp_path / "out", "--count", 12).values()
    assert {row["variant_of"] for row in rows if row["mirrored"]} == {"c"}
    free = run(objects, tmp_path / "none", "--count", 12, "--no-mirror").values()
    assert not any(row["mirrored"] for row in free)
    assert [row["turned_deg"] for row in free] == [row["turned_deg"] for row in rows]


def test_variant_turns_and_keeps_only_the_default_scene(tmp_path):
    document = triangle()
    document.json["nodes"] = [{"mesh": 0}, {"children": [0], "translation": [1, 0, 0]}, {"mesh": 0}]
    scenes = [{"nodes": [2]}, {"nodes": [1], "name": "shown"}]
    (tmp_path / "objects").mkdir()
    document.save(tmp_path / "objects" / "two.glb", scenes=scenes, scene=1)
    (row, *_) = run(tmp_path / "objects", tmp_path / "out").values()
    content, _ = chunks(tmp_path / "out" / row["file"])
    assert content["scenes"] == [{"nodes": [3], "name": "shown"}]
    shown = np.array([[1, 0, 0], [2, 0, 0], [1, -3, 2.0]])  # the triangle one unit along x, in world axes
    np.testing.assert_allclose(
        corners_of(tmp_path / "out" / row["file"]), sorted_rows(described(row, shown)), atol=2e-4
    )


def test_variants_of_other_formats_have_their_images_inside(tmp_path):
    texture = np.full((4, 4, 4), 255, np.uint8)
    texture[..., :3] = (200, 30, 30)
    uv = np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]])
    (tmp_path / "objects").mkdir()
    Mesh(CORNERS, FACES, uv=uv, texture=texture).save(tmp_path / "objects" / "red.obj")
    rows = run(tmp_path / "objects", tmp_path / "out", "--count", 1)
    (part,) = mesh.load(tmp_path / "out" / rows["red-v1"]["file"])
    assert part.texture[0, 0].tolist() == [200, 30, 30, 255]
    expected = described(rows["red-v1"], CORNERS)
    sides, wanted = (points.max(0) - points.min(0) for points in (part.vertices, expected))
    np.testing.assert_allclose(sides / sides.max(), wanted / wanted.max(), atol=1e-4)


def test_variants_report_a_broken_object_and_make_the_others(objects, tmp_path, capsys):
    (objects / "thing0.glb").write_bytes(b"glTF but not really, and long enough to look at")
    content = json.dumps({"asset": {"version": "2.0"}, "scenes": [{"nodes": [7]}], "nodes": [{}]}).encode()
    (objects / "thing1.glb").write_bytes(content)
    (objects / "thing2.glb").write_bytes(json.dumps({"asset": {}, "scenes": 3, "buffers": [4]}).encode())
    rows = run(objects, tmp_path / "out", code=1)
    assert {row["variant_of"] for row in rows.values()} == set(NAMES[3:])
    failures = [json.loads(line) for line in (tmp_path / "out" / "objects.failures.jsonl").read_text().splitlines()]
    assert [(row["id"], row["kind"]) for row in failures] == [(name, "broken") for name in NAMES[:3]]
    assert "3 objects failed" in capsys.readouterr().out


@pytest.mark.slow
def test_variants_of_several_processes_have_the_same_manifest_as_those_of_none(objects, tmp_path, monkeypatch):
    several = run(objects, tmp_path / "several", "--workers", 2)
    monkeypatch.setattr(process_pool, "run", no_pool.run)
    assert run(objects, tmp_path / "none") == several
    assert (tmp_path / "none" / "objects.jsonl").read_bytes() == (tmp_path / "several" / "objects.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("out", "more", "because"),
    [
        ("objects", (), "name another folder for their variants"),
        ("out", ("--split", "dev"), "names no objects of split 'dev'"),
        ("out", ("--count", "0"), "--count >= 1"),
        ("out", ("nowhere",), "no folder or manifest nowhere"),
        ("taken", (), "lists objects that are no variants"),
    ],
)
def test_variants_of_bad_input_are_one_sentence_and_touch_nothing(objects, tmp_path, capsys, out, more, because):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "objects.jsonl").write_text('{"id": "a", "file": "a.glb"}\n')
    before = (objects / "objects.jsonl").read_bytes()
    assert variants.main([str(objects), *more, "-o", str(tmp_path / out)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert because in error[-1]
    assert (objects / "objects.jsonl").read_bytes() == before
    assert not list((tmp_path / out).glob("*-v1.glb"))
