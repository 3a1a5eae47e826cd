"""Memory of a process with its children, and ending them together.

This uses Linux's /proc; without it, memory is not limited and children of a killed process are not ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class JobLimits:
    """Limits of one job, above which it is given up.

    Attributes:
        timeout_s: Seconds.
        max_resident: Resident bytes of its process and of the children of that; None for no limit.
    """

    timeout_s: float
    max_resident: int | None = None


def family(process: int) -> list[int]:
    """The process and all its descendants, also in other sessions, parents first."""
    found = [process]
    for member in found:
        for thread in PROC.glob(f"{member}/task/*/children"):
            with contextlib.suppress(OSError):  # it ended in the meantime
                found += map(int, thread.read_text().split())
    return found


def resident_bytes(process: int) -> int:
    """Resident memory of a process and its descendants, bytes; shared memory counts for each."""
    return sum(_resident(member) for member in family(process))


def _resident(process: int) -> int:
    try:
        return int((PROC / str(process) / "statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def end(process: int) -> None:
    """Kill a process with all its descendants."""
    for member in family(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Have this process killed as soon as its parent ends, for any reason."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before we asked
        os.kill(os.getpid(), signal.SIGKILL)
