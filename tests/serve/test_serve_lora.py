"""`instant3d serve --lora`: from the command line to the weights of a worker."""

import hashlib
import subprocess
import sys

import pytest
from sphere_network import sphere_network
from tiny_lora import lora_file
from tiny_sdxl import tiny_sdxl_folder

from instant3d.cli import main as cli
from instant3d.serve.worker import make_generator


def test_serve_gives_workers_loras_by_absolute_paths(tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr("instant3d.serve.server.serve", lambda settings, ray: served.append(settings) or 0)
    monkeypatch.chdir(tmp_path)
    lora_file(tmp_path / "a.safetensors", 1.0)
    assert cli.main(["serve", "--lora", "a.safetensors:0.5", "--lora", "owner/name"]) == 0
    assert served[0].worker_options()["lora"] == [f"{tmp_path}/a.safetensors:0.5", "owner/name:1.0"]


def test_worker_samples_with_the_loras_of_its_options(tmp_path):
    file = lora_file(tmp_path / "a.safetensors", 1.0)
    tiny_sdxl_folder(tmp_path / "stage1")
    sphere_network().save_pretrained(tmp_path / "stage2")
    options = {"stage1": str(tmp_path / "stage1"), "stage2": str(tmp_path / "stage2"), "device": "cpu", "batch": 1}
    weights = make_generator({**options, "lora": [f"{file}:0.5"]}).weights
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights["lora1"] == {"name": str(file), "sha256": {"a.safetensors": digest}, "weight": 0.5}
    assert "lora1" not in make_generator(options).weights


def test_serve_refuses_a_lora_for_the_direct_system(capsys):
    assert cli.main(["serve", "--system", "direct", "--lora", "a.safetensors"]) == 2
    assert "belongs to the two-stage system" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["a.safetensors:inf", "a.safetensors:nan"])
def test_serve_refuses_a_lora_without_a_finite_weight(value, capsys):
    assert cli.main(["serve", "--lora", value]) == 2
    assert "must be a finite number" in capsys.readouterr().err


def test_server_itself_does_not_import_torch(tmp_path):
    code = "\n".join(
        [
            "import sys",
            "from instant3d.cli import main",
            "from instant3d.serve import app, server",
            "server.serve = lambda *_: 0",
            f"main.main(['serve', '--data', {str(tmp_path)!r}])",
            "print('torch' in sys.modules)",
        ]
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
