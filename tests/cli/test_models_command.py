"""`instant3d models` and `instant3d fetch`: what is listed, what is said before a download, and what is kept."""

import hashlib
import json
import shlex
import socket
import subprocess
import sys
from math import prod

import pytest
from golden_generators import GoldenGenerator
from golden_sets import Golden

from instant3d.cli import main as cli
from instant3d.pipelines import released_models
from instant3d.pipelines.convert import FAMILIES


@pytest.fixture
def no_sockets(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)


def test_models_lists_every_checkpoint_with_its_licence_and_pairs_without_a_socket(no_sockets, capsys):
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name}: " in f"\n{out}" for name in released_models.MODELS)
    assert out.count("licence: ") == len(released_models.MODELS)
    assert "instant3d fetch zero123plus-v1.2 instantmesh-large\n  instant3d reconstruct photo.png --views-by" in out


def test_models_does_not_import_torch():
    code = "import sys; from instant3d.cli import main; main.main(['models']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_parameters_of_generators_are_those_of_the_released_names():
    for name, family in (("grm-instant3d", "grm-instant3d"), ("zero123plus-v1.2", "zero123plus")):
        count = sum(map(prod, GoldenGenerator(family).full_size.values()))
        assert released_models.MODELS[name].parameters == count


def test_parameters_of_reconstructors_are_those_of_their_families():
    known = {release.parameters for family in FAMILIES.values() for release in family.releases}
    listed = {m.parameters for m in released_models.MODELS.values() if m.family in FAMILIES}
    assert listed == known


def test_every_command_of_a_pair_is_parsed():
    for pair in released_models.pairs():
        for command in (pair.fetch, pair.command):
            cli.parser().parse_args(shlex.split(command)[1:])


@pytest.fixture
def hub(monkeypatch):
    """The Hub holds the small golden InstantMesh."""
    monkeypatch.setattr("instant3d.pipelines.convert.source.snapshot", lambda *_: Golden("instantmesh").folder)
    monkeypatch.setattr("instant3d.pipelines.convert.source._weights", lambda folder, _: folder / "weights.safetensors")


def test_fetch_says_the_licence_converts_and_keeps_the_hashes(hub, tmp_path, capsys):
    out = tmp_path / "weights"
    assert cli.main(["fetch", "instantmesh-large", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert "not for commercial use" in captured.err
    assert (out / "LICENSE-WEIGHTS.md").is_file()
    record = json.loads((out / "download.json").read_text())
    source = Golden("instantmesh").folder / "weights.safetensors"
    assert record["downloaded"] == {source.name: hashlib.sha256(source.read_bytes()).hexdigest()}
    file = out / "model.safetensors"
    assert record["converted"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    before = file.stat().st_mtime_ns
    assert cli.main(["fetch", "instantmesh-large", "-o", str(out)]) == 0
    assert "is there already" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"cut")
    assert cli.main(["fetch", "instantmesh-large", "-o", str(out)]) == 0
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record["converted"][file.name]
    assert cli.main(["fetch", "triposr", "-o", str(out)]) == 2
    assert "holds instantmesh-large, not triposr" in capsys.readouterr().err


def test_fetch_offline_opens_no_socket_and_says_what_to_do(no_sockets, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert cli.main(["fetch", "triposr", "--offline", "-o", str(tmp_path / "out")]) == 2
    assert "connect to the network once" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [(["nothing"], "choose among grm-instant3d"), (["triposr", "openlrm-small", "-o", "x"], "the folder of one model")],
)
def test_fetch_refuses_in_one_sentence(arguments, fault, capsys):
    assert cli.main(["fetch", *arguments]) == 2
    assert fault in capsys.readouterr().err
