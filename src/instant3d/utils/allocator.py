"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # names of settings in malloc.h
MOST = 2**30  # bytes


def keep_freed_memory() -> bool:
    """Keep freed memory for later allocations of this process, in place of returning it to the system.

    A training step on a CPU allocates and frees the same large tensors again and again. By default glibc returns most
    of them to the system, which clears every page again at the next step. Kept, they take a little more memory.

    Returns:
        Whether the C library has these settings: glibc does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none; Windows has no library of this name
        return False
    settings = {MMAP_THRESHOLD: MOST, TRIM_THRESHOLD: MOST, TOP_PAD: MOST // 4}
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)
