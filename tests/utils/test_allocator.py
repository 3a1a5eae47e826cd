"""The C library's allocator: faults of pages that the kernel has to clear are counted."""

import platform
import subprocess
import sys

import pytest

from instant3d.utils.allocator import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from instant3d.utils.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
for k in range(30):
    if k == 10:  # the heap has its size by then
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    some = [torch.ones(2**24) for _ in range(3)]  # 64 MiB each
    del some
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the settings")
def test_freed_memory_is_used_again_without_page_faults():
    kept, returned = faults("kept"), faults("returned")
    assert returned > 1000
    assert kept < returned / 10


def test_a_library_without_the_settings_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
