"""The renderer's process, replaced by a double that hangs, ends, swells or gives false answers on command."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep.rendering import blender_process
from data_prep.rendering.blender_process import Crashed, Process, command

DOUBLE = Path(__file__).parents[2] / "fixtures" / "fake_blender.py"


@pytest.fixture
def process(monkeypatch):
    monkeypatch.setattr(blender_process, "command", lambda: [sys.executable, str(DOUBLE)])
    started = Process(threads=1)
    yield started
    started.kill()


def request(process, what, timeout_s=20.0, max_resident=None):
    return process.request({"device": what}, [["uint8", [2, 3]]], timeout_s=timeout_s, max_resident=max_resident)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "limits", "error", "because"),
    [
        ("exit", {}, Crashed, "exit code 7.*last words: out of paint"),
        ("hang", {"timeout_s": 0.3}, TimeoutError, "in time"),
        ("allocate", {"max_resident": 100 << 20}, MemoryError, "more than 0.1 GiB"),
        ("wrong-shape", {}, Crashed, "instead of"),
        ("no-header", {}, Crashed, "something else than a header"),
        ("close", {}, Crashed, "it fell silent"),
    ],
)
def test_process_failures_are_errors_in_words(process, monkeypatch, what, limits, error, because):
    monkeypatch.setattr(blender_process, "LAST_S", 0.5)
    began = time.monotonic()
    with pytest.raises(error, match=because):
        request(process, what, **limits)
    assert time.monotonic() - began < 10


def test_process_answer_comes_with_its_numbers(process):
    _, (array,) = request(process, "count")
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])
    assert array.dtype == np.uint8


def test_process_that_is_killed_leaves_nothing(process):
    folder, pid = process.folder, process.pid
    assert folder.is_dir()
    process.kill()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_process_cannot_be_reached_by_a_signal_to_our_session(process):
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_blender_that_is_missing_gives_an_error_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTANT3D_BLENDER", raising=False)
    monkeypatch.delenv("INSTANT3D_BLENDER_PYTHON", raising=False)
    monkeypatch.setattr(blender_process.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="make render-env"):
        command()
    monkeypatch.setenv("INSTANT3D_BLENDER_PYTHON", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="which is no program"):
        command()


def test_command_runs_the_users_own_blender_by_blenderproc(tmp_path, monkeypatch):
    (tmp_path / "blender-4.2").mkdir()
    for program in (tmp_path / "blender-4.2" / "blender", tmp_path / "blenderproc"):
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setattr(blender_process.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("INSTANT3D_BLENDER", str(tmp_path / "blender-4.2" / "blender"))
    expected = [str(tmp_path / "blenderproc"), "run", "--custom-blender-path", str(tmp_path / "blender-4.2")]
    assert command() == [*expected, str(blender_process.WORKER)]
    assert "OUTSIDE_OF_THE" not in " ".join(blender_process.environment(tmp_path, 1))
    monkeypatch.setenv("INSTANT3D_BLENDER", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="neither Blender nor its folder"):
        command()


def test_blender_program_imports_blenderproc_in_its_first_line():
    # `blenderproc run` refuses a program otherwise
    lines = [line for line in blender_process.WORKER.read_text().splitlines() if not line.startswith("#")]
    assert "import blenderproc as bproc" in lines[0]
