"""What glibc is told: threads that come and go leave no heaps behind."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_THREADS = """
import ctypes, sys, threading
from common.allocator import return_freed_memory

if sys.argv[1] == "one":
    return_freed_memory()
all_here = threading.Barrier(8)

def allocate():
    kept = [bytes(3000) for _ in range(100)]
    all_here.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
glibc = ctypes.CDLL(None)
glibc.malloc_info(0, ctypes.c_void_p.in_dll(glibc, "stdout"))
glibc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is not glibc")
@pytest.mark.parametrize(("told", "one"), [("one", True), ("nothing", False)])
def test_threads_of_a_server_share_one_heap(told: str, one: bool) -> None:
    command = [sys.executable, "-c", _THREADS, told]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (said.count("<heap nr=") == 1) is one
