"""The Python client against a server with a quick worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from instant3d.client import Client, ServerError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def test_client_generates_reports_progress_and_saves(start_server, tmp_path):
    seen = []
    with Client(start_server()) as client:
        job = client.generate("a red chair", seed=7, on_progress=seen.append)
        assert job.save(tmp_path / "chair.glb").read_bytes().startswith(b"glTF")
        assert {"mesh.glb", "result.json"} <= set(job.files)
        assert job.fields["options"]["seed"] == 7
        assert (seen[-1]["state"], client.jobs()[0].id) == ("done", job.id)


def test_client_sends_images(start_server, tmp_path):
    (tmp_path / "front.png").write_bytes(PNG)
    with Client(start_server()) as client:
        job = client.reconstruct([tmp_path / "front.png"], faces=500)
    assert job.fields["options"]["faces"] == 500
    source = job.fields["result"]["source"]
    assert Path(source).read_bytes() == PNG


def test_client_raises_the_servers_sentence(start_server):
    with Client(start_server()) as client:
        with pytest.raises(ServerError, match="no surface"):
            client.generate("a bad thing")
        with pytest.raises(ServerError, match="steps: ") as refused:
            client.generate("a chair", steps=0)
    assert refused.value.status == 422


def test_client_sends_its_token(start_server):
    url = start_server(token="a-long-secret")
    with Client(url, "a-long-secret") as client:
        assert client.generate("a chair").state == "done"
    with Client(url, "another-secret") as intruder, pytest.raises(ServerError, match="token") as refused:
        intruder.generate("a chair")
    assert refused.value.status == 401


def test_client_without_a_server_is_one_sentence():
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerError, match="is `instant3d serve` running"):
        client.health()


def test_client_imports_neither_torch_nor_numpy():
    code = "import sys, instant3d.client; print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
