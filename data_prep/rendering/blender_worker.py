# The program that runs inside the renderer's Python: takes jobs on standard input, answers through a named pipe.
# `blenderproc run` wants BlenderProc's import on the first line, and takes its folder off the search path: hence twice.
import sys; sys.path += [p for p in sys.path if p.endswith("site-packages")]; import blenderproc as bproc  # noqa: E702, I001  # fmt: skip

import ctypes
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any, BinaryIO, NoReturn

FOLDER, HOST = sys.argv[1], int(sys.argv[2])
sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # last, so that no neighbour hides a library
if not hasattr(bproc, "init"):
    import blender_bridge

    blender_bridge.complete(bproc, FOLDER)

import blender_scene  # noqa: E402
import bpy  # noqa: E402
import numpy as np  # noqa: E402

PR_SET_PDEATHSIG = 1


def die_with_the_host() -> None:
    """Have this process killed as soon as the process that started it ends, for any reason, even during a render."""
    if sys.platform == "linux" and os.getppid() == HOST:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> NoReturn:
    """Poll for the host's end: for `blenderproc run`, whose own process is in between, and for other systems."""
    while True:
        try:
            os.kill(HOST, 0)
        except ProcessLookupError:
            os.killpg(0, signal.SIGKILL)
        time.sleep(1)


def prefer_for_oom_killer() -> None:
    """Let the kernel choose this process rather than its host."""
    if sys.platform == "linux":
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")


def rendered(job: dict[str, Any]) -> tuple[blender_scene.Bounds, list[np.ndarray]]:
    """Render a job: the bounds of its object, and the arrays of its views."""
    cameras = np.array(job["cameras"], dtype=np.float64).reshape(-1, 4, 4)
    intrinsics = np.array(job["intrinsics"], dtype=np.float64).reshape(-1, 4)
    blender_scene.reset_scene(bproc, job["device"])
    bounds = blender_scene.load(job["object"])
    blender_scene.light(bproc, job["lighting"], job["lights"])
    blender_scene.set_cameras(bproc, cameras, intrinsics, job["size"])
    arrays = [blender_scene.images(bproc, job["samples"], job["threads"], job["lighting"])]
    if job["maps"]:
        arrays += blender_scene.surfaces(bproc, job["maps"])
    return bounds, arrays


def answer(pipe: BinaryIO, header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Write an answer to the host's pipe: `header` as a line of JSON, then the bytes of `arrays` in their order."""
    pipe.write(json.dumps(header).encode() + b"\n")
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data)
    pipe.flush()


def serve() -> None:
    """Render the jobs that standard input names, one file of JSON a line, until it closes."""
    die_with_the_host()
    prefer_for_oom_killer()
    with open(os.path.join(FOLDER, "answers"), "wb") as pipe:
        answer(pipe, {"pid": os.getpid(), "blender": bpy.app.version_string})
        for line in sys.stdin:
            with open(line.strip()) as file:
                job = json.load(file)
            try:
                bounds, arrays = rendered(job)
            except ValueError as error:
                answer(pipe, {"failure": str(error)})
                continue
            sizes = [[array.dtype.name, list(array.shape)] for array in arrays]
            answer(pipe, {"bounds": bounds, "arrays": sizes}, arrays)


def exit_now(code: int) -> NoReturn:
    """End at once: some releases of bpy crash or hang when the interpreter takes itself down."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        serve()
    except BaseException:  # whatever it was, the parent reads the log's last words
        traceback.print_exc()
        exit_now(1)
    exit_now(0)
