"""Files behind http:// on this machine: what was asked for is counted, and a transfer can be made to hang."""

import threading
from collections import Counter
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """What was asked for by name; `stall` is a name whose transfers stop in the middle, `busy` how many are refused."""

    def __init__(self):
        self.url, self.asked, self.stall, self.busy = "", Counter(), None, 0
        self.stalled, self.go_on = threading.Event(), threading.Event()


@contextmanager
def served(folder):
    """Serve a folder for the length of a block."""
    told = Served()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            """Nothing is printed."""

        def do_GET(self):
            told.asked[self.path.rpartition("/")[2]] += 1
            if told.busy and self.path.endswith(".tar"):
                told.busy -= 1
                self.send_error(503)
                return
            super().do_GET()

        def copyfile(self, source, outputfile):
            data = source.read()
            if told.stall and self.path.endswith(told.stall):
                outputfile.write(data[: len(data) // 2])
                outputfile.flush()
                told.stalled.set()
                told.go_on.wait(60)
                return
            outputfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield told
    finally:
        told.go_on.set()
        server.shutdown()
        server.server_close()
