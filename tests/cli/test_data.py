"""`instant3d data`: the door of the data side."""

import subprocess
import sys
from pathlib import Path

import pytest

from instant3d.cli import data
from instant3d.cli.main import main

ROOT = Path(__file__).parents[2]


def test_help_lists_every_command_and_loads_nothing_heavy():
    script = "import sys\nfrom instant3d.cli.main import main\nmain(['data', '--help'])\n"
    script += "print(sorted({'torch', 'numpy', 'data_prep', 'instant3d.data_prep'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *help_lines, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    named = [line.split()[0] for line in help_lines if line.startswith("  ")]
    assert {"sources", "render", "caption", "recolour", "curate", "report", "variants"} <= set(named)


@pytest.mark.parametrize(("words", "got"), [([], "got nothing"), (["paint"], "got 'paint'")])
def test_command_that_is_unknown_is_one_sentence_and_exit_code_two(words, got, capsys):
    assert main(["data", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert f"expected a command after `instant3d data`, {got}; choose among sources, " in captured.err


@pytest.mark.parametrize("name", data.COMMANDS)
def test_command_shows_its_own_options_under_its_own_name(name, capsys):
    with pytest.raises(SystemExit) as done:
        main(["data", name, "--help"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: instant3d data {name} ")


def test_command_does_its_work_from_any_folder_and_returns_its_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "procedural", "-o", "objects", "--count", "2"]) == 0
    assert len(list(Path("objects").glob("*.glb"))) == 2
    assert main(["data", "report", "nowhere", "-o", "page.html"]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow
def test_module_of_a_command_still_runs_by_its_name_in_a_checkout():
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.render", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.startswith("usage: ")) == (0, True)
