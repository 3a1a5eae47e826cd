"""A small Objaverse behind HTTP, laid out as the `objaverse` package asks for it, with answers that go wrong."""

import gzip
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from instant3d.mesh import Mesh

ONE = "/datasets/allenai/objaverse/resolve/main"
XL = "/datasets/allenai/objaverse-xl/resolve/main"


def glb(path, shade):
    """The bytes of a GLB file: a tetrahedron in a grey of its own."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    Mesh(corners, [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], base_color=(shade, shade, shade, 1)).save(path)
    return path.read_bytes()


def uid(number):
    return f"{number:032x}"


class Dataset:
    """What is served, by path; which paths misbehave, and how; and how often each was asked for."""

    def __init__(self):
        self.files = {}
        self.busy = Counter()  # so many answers with 503 before the file
        self.cut = set()  # closes the connection in the middle of the file
        self.short = set()  # claims that half of the file is all of it
        self.held = {}  # waits for an event
        self.asked = Counter()

    def objaverse(self, objects, lvis):
        """objects: uid -> (GLB bytes, metadata); two in a shard, in their order."""
        paths, shards = {}, {}
        for number, (name, (content, note)) in enumerate(objects.items()):
            shard = f"000-{number // 2:03d}"
            paths[name] = f"glbs/{shard}/{name}.glb"
            shards.setdefault(shard, {})[name] = note
            self.files[f"{ONE}/{paths[name]}"] = content
        self.files[f"{ONE}/object-paths.json.gz"] = _packed(paths)
        self.files[f"{ONE}/lvis-annotations.json.gz"] = _packed(lvis)
        for shard, notes in shards.items():
            self.files[f"{ONE}/metadata/{shard}.json.gz"] = _packed(notes)

    def object_path(self, name):
        return next(path for path in self.files if path.endswith(f"{name}.glb"))

    def objects_asked(self):
        return {
            path.rsplit("/", 1)[1].removesuffix(".glb"): n for path, n in self.asked.items() if path.endswith(".glb")
        }


def _packed(content):
    return gzip.compress(json.dumps(content).encode())


@contextmanager
def served(dataset):
    """The address of a server of this data set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            dataset.asked[self.path] += 1
            if self.path in dataset.held:
                dataset.held[self.path].wait(30)
            if dataset.busy[self.path] > 0:
                dataset.busy[self.path] -= 1
                return self.send_error(503)
            content = dataset.files.get(self.path)
            if content is None:
                return self.send_error(404)
            half = content[: len(content) // 2]
            self.send_response(200)
            self.send_header("Content-Length", str(len(half if self.path in dataset.short else content)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked may be dead by now
                self.wfile.write(half if self.path in dataset.short | dataset.cut else content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen within {seconds} s"
        time.sleep(0.02)
