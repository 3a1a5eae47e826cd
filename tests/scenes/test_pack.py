"""Packed scenes: every byte comes back, the tars are what the readers of shards expect, and damage is named."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from balls import ball_views

from instant3d import scenes
from instant3d.cli.main import main
from instant3d.scenes import shards
from instant3d.scenes.pack import pack
from instant3d.scenes.unpack import unpack

NAMES = ("a", "b", "d.e", "deep/er/c", "f g")


def some_scenes(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """One ball each, and files beside the images that no document names."""
    for k, name in enumerate(names):
        scenes.write(folder / name, ball_views([0.9, 0.1 * k, 0.2], size=8), caption=f"a ball called {name}")
        (folder / name / "notes").mkdir()
        (folder / name / "notes" / "licence.v1.txt").write_text(f"of {name}\n")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def test_pack_and_unpack_give_back_scenes_byte_for_byte(tmp_path):
    given = some_scenes(tmp_path / "scenes")
    result = pack([given], tmp_path / "shards", per_shard=2)
    assert [shard.scenes for shard in result.shards] == [2, 2, 1]
    assert unpack(tmp_path / "shards", tmp_path / "back").damage == []
    assert content(tmp_path / "back") == content(given)


def test_unpack_restores_every_shard_alone(tmp_path):
    given = some_scenes(tmp_path / "scenes")
    pack([given], tmp_path / "shards", per_shard=1)
    (tmp_path / "shards" / "00002.tar").rename(tmp_path / "lonely.tar")
    assert unpack(tmp_path / "lonely.tar", tmp_path / "back").new == 1
    assert content(tmp_path / "back" / NAMES[2]) == content(given / NAMES[2])


def test_pack_writes_shards_that_shards_read_reads(tmp_path):
    given = some_scenes(tmp_path / "scenes")
    pack([given], tmp_path / "shards", per_shard=3)
    order = sorted(NAMES)
    for name, read, indexed in zip(
        order, shards.read(tmp_path / "shards"), shards.index(tmp_path / "shards"), strict=True
    ):
        expected = scenes.read(given / name)
        for scene in (read, indexed.read()):
            assert (scene.caption, scene.names) == (expected.caption, expected.names)
            assert torch.equal(scene.views.rgb, expected.views.rgb)
            assert torch.equal(scene.views.cameras.cam_to_world, expected.views.cameras.cam_to_world)


def test_pack_makes_a_scenes_members_one_webdataset_sample_with_its_document_first(tmp_path):
    pack([some_scenes(tmp_path / "scenes")], tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "00000.tar") as tar:
        names = tar.getnames()
    keys = [name.split(".", 1)[0] for name in names]
    assert keys == sorted(keys)
    assert not any("/" in name for name in names)
    firsts = [name for name, key, before in zip(names, keys, ["", *keys], strict=False) if key != before]
    assert [name.split(".", 1)[1] for name in firsts] == ["transforms.json"] * len(NAMES)


def test_pack_index_holds_size_and_hash_of_every_shard(tmp_path):
    pack([some_scenes(tmp_path / "scenes")], tmp_path / "shards", per_shard=2)
    index = json.loads((tmp_path / "shards" / "index.json").read_text())
    assert index["scenes"] == len(NAMES)
    assert {shard["name"]: shard["sha256"] for shard in index["shards"]} == digests(tmp_path / "shards")
    assert all(shard["bytes"] == os.path.getsize(tmp_path / "shards" / shard["name"]) for shard in index["shards"])


def test_pack_makes_equal_shards_of_equal_scenes(tmp_path):
    pack([some_scenes(tmp_path / "one")], tmp_path / "first")
    pack([some_scenes(tmp_path / "two")], tmp_path / "second")
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_pack_goes_on_after_an_interruption_with_the_same_result(tmp_path):
    given = some_scenes(tmp_path / "scenes")
    pack([given], tmp_path / "whole", per_shard=2)

    def stop(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack([given], tmp_path / "shards", per_shard=2, on_step=stop)
    (tmp_path / "shards" / ".00002.tar.partial").write_bytes(b"what a killed process leaves")
    assert pack([given], tmp_path / "shards", per_shard=2).kept == 2
    assert digests(tmp_path / "shards") == digests(tmp_path / "whole")


def test_pack_packs_a_changed_scene_again_and_keeps_its_neighbours(tmp_path):
    given = some_scenes(tmp_path / "scenes")
    pack([given], tmp_path / "shards", per_shard=2)
    (given / "a" / "notes" / "licence.v1.txt").write_text("another one")
    assert pack([given], tmp_path / "shards", per_shard=2).kept == 2
    unpack(tmp_path / "shards", tmp_path / "back")
    assert content(tmp_path / "back") == content(given)


def test_pack_of_fewer_scenes_leaves_no_shards_of_earlier_ones(tmp_path):
    given = some_scenes(tmp_path / "scenes")
    pack([given], tmp_path / "shards", per_shard=1)
    pack([given / "a", given / "b"], tmp_path / "shards", per_shard=1)
    assert len(digests(tmp_path / "shards")) == 2
    unpack(tmp_path / "shards", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["a", "b"]


def test_unpack_again_leaves_what_is_there_and_never_overwrites_another_scene(tmp_path):
    given = some_scenes(tmp_path / "scenes")
    pack([given], tmp_path / "shards")
    unpack(tmp_path / "shards", tmp_path / "back")
    again = unpack(tmp_path / "shards", tmp_path / "back")
    assert (again.new, again.there) == (0, len(NAMES))
    (tmp_path / "back" / "b" / "images" / "0000.png").write_bytes(b"edited")
    with pytest.raises(ValueError, match=r"back/b holds other files than .*00000\.tar"):
        unpack(tmp_path / "shards", tmp_path / "back")
    assert (tmp_path / "back" / "b" / "images" / "0000.png").read_bytes() == b"edited"


def damaged(tmp_path: Path, damage: object) -> tuple[Path, Path]:
    """Five shards of one scene each, the middle one's bytes changed by `damage`."""
    given = some_scenes(tmp_path / "scenes")
    pack([given], tmp_path / "shards", per_shard=1)
    tar = tmp_path / "shards" / "00002.tar"
    tar.write_bytes(damage(tar.read_bytes()))
    return given, tmp_path / "shards"


def flipped(data: bytes) -> bytes:
    """One bit of the first image."""
    place = data.index(b"\x89PNG") + 40
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def without_header(data: bytes) -> bytes:
    """The second member's header zeroed: to a reader of tars the file ends there."""
    with tarfile.open(fileobj=io.BytesIO(data)) as shard:
        place = shard.getmembers()[1].offset
    return data[:place] + bytes(512) + data[place + 512 :]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flipped, without_header, lambda data: data[:2000], lambda data: b"", bytes.upper])
def test_unpack_names_a_damaged_shard_and_restores_the_others(tmp_path, capsys, damage):
    given, packed = damaged(tmp_path, damage)
    assert main(["unpack", str(packed), "-o", str(tmp_path / "back")]) == 2
    captured = capsys.readouterr()
    assert "00002.tar" in captured.err
    assert all(f"0000{k}.tar" not in captured.err for k in (0, 1, 3, 4))
    expected = {name: data for name, data in content(given).items() if not name.startswith("d.e/")}
    assert content(tmp_path / "back") == expected


def test_unpack_finds_a_damaged_shard_without_an_index_too(tmp_path):
    _, packed = damaged(tmp_path, flipped)
    (packed / "index.json").unlink()
    result = unpack(packed, tmp_path / "back")
    assert result.new == 4
    (sentence,) = result.damage
    assert "00002.tar:0000002-d_e is damaged (images/0000.png is not as it was packed)" in sentence


def test_unpack_names_a_missing_shard(tmp_path):
    pack([some_scenes(tmp_path / "scenes")], tmp_path / "shards", per_shard=1)
    (tmp_path / "shards" / "00001.tar").unlink()
    (sentence,) = unpack(tmp_path / "shards", tmp_path / "back").damage
    assert "00001.tar is missing" in sentence


@pytest.mark.parametrize(("name", "file"), [("../evil", "a"), ("/evil", "a"), ("x", "../../evil"), ("x", "/evil")])
def test_unpack_cannot_write_outside_the_target(tmp_path, name, file):
    data = b"evil"
    packed = json.dumps({"version": 1, "name": name, "sha256": {file: hashlib.sha256(data).hexdigest()}}).encode()
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for member, payload in ((file.replace("/", "."), data), ("packed.json", packed)):
            (tmp_path / "payload").write_bytes(payload)
            tar.add(tmp_path / "payload", arcname=f"0000000-x.{member}")
    (sentence,) = unpack(tmp_path / "evil.tar", tmp_path / "back").damage
    assert "would lie outside the folder" in sentence
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "back").exists()


def test_pack_refuses_files_that_a_tar_could_not_tell_apart(tmp_path):
    given = some_scenes(tmp_path / "scenes", ("a",))
    (given / "a" / "notes.licence.v1.txt").write_text("two files, one flat name")
    with pytest.raises(ValueError, match="mistaken for another file"):
        pack([given], tmp_path / "shards")


def test_pack_does_not_follow_a_link_out_of_a_scene(tmp_path):
    given = some_scenes(tmp_path / "scenes", ("a",))
    (tmp_path / "secret").write_text("secret")
    (given / "a" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="not a file of its scene"):
        pack([given], tmp_path / "shards")


def test_pack_leaves_out_what_a_killed_process_left_half_written(tmp_path):
    given = some_scenes(tmp_path / "scenes", ("a", ".b.0123abcd.partial"))
    assert [shard.scenes for shard in pack([given], tmp_path / "shards").shards] == [1]


def test_pack_refuses_two_scenes_of_one_name(tmp_path):
    one, two = some_scenes(tmp_path / "one", ("a",)), some_scenes(tmp_path / "two", ("a",))
    with pytest.raises(ValueError, match="would both be packed as 'a'"):
        pack([one, two], tmp_path / "shards")


def test_pack_does_not_write_into_a_folder_of_other_files(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "00000.tar").write_bytes(b"someone's")
    with pytest.raises(ValueError, match=r"holds files but no index\.json"):
        pack([some_scenes(tmp_path / "scenes", ("a",))], tmp_path / "home")
    assert (tmp_path / "home" / "00000.tar").read_bytes() == b"someone's"


def test_pack_and_unpack_commands_print_what_they_did(tmp_path, capsys):
    given = some_scenes(tmp_path / "scenes")
    assert main(["pack", str(given), "-o", str(tmp_path / "shards"), "--per-shard", "2"]) == 0
    assert "5 scenes in 3 shards" in capsys.readouterr().out
    assert main(["unpack", str(tmp_path / "shards"), "-o", str(tmp_path / "back")]) == 0
    assert "5 scenes unpacked, 0 faults" in capsys.readouterr().out


def test_pack_takes_only_the_scenes_of_a_list_when_there_is_one(tmp_path, capsys):
    given = some_scenes(tmp_path / "scenes")
    (tmp_path / "list.txt").write_text("# ids, not paths\nc\na\nelsewhere\n")
    assert main(["pack", str(given), "-o", str(tmp_path / "shards"), "--keep", str(tmp_path / "list.txt")]) == 0
    assert [scene.id for scene in shards.read(tmp_path / "shards")] == ["a", "c"]
    (tmp_path / "list.txt").write_text("elsewhere\n")
    assert main(["pack", str(given), "-o", str(tmp_path / "none"), "--keep", str(tmp_path / "list.txt")]) == 2
    assert "no scene to pack has one of the 1 ids" in capsys.readouterr().err


def test_unpack_reports_a_shard_that_ends_after_a_whole_scene(tmp_path):
    pack([some_scenes(tmp_path / "scenes", ("a", "b"))], tmp_path / "shards")
    tar = tmp_path / "shards" / "00000.tar"
    with tarfile.open(tar) as opened:
        second = next(member.offset for member in opened if member.name.startswith("0000001-"))
    tar.write_bytes(tar.read_bytes()[:second] + bytes(1024))
    result = unpack(tmp_path / "shards", tmp_path / "back")
    assert result.new == 1
    assert any("1 of 2 scenes were found" in sentence for sentence in result.damage)
