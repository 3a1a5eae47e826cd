"""Whole commands on a set of inputs of which one is broken or hostile: it costs itself, and nothing else."""

import io
import json
import tarfile

import foreign_layouts
import pytest
from balls import ball_views, write_balls
from PIL import Image

from instant3d import scenes
from instant3d.cli.main import main

pytestmark = pytest.mark.slow


def edit(scene, change):
    content = json.loads((scene / "transforms.json").read_text())
    change(content)
    (scene / "transforms.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["/", "..", "", "a\0b", "\x1b[31m"])
def test_doctor_reports_a_frame_that_names_no_file_and_checks_the_other_scenes(tmp_path, capsys, name):
    folder = write_balls(tmp_path / "scenes", ("red", "blue"))
    edit(folder / "red", lambda content: content["frames"][1].update(file_path=name))
    assert main(["doctor", str(folder), "-o", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    of_red = [(row["kind"], row["frames"]) for row in report["findings"] if row["scene"].endswith("red")]
    assert ("unreadable", [1]) in of_red
    assert (report["scenes"], report["healthy"]) == (2, 1)
    assert "\x1b" not in capsys.readouterr().out


def test_doctor_does_not_decode_an_image_that_needs_more_than_the_memory_allowed(tmp_path, capsys, monkeypatch):
    folder = write_balls(tmp_path / "scenes", ("red",))
    Image.new("RGBA", (2000, 2000)).save(folder / "red" / "images" / "0002.png")
    decoded = []
    monkeypatch.setattr("instant3d.utils.images.to_uint8", lambda image: decoded.append(image.size) or image)
    assert main(["doctor", str(folder), "--jobs", "1", "--max-memory", "16M"]) == 1
    out = capsys.readouterr().out
    assert "an image of 2000 x 2000 pixels needs" in out
    assert "more than the 16 MiB" in out
    assert (2000, 2000) not in decoded
    assert decoded


def test_import_names_an_object_with_a_flipped_byte_and_imports_the_others(tmp_path, capsys):
    views = ball_views((0.8, 0.2, 0.2))
    for name in ("a", "b", "c"):
        foreign_layouts.openlrm(tmp_path / "objects" / name, views)
    file = tmp_path / "objects" / "b" / "pose" / "001.npy"
    for position in (1, 8, 40, 127):  # magic, header length, header, last of the header
        data = bytearray(file.read_bytes())
        data[position] ^= 0x80
        file.write_bytes(data)
        out = tmp_path / f"scenes{position}"
        assert main(["import", "openlrm", str(tmp_path / "objects"), "-o", str(out)]) == 2
        assert [path.name for path in scenes.scene_folder.below(out)] == ["a", "c"]
        assert "left out b: " in capsys.readouterr().err
        data[position] ^= 0x80
        file.write_bytes(data)


def hostile(kind):
    member = tarfile.TarInfo({"hidden": "ball/.profile", "control": "ball/\x1b[2J.png", "sparse": "ball/a.png"}[kind])
    if kind == "sparse":
        member.type = tarfile.GNUTYPE_SPARSE
    return member


@pytest.mark.parametrize("kind", ["hidden", "control", "sparse"])
def test_unpack_restores_the_scenes_beside_a_hostile_member_and_nothing_of_it(tmp_path, capsys, kind):
    folder = write_balls(tmp_path / "scenes", ("red",))
    assert main(["pack", str(folder), "-o", str(tmp_path / "shards")]) == 0
    (tmp_path / "shards" / "index.json").unlink()  # it has the hash of the tar as it was
    with tarfile.open(tmp_path / "shards" / "00000.tar", "a", format=tarfile.GNU_FORMAT) as tar:
        member = hostile(kind)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    main(["unpack", str(tmp_path / "shards"), "-o", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    expected = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == expected


def test_scene_with_deeply_nested_values_is_one_sentence(tmp_path):
    nest = json.loads("[" * 400 + "]" * 400)
    for field in ("transform_matrix", "fl_x", "mask_path", "camera_model"):
        (tmp_path / "transforms.json").write_text(
            json.dumps({"camera_angle_x": 0.8, "frames": [{"file_path": "a.png", field: nest}]})
        )
        with pytest.raises(ValueError, match=r"frame 0 \(a\.png\)"):
            scenes.read(tmp_path)
    (tmp_path / "transforms.json").write_text('{"frames": ' + "[" * 100_000)
    with pytest.raises(ValueError, match="not valid JSON"):
        scenes.read(tmp_path)
