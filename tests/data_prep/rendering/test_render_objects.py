"""From a folder of objects to scene folders: what is chosen, written, skipped, refused, survived and reported."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import endless_object
import full_disk
import no_pool
import numpy as np
import pytest
import torch
import trimesh

from benchmarks import planted
from data_prep.execution import locked_tempdir, process_pool
from data_prep.execution.process_limits import JobLimits
from data_prep.manifests import failure_log, object_manifest
from data_prep.manifests.object_manifest import Item
from data_prep.rendering import render, run_stats
from data_prep.rendering.render_plan import Plan
from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.mesh import Mesh

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SMALL = Plan(size=24, random_views=2)
TINY = Plan(size=16, random_views=0, depth=False)
MEANS = render.Execution(workers=1, backend="embree")


def write_ball(path, **look):
    sphere = trimesh.creation.icosphere(2)
    Mesh(sphere.vertices * 3 + 7, sphere.faces, **look).save(path)


def write_plan(path, content="{size: 16, random_views: 0, depth: false}"):
    path.write_text(content)
    return str(path)


def rows(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def failed(out):
    """The rows of failures.jsonl by id."""
    return {row["id"]: row for row in map(json.loads, (out / "failures.jsonl").read_text().splitlines())}


def finished(out):
    """When each scene was written, and as which folder on the disk: another run's work would have others."""
    documents = [(path.parent.name, path.stat()) for path in out.glob("[!.]*/transforms.json")]
    return {name: (status.st_mtime_ns, status.st_ino) for name, status in documents}


def test_render_object_writes_the_plans_views_of_the_normalized_object(tmp_path):
    write_ball(tmp_path / "ball.glb", base_color=(1, 0, 0, 1))
    item = Item("ball", tmp_path / "ball.glb", "a red ball", {"license": "CC0-1.0"})
    assert render.render_object(render.Job(item, tmp_path / "scene", SMALL, "embree")) == 6
    scene = scenes.read(tmp_path / "scene")
    assert (scene.id, scene.caption) == ("ball", "a red ball")
    torch.testing.assert_close(
        scene.views.cameras.cam_to_world[:4], structured_cameras().cam_to_world, atol=1e-5, rtol=0
    )
    assert scene.views.depth[0, 0, 12, 12] == pytest.approx(2.7 - 1, abs=0.02)  # a unit ball at the origin
    assert scene.views.rgb[0, :, 12, 12].tolist() == [1, 0, 0]
    assert {path.name for path in (tmp_path / "scene").iterdir()} == {"transforms.json", "images", "depth"}
    document = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    assert (document["license"], document["lighting"], document["renderer"]) == ("CC0-1.0", "flat", "fast")


def test_object_that_is_tiny_in_its_bounds_is_refused(tmp_path):
    vertices = np.array([[0, 0, 0], [1e-3, 0, 0], [0, 1e-3, 0], [9, 9, 9], [9.001, 9, 9], [9, 9.001, 9]])
    Mesh(vertices, [[0, 1, 2], [3, 4, 5]]).save(tmp_path / "a.obj")
    with pytest.raises(ValueError, match="almost invisible"):
        render.render_object(render.Job(Item("a", tmp_path / "a.obj", None, {}), tmp_path / "s", SMALL, "embree"))


def test_render_command_renders_a_folder_once_and_reports_failures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(process_pool, "run", no_pool.run)
    objects, out = tmp_path / "objects", tmp_path / "out"
    (objects / "more").mkdir(parents=True)
    write_ball(objects / "good.glb")
    write_ball(objects / "more" / "good.obj")
    (objects / "broken.glb").write_bytes(b"glTF")
    command = [str(objects), "-o", str(out), "--plan", write_plan(tmp_path / "plan.yaml")]
    command += ["--workers", "1", "--backend", "embree"]
    assert render.main(command) == 0
    assert capsys.readouterr().out.startswith(f"2 objects rendered into {out} (8 views, 1 failed (1 broken), ")
    assert {path.name for path in out.iterdir()} == {"good", "more__good", "failures.jsonl", "plan.yaml", "report.json"}
    report = json.loads((out / "report.json").read_text())
    assert [report[key] for key in ("objects", "done", "failed", "views")] == [3, 2, {"broken": 1}, 8]
    assert failed(out)["broken"].items() >= {"kind": "broken", "attempts": 1}.items()
    assert "cut short" in failed(out)["broken"]["reason"]
    assert scenes.read(out / "good").views.depth is None

    before = finished(out)
    assert render.main(command) == 0  # what has failed is not tried again
    assert "; 1 had failed before and were not tried again" in capsys.readouterr().out
    assert "broken" in failed(out)
    write_ball(objects / "broken.glb")
    assert render.main([*command, "--retry-failed"]) == 0
    assert "1 objects rendered" in capsys.readouterr().out
    assert finished(out).items() > before.items()
    assert not (out / "failures.jsonl").exists()

    write_plan(tmp_path / "plan.yaml", "size: 32")
    assert render.main(command) == 2
    assert "scenes of another plan" in capsys.readouterr().err


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Two good objects and one of each bad kind, rendered."""
    objects, out = tmp_path_factory.mktemp("objects"), tmp_path_factory.mktemp("out")
    for name in ("first", "last"):
        write_ball(objects / f"{name}.glb")
    for name in ("cut_short", "bomb", "crowd", "prowler"):
        (objects / f"{name}.glb").write_bytes(getattr(planted, name)())
    write_ball(objects / "endless.glb")
    os.mkfifo(objects / "pipe.glb")
    items = [*object_manifest.find(objects), Item("pipe", objects / "pipe.glb", None, {})]
    items.sort(key=lambda item: item.id == "endless")  # a process fewer to start
    means = render.Execution(workers=1, backend="embree", limits=JobLimits(4.0))
    return render.render_all(items, out, TINY, means, work=endless_object.render), out


def test_render_loses_no_good_object_to_bad_ones(odd):
    count, out = odd
    assert sorted(finished(out)) == ["first", "last"]
    assert count.done == 2
    assert count.kinds == Counter(broken=1, timeout=1, too_large=2, unsafe=1, unreadable=1)


@pytest.mark.parametrize(
    ("name", "kind", "because"),
    [
        ("cut_short", "broken", "cut short"),
        ("endless", "timeout", "it took longer than 4 s"),
        ("bomb", "too_large", "a texture has more than 8192 x 8192 pixels"),
        ("crowd", "too_large", "accessor 0 has 18000000 elements"),
        ("prowler", "unsafe", "lies outside its folder"),
        ("pipe", "unreadable", "there is no mesh file"),
    ],
)
def test_render_explains_each_failure(odd, name, kind, because):
    row = failed(odd[1])[name]
    assert row["kind"] == kind
    assert because in row["reason"]


def test_render_retries_only_failures_that_may_pass(odd):
    assert {name: row["attempts"] for name, row in failed(odd[1]).items() if row["attempts"] > 1} == {"endless": 2}


def test_render_ends_at_a_full_disk_and_goes_on_when_there_is_room(tmp_path):
    for name in ("a", "b", "last"):
        write_ball(tmp_path / f"{name}.glb")
    items, out = object_manifest.find(tmp_path), tmp_path / "out"
    with pytest.raises(OSError, match="is full after 2 objects; make room and run the same command again"):
        render.render_all(items, out, TINY, MEANS, work=full_disk.render)
    assert sorted(finished(out)) == ["a", "b"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    count = render.render_all(items, out, TINY, MEANS)
    assert (count.done, count.there_already, count.failed) == (1, 2, 0)


def killed_soon(command, out, scenes_first):
    """Start a run and kill it, no sooner than it has written so many more scenes and while it is at the next."""
    before = len(finished(out)) if out.exists() else 0
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(finished(out)) < before + scenes_first:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL


def test_render_after_a_kill_loses_nothing_and_does_nothing_twice(tmp_path):
    objects, out = tmp_path / "objects", tmp_path / "out"
    objects.mkdir()
    for k in range(6):
        write_ball(objects / f"ball{k}.glb")
    (objects / "ball2b.glb").write_bytes(planted.cut_short())
    command = [sys.executable, "-m", "data_prep.render", str(objects), "-o", str(out), "--workers", "1"]
    command += ["--backend", "embree", "--plan", write_plan(tmp_path / "plan.yaml", "{size: 96, random_views: 8}")]
    killed_soon(command, out, scenes_first=2)
    before = finished(out)
    assert 2 <= len(before) < 6
    half = out / ".ball5.0123abcd.partial"
    (half / "images").mkdir(parents=True)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    after = finished(out)
    assert sorted(after) == [f"ball{k}" for k in range(6)]
    assert after.items() >= before.items()
    assert list(failed(out)) == ["ball2b"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_failure_log_counts_a_first_failure_that_a_killed_run_has_noted(tmp_path):
    notes = [{"id": "a", "kind": "crash", "attempts": 1}, {"id": "b", "kind": "broken", "attempts": 1}]
    notes += [{"id": "c", "kind": "timeout", "attempts": 2}]
    (tmp_path / failure_log.FILE).write_text(rows(*notes) + '{"id": "d", "ki')  # killed at the fourth
    with failure_log.FailureLog(tmp_path) as known:
        assert [name for name in "abcd" if known.may_retry(name)] == ["a"]
        assert set(known.rows) == {"a", "b", "c"}
        known.add({"id": "e", "kind": "blank", "attempts": 1})
    assert set(failure_log.read(tmp_path / failure_log.FILE)) == {"a", "b", "c", "e"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "transforms.json").touch()
    known.settle(tmp_path)
    assert list(failed(tmp_path)) == ["b", "c", "e"]


def test_render_never_writes_from_two_runs_into_one_folder(tmp_path):
    write_ball(tmp_path / "a.glb")
    (tmp_path / "out").mkdir()
    with locked_tempdir.locked(tmp_path / "out"), pytest.raises(ValueError, match="another run is rendering into"):
        render.render_all(object_manifest.find(tmp_path), tmp_path / "out", TINY, MEANS)


def test_run_stats_line_has_rate_and_remaining_time(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(run_stats.time, "monotonic", lambda: now)
    count = run_stats.RunStats(total=101, since=now, printed_at=now)
    now += 30  # to start up, which is not to come again
    count.finished(10)
    now += 600
    for _ in range(24):
        count.finished(10)
    count.lost("timeout")
    assert count.line() == (
        "26 of 101 objects, 1 failed (1 timeout), 10 min 30 s, 0.0413 objects/s, 0.397 views/s, about 30 min 00 s left"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.4, "59 s"), (61, "1 min 01 s"), (3 * 3600 + 120, "3 h 02 min"), (2 * 86400 + 3600, "2 d 1 h")],
)
def test_clock_has_the_two_largest_units(seconds, words):
    assert run_stats.clock(seconds) == words


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (["nowhere"], "no folder or manifest nowhere"),
        (["{}/empty"], "names no objects"),
        (["{}/objects", "--split", "dev"], "no objects of split 'dev'"),
        (["{}/objects", "{}/objects"], "2 objects have the id 'a'"),
        (["{}/objects", "--plan", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["{}/objects", "--workers", "0"], "at least one worker"),
        (["{}/objects", "--memory", "0"], "some memory"),
        (["{}/objects", "--plan", "{}/area.yaml", "--renderer", "fast"], "no 'area' light"),
    ],
)
def test_render_of_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, because):
    (tmp_path / "empty").mkdir()
    (tmp_path / "objects").mkdir()
    write_plan(tmp_path / "area.yaml", "lighting: area")
    write_ball(tmp_path / "objects" / "a.ply")
    assert render.main([part.format(tmp_path) for part in arguments] + ["-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert because in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_render_on_a_machine_that_cannot_render_fails_no_object(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INSTANT3D_BLENDER_PYTHON", str(tmp_path / "nowhere"))
    write_ball(tmp_path / "a.glb")
    command = [str(tmp_path), "-o", str(tmp_path / "out"), "--renderer", "blender", "--workers", "1"]
    assert render.main(command) == 2
    assert "which is no program" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("failures.jsonl")) or not failed(tmp_path / "out")


def test_render_takes_only_the_objects_of_a_list_when_there_is_one(tmp_path, capsys):
    for name in "abc":
        write_ball(tmp_path / f"{name}.glb")
    (tmp_path / "list.txt").write_text("# the best two\nc\na\nelsewhere\n")
    run = [str(tmp_path), "-o", str(tmp_path / "out"), "--keep", str(tmp_path / "list.txt")]
    assert [item.id for item in render._gather(render._parser().parse_args(run))] == ["a", "c"]
    (tmp_path / "list.txt").write_text("elsewhere\n")
    assert render.main(run) == 2
    assert "none of the 1 ids" in capsys.readouterr().err


def test_manifest_has_names_splits_and_licences(tmp_path):
    entries = [
        {"id": "a", "file": "a.glb", "name": "a chair", "split": "train", "license": "MIT", "faces": 3},
        {"id": "b", "file": "b.glb", "caption": "words", "name": "name", "split": "dev", "license": "MIT"},
        {"id": "c", "file": "sub/c.obj", "split": "train", "license": "CC-BY-4.0"},
    ]
    (tmp_path / "manifest.jsonl").write_text(rows(*entries))
    everything = object_manifest.find(tmp_path)
    assert [(item.id, item.caption) for item in everything] == [("a", "a chair"), ("b", "words"), ("c", None)]
    assert everything[0].facts == {"name": "a chair", "split": "train", "license": "MIT"}
    assert everything[2].path == tmp_path / "sub" / "c.obj"
    chosen = object_manifest.find(tmp_path / "manifest.jsonl", split="train", licenses=["MIT", "CC0-1.0"])
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
def test_manifest_that_is_broken_gives_an_error_with_the_reason(tmp_path, line, because):
    (tmp_path / "manifest.jsonl").write_text(line)
    with pytest.raises(ValueError, match=because):
        object_manifest.find(tmp_path)
