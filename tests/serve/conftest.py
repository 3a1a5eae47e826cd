"""A server in a thread of its own, on a free port of the loopback address, with the quick worker."""

import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from instant3d.serve.app import create_app
from instant3d.serve.settings import ServeSettings

QUICK = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


@pytest.fixture
def start_server(tmp_path):
    """Starts a server with some settings; returns its address."""
    running = []

    def start(**settings) -> str:
        app = create_app(ServeSettings(tmp_path / "data", worker=QUICK, **settings))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
