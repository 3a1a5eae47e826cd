"""Work that goes well or badly on request, importable by a new process."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ATE = 700_000_000


class Distaste(ValueError):
    kind = "taste"


def work(job: str) -> object:
    word, _, rest = job.partition(" ")
    if word == "hang":
        time.sleep(60)
    if word == "crash":
        os._exit(7)
    if word == "abort":
        os.abort()
    if word == "stumble":
        raise KeyError("shoe")
    if word == "refuse":
        raise Distaste("it is not to my taste")
    if word == "eat":
        return len(bytearray(os.urandom(1000)) * (ATE // 1000)) + time.sleep(60)
    if word == "fill":
        raise OSError(errno.ENOSPC, "No space left on device")
    if word == "nurse":  # hangs while a process of its own lives in another session; its number goes to a file
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        Path(rest).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(60)
    if word == "usurp":  # takes its guard down, and itself with it
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if word == "who":
        return os.getpid()
    if word == "where":
        return tempfile.gettempdir()
    return job.upper() + os.environ.get("ODD_JOBS_MARK", "")


def prepare() -> None:
    os.environ["ODD_JOBS_MARK"] = "!"


def unprepared() -> None:
    raise ValueError("there is no ladder")


def stillborn() -> None:
    os._exit(3)
