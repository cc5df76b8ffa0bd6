"""The allocator's settings do what they are for."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, statistics, sys
from jaxcomp.runtime.allocator import keep_freed_memory, one_arena
assert one_arena()  # as the commands do; else each thread of XLA keeps blocks of its own
import jax, jax.numpy as jnp
if sys.argv[1] == "keep":
    assert keep_freed_memory()
    assert keep_freed_memory()  # again
# Two products of which neither fits into the other: 48 MB that only live inside the call.
f = jax.jit(lambda x: jnp.sum(jnp.sin(x @ x.T) @ x))
x = jnp.ones((3464, 8))
faults = []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# The median: a call whose blocks came in another order may find no hole that is large enough.
print(statistics.median(faults) * resource.getpagesize())
"""


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


def output(program, how):
    return subprocess.run(
        [sys.executable, "-c", program, how], check=True, capture_output=True, text=True
    ).stdout


@glibc
def test_one_arena_serves_all_threads():
    assert output(ARENAS, "one").count("<heap ") == 1 < output(ARENAS, "many").count("<heap ")


def faulted_bytes(how):
    """Bytes page-faulted at the median call of a function with 48 MB of temporaries."""
    return float(output(PROGRAM, how))


@pytest.mark.slow
@glibc
def test_a_steps_temporaries_are_kept_between_calls():
    assert faulted_bytes("keep") < 8e6 < 40e6 < faulted_bytes("as it is")
