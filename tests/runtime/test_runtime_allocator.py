"""One heap serves all threads: else each of XLA's keeps blocks of its own."""

import platform
import subprocess
import sys

import pytest

ARENAS = """
import ctypes, sys, threading
from jaxcomp.runtime.allocator import one_arena
if sys.argv[1] == "one":
    assert one_arena()
together = threading.Barrier(4)
def hold():
    together.wait()
    kept = bytearray(4096)
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
assert libc.malloc_info(0, out) == 0 and libc.fflush(out) == 0
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def heaps(how):
    command = [sys.executable, "-c", ARENAS, how]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@glibc
def test_one_arena_serves_all_threads():
    assert heaps("one").count("<heap ") == 1 < heaps("many").count("<heap ")
