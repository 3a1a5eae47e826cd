"""Objects of several sources in one manifest: what a row says, what joins, what is refused, what a second call does."""

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from data_prep.manifests import object_manifest
from data_prep.manifests.licences import allowed, spdx
from data_prep.procedural import generate
from data_prep.sources.__main__ import main
from instant3d import mesh
from instant3d.mesh import Mesh

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
FACES = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]


def write(path, size=1.0, **look):
    path.parent.mkdir(parents=True, exist_ok=True)
    Mesh(CORNERS * size, FACES, **look).save(path)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def left_out(path):
    return {row["id"]: row["kind"] for row in rows(path.with_name("objects.failures.jsonl"))}


def lines(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "objects.jsonl"


def test_manifest_row_has_file_source_and_size_of_an_object(tmp_path, out):
    write(tmp_path / "models" / "red things" / "cup.glb")
    assert main(["folder", str(tmp_path / "models"), "--licence", "cc0", "-o", str(out)]) == 0
    content = (tmp_path / "models" / "red things" / "cup.glb").read_bytes()
    (row,) = rows(out)
    file = out.parent / row.pop("file")
    assert file.read_bytes() == content
    assert row == {
        "id": "red_things__cup",
        "source": "folder",
        "license": "CC0-1.0",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }


def test_sources_pass_the_up_axis_of_a_folder_to_the_renderer_by_the_manifest(tmp_path, out):
    write(tmp_path / "models" / "cup.glb")
    assert main(["folder", str(tmp_path / "models"), "--up", "z", "-o", str(out)]) == 0
    assert [item.up for item in object_manifest.find(out)] == ["z"]
    (tmp_path / "bad.jsonl").write_text(lines({"id": "a", "file": "models/cup.glb", "up": "x"}))
    with pytest.raises(ValueError, match="has 'x' as `up`; expected y or z"):
        object_manifest.find(tmp_path / "bad.jsonl")


def test_folder_manifest_keeps_its_words_splits_licences_and_order_does_not_matter(tmp_path, out):
    folder = tmp_path / "models"
    entries = [
        {"id": "b", "file": "b.glb", "name": "a cup", "split": "dev", "license": "MIT License", "source": "shop"},
        {"id": "a", "file": "x/a.ply", "captions": ["a pot", "a vessel"], "colors": [["red", 1.0]], "faces": 4},
    ]
    write(folder / "b.glb")
    write(folder / "x" / "a.ply", 2)
    (folder / "manifest.jsonl").write_text(lines(*entries))
    assert main(["folder", str(folder), "--licence", "CC-BY-4.0", "-o", str(out)]) == 0
    pot, cup = object_manifest.find(out)
    assert (pot.id, pot.caption, cup.id, cup.caption) == ("a", "a pot", "b", "a cup")
    assert pot.facts == {"source": "folder", "license": "CC-BY-4.0", "colors": [["red", 1.0]]}
    assert cup.facts == {"name": "a cup", "source": "shop", "license": "MIT", "split": "dev"}
    assert rows(out)[0]["captions"] == ["a pot", "a vessel"]
    assert [item.id for item in object_manifest.find(out, split="dev", licenses=["MIT License"])] == ["b"]

    (folder / "manifest.jsonl").write_text(lines(*reversed(entries)))
    other = tmp_path / "other" / "objects.jsonl"
    assert main(["folder", str(folder), "--licence", "CC-BY-4.0", "-o", str(other)]) == 0
    assert other.read_bytes() == out.read_bytes()


def test_sources_join_in_one_manifest_and_a_second_call_changes_nothing(tmp_path, out, capsys):
    write(tmp_path / "one" / "a.glb")
    write(tmp_path / "two" / "b.ply", 2)
    (tmp_path / "two" / "b.ply").rename(tmp_path / "two" / "c.ply")
    commands = [
        ["folder", str(tmp_path / "one"), str(tmp_path / "two"), "-o", str(out)],
        ["procedural", "--count", "2", "--first-seed", "19", "--workers", "1", "-o", str(out)],
    ]
    assert [main(command) for command in commands] == [0, 0]
    assert [row["id"] for row in rows(out)] == ["a", "c", "procedural_000019", "procedural_000020"]
    assert [item.facts.get("split") for item in object_manifest.find(out.parent)] == [None, None, "dev", "train"]
    before, made = out.read_bytes(), (out.parent / "procedural" / "procedural_000019.glb").stat().st_mtime_ns
    capsys.readouterr()
    assert [main(command) for command in commands] == [0, 0]
    assert capsys.readouterr().out == f"{out}: 0 new; 2 there already\n" * 2
    assert out.read_bytes() == before
    assert (out.parent / "procedural" / "procedural_000019.glb").stat().st_mtime_ns == made


def test_procedural_objects_are_those_of_their_seeds_whoever_makes_them(tmp_path, out):
    assert main(["procedural", "--count", "1", "--first-seed", "7", "--workers", "1", "-o", str(out)]) == 0
    known = generate.write_object(7, tmp_path)
    (item,) = object_manifest.find(out)
    assert item.path.read_bytes() == (tmp_path / "procedural_000007.glb").read_bytes()
    assert (item.caption, item.facts["license"]) == (known["name"], "CC0-1.0")


def test_sources_take_duplicates_by_content_as_one_object_and_report_the_other(tmp_path, out, capsys):
    write(tmp_path / "models" / "a.glb")
    write(tmp_path / "models" / "b.glb")
    assert main(["folder", str(tmp_path / "models"), "-o", str(out)]) == 0
    assert [row["id"] for row in rows(out)] == ["a"]
    (row,) = rows(out.with_name("objects.failures.jsonl"))
    assert (row["id"], row["kind"], row["reason"]) == ("b", "duplicate", "the same content as a")
    assert "1 left out as duplicates" in capsys.readouterr().out


def test_sources_take_equal_obj_files_with_other_images_as_two_objects(tmp_path, out):
    for name, shade in (("red", 200), ("grey", 90), ("again", 90)):
        texture = np.full((4, 4, 4), shade, dtype=np.uint8)
        uv = np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]])
        write(tmp_path / "models" / name / "thing.obj", uv=uv, texture=texture)
    assert main(["folder", str(tmp_path / "models"), "-o", str(out)]) == 0
    assert {row["id"] for row in rows(out)} == {"again__thing", "red__thing"}
    for item in object_manifest.find(out):
        assert item.path.is_relative_to(out.parent)
        (part,) = mesh.load(item.path)
        assert part.texture[0, 0, 0] == (200 if item.id.startswith("red") else 90)


def test_sources_refuse_ids_that_are_repeated_and_a_prefix_distinguishes_them(tmp_path, out, capsys):
    write(tmp_path / "one" / "a.glb")
    write(tmp_path / "two" / "a.glb", 2)
    assert main(["folder", str(tmp_path / "one"), "-o", str(out)]) == 0
    before = out.read_bytes()
    assert main(["folder", str(tmp_path / "two"), "-o", str(out)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the same id 'a'" in error
    assert out.read_bytes() == before
    assert main(["folder", str(tmp_path / "two"), "--prefix", "two_", "-o", str(out)]) == 0
    assert [row["id"] for row in rows(out)] == ["a", "two_a"]


def test_manifest_updates_a_file_that_changed_and_reports_one_that_is_gone(tmp_path, out):
    folder = tmp_path / "models"
    write(folder / "a.glb")
    write(folder / "b.glb", 3)
    (folder / "manifest.jsonl").write_text(lines({"id": "a", "file": "a.glb"}, {"id": "b", "file": "b.glb"}))
    assert main(["folder", str(folder), "-o", str(out)]) == 0
    first = rows(out)
    write(folder / "a.glb", 2)
    (folder / "b.glb").unlink()
    assert main(["folder", str(folder), "-o", str(out)]) == 1
    (row,) = rows(out)
    assert row["sha256"] != first[0]["sha256"]
    assert hashlib.sha256((out.parent / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    assert left_out(out) == {"b": "missing"}


def test_manifest_leaves_out_a_file_with_another_hash(tmp_path, out):
    write(tmp_path / "models" / "a.glb")
    (tmp_path / "models" / "manifest.jsonl").write_text(lines({"id": "a", "file": "a.glb", "sha256": "0" * 64}))
    assert main(["folder", str(tmp_path / "models"), "-o", str(out)]) == 1
    assert left_out(out) == {"a": "changed"}


def test_sources_take_only_allowed_licences_and_count_others(tmp_path, out, capsys):
    names = ["MIT", "CC-BY-NC-4.0", None]
    for k in range(3):
        write(tmp_path / "models" / f"{k}.glb", k + 1)
    entries = [{"id": f"m{k}", "file": f"{k}.glb", "license": name} for k, name in enumerate(names)]
    (tmp_path / "models" / "manifest.jsonl").write_text(lines(*entries))
    assert main(["folder", str(tmp_path / "models"), "--licences", "redistributable", "-o", str(out)]) == 0
    assert [row["id"] for row in rows(out)] == ["m0"]
    assert "not taken: 1 under CC-BY-NC-4.0, 1 under no known licence" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "identifier", "is_redistributable"),
    [
        ("by", "CC-BY-4.0", True),
        ("by-nc-sa", "CC-BY-NC-SA-4.0", False),
        ("CC-BY-SA-3.0", "CC-BY-SA-3.0", True),
        ("cc0", "CC0-1.0", True),
        ("Creative Commons - Attribution - No Derivatives", "CC-BY-ND-4.0", False),
        ("Creative Commons Attribution Share Alike 4.0 International", "CC-BY-SA-4.0", True),
        ("Creative Commons Zero v1.0 Universal", "CC0-1.0", True),
        ("https://creativecommons.org/licenses/by-nc/3.0/legalcode", "CC-BY-NC-3.0", False),
        ("MIT License", "MIT", True),
        ('BSD 3-Clause "New" or "Revised" License', "BSD-3-Clause", True),
        ("GNU General Public License v3.0", "GNU General Public License v3.0", False),
        ("CC-BY-NC-4.0, its picture CC0", "CC-BY-NC-4.0, its picture CC0", False),
        ("MIT, but not for sale", "MIT, but not for sale", False),
        ("  ", None, False),
        (None, None, False),
    ],
)
def test_licences_by_any_name(name, identifier, is_redistributable):
    assert spdx(name) == identifier
    assert spdx(identifier) == identifier
    assert allowed("redistributable")(identifier) == is_redistributable
    assert allowed("all")(identifier)


@pytest.mark.parametrize(
    ("line", "because"),
    [
        ({"id": "a", "file": "../a.glb"}, "lies outside"),
        ({"id": "a", "file": "/etc/hostname"}, "lies outside"),
        ({"id": "a", "file": "a\0.glb"}, "lies outside"),
        ({"id": "a", "file": "link.glb"}, "lies outside"),
        ({"id": "a", "file": "folder/link.glb"}, "lies outside"),
        ({"id": "a", "file": 3}, "lies outside"),
        ({"id": "../a", "file": "a.glb"}, "make an id"),
        ({"id": "a/b", "file": "a.glb"}, "make an id"),
        ({"id": 7, "file": "a.glb"}, "make an id"),
        ({"id": "a", "file": "a.glb", "captions": "cup"}, "a list as `captions`"),
        ({"id": "a", "file": "a.glb", "license": {"MIT": 1}}, "words as `license`"),
        ({"id": "a", "name": "a"}, "`id` and `file`"),
    ],
)
def test_manifest_refuses_to_read_or_write_an_unsafe_or_senseless_row(tmp_path, out, capsys, line, because):
    folder = tmp_path / "models"
    write(tmp_path / "secret.glb")
    write(folder / "a.glb")
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "link.glb")
    (folder / "link.glb").symlink_to(tmp_path / "secret.glb")
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    (folder / "manifest.jsonl").write_text(lines(line))
    with pytest.raises(ValueError, match=because):
        object_manifest.find(folder)
    assert main(["folder", str(folder), "-o", str(out)]) == 2
    error = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    assert len(error) == 1
    assert because in error[0]
    assert not out.exists()


def test_folder_link_that_leads_out_is_left_out(tmp_path, out):
    write(tmp_path / "secret.glb", 2)
    write(tmp_path / "models" / "a.glb")
    (tmp_path / "models" / "link.glb").symlink_to(tmp_path / "secret.glb")
    assert main(["folder", str(tmp_path / "models"), "-o", str(out)]) == 1
    assert [row["id"] for row in rows(out)] == ["a"]
    assert left_out(out) == {"link": "unsafe"}


def test_sources_copy_images_beside_an_obj_file_but_not_through_links_out_of_its_folder(tmp_path, out):
    folder = tmp_path / "models"
    write(folder / "a.obj")
    Image.new("RGB", (2, 2)).save(tmp_path / "private.png")
    Image.new("RGB", (2, 2)).save(folder / "public.png")
    (folder / "private.png").symlink_to(tmp_path / "private.png")
    assert main(["folder", str(folder), "-o", str(out)]) == 0
    brought = {path.name for path in out.parent.rglob("*.png")}
    assert brought == {"public.png"}


def test_sources_copy_a_file_on_another_disk_and_keep_its_copy(tmp_path, out, monkeypatch):
    def no_link(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    write(tmp_path / "models" / "a.glb")
    command = ["folder", str(tmp_path / "models"), "-o", str(out)]
    assert main(command) == 0
    (item,) = object_manifest.find(out)
    assert item.path.read_bytes() == (tmp_path / "models" / "a.glb").read_bytes()
    inode = item.path.stat().st_ino
    assert inode != (tmp_path / "models" / "a.glb").stat().st_ino
    assert main(command) == 0
    assert item.path.stat().st_ino == inode


def test_manifest_in_the_folder_itself_names_files_where_they_are(tmp_path):
    out = tmp_path / "models" / "objects.jsonl"
    write(tmp_path / "models" / "x" / "a.glb")
    assert main(["procedural", "--count", "1", "--workers", "1", "-o", str(out)]) == 0
    assert main(["folder", str(tmp_path / "models"), "-o", str(out)]) == 0
    assert [(row["id"], row["file"]) for row in rows(out)] == [
        ("procedural_000000", "procedural/procedural_000000.glb"),
        ("x__a", "x/a.glb"),
    ]
    assert not (tmp_path / "models" / "objects").exists()


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (["folder", "nowhere"], "no folder or manifest nowhere"),
        (["folder", "{}"], "holds no objects"),
        (["procedural", "--count", "0"], "--count >= 1"),
    ],
)
def test_sources_answer_bad_input_by_one_sentence(tmp_path, capsys, arguments, because):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "objects.jsonl"
    assert main([part.format(tmp_path / "empty") for part in arguments] + ["-o", str(out)]) == 2
    assert because in capsys.readouterr().err
    assert not out.exists()


def test_manifest_that_repeats_an_id_is_refused(tmp_path, out, capsys):
    out.parent.mkdir()
    out.write_text(lines({"id": "a", "file": "a.glb"}, {"id": "a", "file": "b.glb"}))
    assert main(["procedural", "--count", "1", "-o", str(out)]) == 2
    assert "line 2 repeats the id 'a'" in capsys.readouterr().err
