"""Compile one setup for one slice, in a process of its own.

JAX and libtpu are imported inside the functions: the parent needs neither, and the environment
must be set before.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import time
from typing import Any, NamedTuple

from jaxcomp.config import Config, ConfigError, MeshConfig
from jaxcomp.runtime.plugins import load_plugins
from jaxcomp.sweep.plan.hlo import Collective, collectives
from jaxcomp.sweep.plan.layouts import Layout
from jaxcomp.sweep.plan.timing import Timing, step_time
from jaxcomp.sweep.plan.topology import Slice, slice_of

# The compiler asks nobody which machine this is.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nobody takes a TPU from another here
}
VERSIONS = ("jaxcomp", "jax", "jaxlib", "libtpu", "flax", "optax")


class Program(NamedTuple):
    """What the compiler says of one program. Bytes a chip; seconds of compiling."""

    arguments: int
    temporaries: int
    results: int  # that take no argument's place
    code: int
    seconds: float
    collectives: list[Collective]
    timing: Timing = Timing([], [])  # of the train step

    @property
    def used(self) -> int:
        return self.arguments + self.temporaries + self.results + self.code


class Outcome(NamedTuple):
    """`failure`: why the compiler refused the first program that it refused."""

    programs: dict[str, Program]
    failure: str


def require() -> None:
    """Raises ConfigError where the TPU compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "libtpu is not installed: run it with the extra `tpu`, as in "
            "`uv run --extra tpu jaxcomp plan ...` (no TPU is needed)"
        )


def versions() -> dict[str, str]:
    """Of the packages that decide what is compiled, those that are installed."""
    there = (name for name in VERSIONS if importlib.util.find_spec(name))
    return {name: importlib.metadata.version(name) for name in there}


def prepare() -> None:
    """Makes this process one that compiles ahead of time; call it before JAX is imported."""
    os.environ.update(ENVIRONMENT)


def compile_all(cfg: Config, topology: str, layout: Layout, only_train: bool) -> Outcome:
    """The train step and, if that fits, compressing, prefill and decoding.

    Rebuilding is compiled for `eval.batch` texts, rounded up to what the mesh divides.
    """
    from jax.experimental import topologies

    from jaxcomp.runtime.sharding import make_mesh, whole_batch
    from jaxcomp.sweep.plan import programs

    run = layout.applied(load_plugins(cfg))
    # libtpu takes four chips a host as given, which a slice of one has not.
    alone = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
    found_at = topologies.get_topology_desc(platform="tpu", topology_name=topology, **alone)
    devices = found_at.devices
    mesh = make_mesh(MeshConfig(*layout.mesh), devices)
    pair = programs.abstract_pair(run, mesh)
    found: dict[str, Program] = {}

    try:
        step = programs.train_program(run, mesh, pair)
        found["train"] = _compile(step, timed=slice_of(topology))
        if not only_train:
            rows = whole_batch(run.eval.batch, mesh)
            reading, memory = programs.compress_program(run, mesh, pair, rows)
            found["compress"] = _compile(reading)
            for name, traced in programs.decoder_programs(run, mesh, pair, memory).items():
                found[name] = _compile(traced)
    except Exception as error:  # the compiler's refusals are of no class of their own
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Outcome(found, reason(str(error)))
    return Outcome(found, "")


def _compile(traced: Any, timed: Slice | None = None) -> Program:
    start = time.perf_counter()
    executable = traced.lower(lowering_platforms=("tpu",)).compile()
    seconds = time.perf_counter() - start
    memory, text = executable.memory_analysis(), executable.as_text()
    return Program(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        seconds=round(seconds, 1),
        collectives=collectives(text),
        timing=step_time(text, timed) if timed else Timing([], []),
    )


def reason(message: str) -> str:
    """The compiler's own sentence on what did not fit."""
    found = re.search(r"Ran out of memory in memory space (\w+).*?(?:Used .*? of .*?)\.\s", message)
    found = found or re.search(r"(?:Used|Attempting to).*?(?:\.\s|\n)", message)
    return " ".join((found.group(0) if found else message.splitlines()[0]).split())
