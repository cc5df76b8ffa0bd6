"""The allocator's setting does what it is for: a step's temporaries are not faulted in anew."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
jax.config.update("jax_cpu_enable_async_dispatch", False)  # all in one thread, so in one arena
from jaxcomp.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
    assert keep_freed_memory()  # again
# Two products of which neither fits into the other: 48 MB that only live inside the call.
f = jax.jit(lambda x: jnp.sum(jnp.sin(x @ x.T) @ x))
x = jnp.ones((3464, 8))
for _ in range(3):
    f(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    f(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 4)
"""


def faulted_bytes(how):
    """Bytes page-faulted at each call of a function with 48 MB of temporaries."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True
    )
    return float(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_steps_temporaries_are_kept_between_calls():
    assert faulted_bytes("keep") < 8e6 < 40e6 < faulted_bytes("as it is")
