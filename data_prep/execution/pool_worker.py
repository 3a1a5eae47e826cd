"""The program of a worker of `process_pool`: takes jobs from a pipe and sends their results.

Output of this process goes to a file, of which the parent reads the last lines if this process dies.
"""

from __future__ import annotations

import errno
import faulthandler
import importlib
import os
import signal
import sys
from multiprocessing.connection import Connection

from . import process_limits

Answer = tuple[object, str | None, str]  # the result, or why there is none and of which kind that is
FULL = {errno.ENOSPC, errno.EDQUOT}


def main() -> None:
    """Run the worker until its parent closes the pipe.

    The command line has sys.path, the pipe's file descriptor, the parent's process id, and the parent's main module if
    the work is defined there.
    """
    descriptor, parent, main_module = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    process_limits.die_with(parent)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if main_module:  # jobs and work of a `python -m` program are pickled under this name
        sys.modules["__main__"] = importlib.import_module(main_module)
    with Connection(descriptor) as pipe:
        _serve(pipe)


def _serve(pipe: Connection) -> None:
    try:
        work, prepare = pipe.recv()
        if prepare is not None:
            prepare()
    except (ValueError, OSError, ImportError) as error:
        pipe.send((None, _sentence(error), "start"))
        return
    pipe.send((None, None, ""))  # ready
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        os.truncate(sys.stderr.fileno(), 0)
        try:
            answer: Answer = (work(job), None, "")
        except (ValueError, OSError, MemoryError) as error:
            answer = (None, _sentence(error), _kind(error))
        pipe.send(answer)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _kind(error: BaseException) -> str:
    """One word; an exception may bring its own as `kind`."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in FULL:
        return "full"
    otherwise = (
        "timeout" if isinstance(error, TimeoutError) else "unreadable" if isinstance(error, OSError) else "broken"
    )
    return str(getattr(error, "kind", otherwise))
