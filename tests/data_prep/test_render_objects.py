"""From a folder of objects to scene folders: what is chosen, written, skipped, refused and reported."""

import json

import numpy as np
import pytest
import torch
import trimesh

from data_prep import catalogue, render
from data_prep.catalogue import Item
from data_prep.plan import Plan
from instant3d import scenes
from instant3d.cameras import structured
from instant3d.mesh import Mesh

SMALL = Plan(size=24, random_views=2)


def write_ball(path, **look):
    sphere = trimesh.creation.icosphere(2)
    Mesh(sphere.vertices * 3 + 7, sphere.faces, **look).save(path)


def rows(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_a_scene_holds_the_plans_views_of_the_normalized_object(tmp_path):
    write_ball(tmp_path / "ball.glb", base_color=(1, 0, 0, 1))
    item = Item("ball", tmp_path / "ball.glb", "a red ball", {"license": "CC0-1.0"})
    assert render.render_object(render.Job(item, tmp_path / "scene", SMALL, "embree")) == 6
    scene = scenes.read(tmp_path / "scene")
    assert (scene.id, scene.caption) == ("ball", "a red ball")
    torch.testing.assert_close(scene.views.cameras.cam_to_world[:4], structured().cam_to_world, atol=1e-5, rtol=0)
    assert scene.views.depth[0, 0, 12, 12] == pytest.approx(2.7 - 1, abs=0.02)  # a unit ball at the origin
    assert scene.views.rgb[0, :, 12, 12].tolist() == [1, 0, 0]
    document = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    assert (document["license"], document["lighting"]) == ("CC0-1.0", "flat")


def test_an_object_lost_in_its_own_bounds_is_refused(tmp_path):
    vertices = np.array([[0, 0, 0], [1e-3, 0, 0], [0, 1e-3, 0], [9, 9, 9], [9.001, 9, 9], [9, 9.001, 9]])
    Mesh(vertices, [[0, 1, 2], [3, 4, 5]]).save(tmp_path / "a.obj")
    with pytest.raises(ValueError, match="almost nothing"):
        render.render_object(render.Job(Item("a", tmp_path / "a.obj", None, {}), tmp_path / "s", SMALL, "embree"))


def test_a_folder_is_rendered_once_and_its_failures_are_told(tmp_path, capsys):
    objects, out = tmp_path / "objects", tmp_path / "out"
    (objects / "more").mkdir(parents=True)
    write_ball(objects / "good.glb")
    write_ball(objects / "more" / "good.obj")
    (objects / "broken.glb").write_bytes(b"glTF")
    (tmp_path / "plan.yaml").write_text("{size: 16, random_views: 0, geometry: false}")
    command = [
        str(objects),
        "-o",
        str(out),
        "--plan",
        str(tmp_path / "plan.yaml"),
        "--workers",
        "1",
        "--backend",
        "embree",
    ]
    assert render.main(command) == 0
    assert capsys.readouterr().out.startswith(f"2 objects rendered into {out} (8 views, 1 failed")
    assert {path.name for path in out.iterdir()} == {"good", "more__good", "failures.jsonl", "plan.yaml"}
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert failure["id"] == "broken"
    assert "cut short" in failure["reason"]
    assert scenes.read(out / "good").views.depth is None

    (objects / "broken.glb").unlink()
    before = (out / "good" / "transforms.json").stat().st_mtime_ns
    assert render.main(command) == 0
    assert "0 objects rendered" in capsys.readouterr().out
    assert (out / "good" / "transforms.json").stat().st_mtime_ns == before
    assert not (out / "failures.jsonl").exists()

    (tmp_path / "plan.yaml").write_text("size: 32")
    assert render.main(command) == 2
    assert "scenes of another plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (["nowhere"], "no folder or manifest nowhere"),
        (["{}/empty"], "names no objects"),
        (["{}/objects", "--split", "dev"], "no objects of split 'dev'"),
        (["{}/objects", "{}/objects"], "2 objects have the id 'a'"),
        (["{}/objects", "--plan", "nowhere.yaml"], "no plan nowhere.yaml"),
        (["{}/objects", "--workers", "0"], "at least one worker"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path, capsys, arguments, because):
    (tmp_path / "empty").mkdir()
    (tmp_path / "objects").mkdir()
    write_ball(tmp_path / "objects" / "a.ply")
    assert render.main([part.format(tmp_path) for part in arguments] + ["-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert because in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_manifest_tells_names_splits_and_licences(tmp_path):
    entries = [
        {"id": "a", "file": "a.glb", "name": "a chair", "split": "train", "license": "MIT", "faces": 3},
        {"id": "b", "file": "b.glb", "caption": "words", "name": "name", "split": "dev", "license": "MIT"},
        {"id": "c", "file": "sub/c.obj", "split": "train", "license": "CC-BY-4.0"},
    ]
    (tmp_path / "manifest.jsonl").write_text(rows(*entries))
    everything = catalogue.find(tmp_path)
    assert [(item.id, item.caption) for item in everything] == [("a", "a chair"), ("b", "words"), ("c", None)]
    assert everything[0].facts == {"split": "train", "license": "MIT"}
    assert everything[2].path == tmp_path / "sub" / "c.obj"
    chosen = catalogue.find(tmp_path / "manifest.jsonl", split="train", licenses=["MIT", "CC0-1.0"])
    assert [item.id for item in chosen] == ["a"]


@pytest.mark.parametrize(
    ("line", "because"),
    [
        ("{", "line 1 is not JSON"),
        (rows({"id": "a"}), "`id` and `file`"),
        (rows({"id": "a", "file": "../a.glb"}), "outside"),
        (rows({"id": "../a", "file": "a.glb"}), "make an id"),
        (rows({"id": ".", "file": "a.glb"}), "make an id"),
    ],
)
def test_a_broken_manifest_is_told_what_is_wrong(tmp_path, line, because):
    (tmp_path / "manifest.jsonl").write_text(line)
    with pytest.raises(ValueError, match=because):
        catalogue.find(tmp_path)
