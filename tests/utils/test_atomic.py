"""Folders that appear whole or not at all: what others see before, during and after."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from instant3d.utils import atomic


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_merged_files_join_those_that_are_there_and_replace_their_namesakes(tmp_path):
    target = fill(tmp_path / "out", mine="1", both="old", sub__mine="2", sub__both="old")
    with atomic.merged(target) as partial:
        fill(partial, both="new", sub__both="new", other__deep="3")
        assert tree(target)["both"] == "old"
    assert tree(target) == {"mine": "1", "both": "new", "sub/mine": "2", "sub/both": "new", "other/deep": "3"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_replaced_folder_keeps_nothing_of_the_old_one(tmp_path):
    target = fill(tmp_path / "out", sign="", old="1")
    with atomic.replaced(target, sign="sign") as partial:
        fill(partial, sign="", new="2")
    assert tree(tmp_path) == {"out/sign": "", "out/new": "2"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("manner", [atomic.merged, lambda target: atomic.replaced(target, sign="a")])
def test_atomic_folder_is_as_it_was_whatever_stops_the_work(tmp_path, error, manner):
    target = fill(tmp_path / "out", a="1", b="2")

    def work() -> None:
        with manner(target) as partial:
            fill(partial, a="new", c="3")
            raise error

    with pytest.raises(error):
        work()
    assert tree(tmp_path) == {"out/a": "1", "out/b": "2"}


def test_atomic_makes_a_new_folder_and_its_parents(tmp_path):
    with atomic.merged(tmp_path / "a" / "b" / "c") as partial:
        fill(partial, x="1")
    assert tree(tmp_path) == {"a/b/c/x": "1"}


def test_atomic_new_folder_may_be_entered_by_those_who_may_enter_any_other(tmp_path):
    (tmp_path / "ordinary").mkdir()
    with atomic.merged(tmp_path / "out") as partial:
        fill(partial, x="1")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("manner", [atomic.merged, lambda target: atomic.replaced(target, sign="a")])
def test_atomic_names_and_keeps_a_file_in_the_way(tmp_path, manner):
    fill(tmp_path, out="mine")
    with (
        pytest.raises(ValueError, match="out is a file, but a folder will be written there"),
        manner(tmp_path / "out"),
    ):
        raise AssertionError("the work must not begin")
    assert tree(tmp_path) == {"out": "mine"}


def test_replaced_refuses_a_folder_without_the_sign(tmp_path):
    target = fill(tmp_path / "out", thesis="the only copy")
    with pytest.raises(ValueError, match="holds files but no sign"), atomic.replaced(target, sign="sign"):
        raise AssertionError("the work must not begin")
    assert tree(target) == {"thesis": "the only copy"}


def test_atomic_writes_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic.merged(".") as partial:
        fill(partial, x="1")
    assert tree(tmp_path) == {"x": "1"}


def test_merged_moves_a_seal_last_and_removes_an_old_one_first(tmp_path, monkeypatch):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a-seal").write_text("old")
    moved: list[tuple[str, bool]] = []
    real = os.replace

    def replace(source, target):
        moved.append((Path(target).name, (tmp_path / "target" / "a-seal").exists()))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with atomic.merged(tmp_path / "target", seal="a-seal") as partial:
        for name in ("a-seal", "b", "c"):
            (partial / name).write_text("new")
        assert (tmp_path / "target" / "a-seal").read_text() == "old"
    assert moved == [("b", False), ("c", False), ("a-seal", False)]


def test_partial_file_of_one_writer_overwrites_what_a_killed_process_left(tmp_path):
    (tmp_path / ".big.tar.partial").write_text("half of an older")
    with atomic.partial_file(tmp_path / "big.tar", one_writer=True) as partial:
        partial.write_text("whole")
    assert tree(tmp_path) == {"big.tar": "whole"}


def test_is_partial_is_true_of_what_is_being_written_and_of_nothing_else(tmp_path):
    with atomic.merged(tmp_path / "scene") as partial:
        assert atomic.is_partial(partial.name)
    assert not any(map(atomic.is_partial, ["scene", ".hidden", "a.partial", ".scene.partial"]))


WRITE_AND_WAIT = """
import sys, time
from instant3d.utils import atomic
with atomic.merged(sys.argv[1]) as partial:
    (partial / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_remove_leftovers_removes_what_a_killed_process_left_and_not_what_a_living_one_writes(tmp_path):
    target = tmp_path / "out"
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(target)]
    environment = os.environ | {"PYTHONPATH": str(Path(atomic.__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "writing\n"
        assert atomic.remove_leftovers(target) == []
        (living,) = tmp_path.iterdir()
        process.kill()
    mine = fill(tmp_path / ".out.notours.partial", a="1")
    other = fill(tmp_path / ".other.0123abcd.partial", a="1")
    inside = fill(target / ".scene.0123abcd.partial", a="1")
    assert sorted(atomic.remove_leftovers(target)) == sorted([living, inside])
    assert sorted(tmp_path.iterdir()) == sorted([mine, other, target])
    assert list(target.iterdir()) == []


def test_remove_leftovers_removes_a_file_that_a_killed_process_left_and_not_one_that_is_being_written(tmp_path):
    left = fill(tmp_path / "out", **{".report.json.0123abcd.partial": "half"}) / ".report.json.0123abcd.partial"
    with atomic.partial_file(tmp_path / "out" / "other.json") as partial:
        partial.write_text("half")
        assert atomic.remove_leftovers(tmp_path / "out") == [left]
    assert tree(tmp_path / "out") == {"other.json": "half"}


def test_remove_leftovers_removes_a_folder_that_a_process_left_the_moment_that_it_was_created(tmp_path):
    folder = tmp_path / "out" / ".scene.0123abcd.partial"
    folder.mkdir(parents=True)
    assert atomic.remove_leftovers(tmp_path / "out") == [folder]


@pytest.mark.parametrize("write", [atomic.merged, atomic.partial_file])
def test_writers_begin_again_if_another_process_sweeps_before_they_hold_their_lock(tmp_path, monkeypatch, write):
    swept = []

    def interrupted(*args, **options):
        if not swept:
            swept.extend(atomic.remove_leftovers(tmp_path / "out"))
        return lock(*args, **options)

    lock = atomic._lock
    monkeypatch.setattr(atomic, "_lock", interrupted)
    monkeypatch.setattr(atomic, "_remove_stale", lambda path: [path.rmdir() if path.is_dir() else path.unlink()])
    with write(tmp_path / "out") as partial:
        (partial / "whole" if partial.is_dir() else partial).write_text("1")
    assert len(swept) == 1
    assert len(list(tmp_path.iterdir())) == 1
    assert "1" in tree(tmp_path).values()


def test_partial_file_of_one_writer_refuses_a_second_one_and_keeps_the_first(tmp_path):
    with atomic.partial_file(tmp_path / "big.tar", one_writer=True) as partial:
        partial.write_text("whole")
        with (
            pytest.raises(OSError, match=r"big\.tar\.partial is being written by another process; wait for it"),
            atomic.partial_file(tmp_path / "big.tar", one_writer=True),
        ):
            raise AssertionError("it must not begin")
    assert tree(tmp_path) == {"big.tar": "whole"}


def test_check_writable_leaves_nothing_and_names_what_is_in_the_way(tmp_path, monkeypatch):
    atomic.check_writable(tmp_path / "new" / "deep")
    atomic.check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is a file, so .*deep cannot be written"):
        atomic.check_writable(tmp_path / "file" / "deep")

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match=r"nothing can be written to .*new \(No space left on device\)"):
        atomic.check_writable(tmp_path / "new")


def test_merged_folder_that_is_a_disk_of_its_own_is_written_on_that_disk(tmp_path, monkeypatch):
    target = fill(tmp_path / "disk", mine="1")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == target)
    with atomic.merged(target) as partial:
        assert partial.parent == target
        fill(partial, new="2")
    assert tree(target) == {"mine": "1", "new": "2"}
    assert {path.name for path in target.iterdir()} == {"mine", "new"}


def test_full_disk_is_an_error_that_names_the_output_and_leaves_nothing(tmp_path):
    def work() -> None:
        with atomic.merged(tmp_path / "out") as partial, atomic.partial_file(partial / "a"):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with pytest.raises(OSError, match=r"out cannot be written \(File too large\); free some space") as raised:
        work()
    assert raised.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
