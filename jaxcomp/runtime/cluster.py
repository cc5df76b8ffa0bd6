"""Which processes this one belongs with: read from the environment, before anything is started."""

from __future__ import annotations

import os
from importlib import util
from typing import NamedTuple

from jaxcomp.config import ConfigError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAXCOMP_PROCESSES", "JAXCOMP_PROCESS"
START_S, HEARTBEAT_S = "JAXCOMP_START_TIMEOUT", "JAXCOMP_HEARTBEAT_TIMEOUT"


class Cluster(NamedTuple):
    """The processes of this run as the environment describes them."""

    how: str  # where that was read
    address: str  # host:port at which process 0 answers
    processes: int
    process: int  # this one
    names: tuple[str, ...]  # a host each, "" where it is not known
    local_devices: tuple[int, ...] | None = None  # of this host, ours alone; None: all of them


def find_cluster() -> Cluster | None:
    """The cluster this process belongs to; None where it is alone.

    By environment variables (JAX_COORDINATOR_ADDRESS, JAXCOMP_PROCESSES, JAXCOMP_PROCESS), a SLURM
    step of several tasks, or a Cloud TPU slice of several hosts. Raises ConfigError for values that
    cannot be, or that say only half.
    """
    given = {name: os.environ.get(name, "") for name in (ADDRESS, COUNT, INDEX)}
    found = None
    if not (given[COUNT] or given[INDEX]):
        found = _slurm() or _cloud_tpu()
        if found is None and not given[ADDRESS]:
            return None
        if found is not None:
            return found._replace(address=_address(given[ADDRESS])) if given[ADDRESS] else found
    absent = [name for name, value in given.items() if not value]
    if given[COUNT] == "1" and absent in ([], [ADDRESS], [INDEX], [ADDRESS, INDEX]):
        return None
    if absent:
        there = ", ".join(f"{name}={value}" for name, value in given.items() if value)
        raise ConfigError(
            f"{there} without {' and '.join(absent)}: a run of several processes needs {ADDRESS} "
            f"(host:port of process 0), {COUNT} and {INDEX}; set all of them or none"
        )
    count, index = _whole(COUNT, at_least=1), _whole(INDEX, at_least=0)
    if index >= count:
        raise ConfigError(f"{INDEX}={index}: expected 0 to {count - 1}, since {COUNT}={count}")
    return Cluster(ADDRESS, _address(given[ADDRESS]), count, index, ("",) * count)


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    # JAX dies of a port that is none.
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError(f"{ADDRESS}={text}: expected host:port, as in 10.0.0.2:8476")
    return text


def _whole(name: str, *, at_least: int, default: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdigit() or int(text) < at_least:
        raise ConfigError(f"{name}={text}: expected a whole number of at least {at_least}")
    return int(text)


def _slurm() -> Cluster | None:
    """Inside `srun` with several tasks."""
    env = os.environ
    if "SLURM_STEP_NODELIST" not in env or int(env.get("SLURM_NTASKS", "1")) < 2:
        return None
    from jax._src.clusters.slurm_cluster import SlurmCluster

    if not SlurmCluster.is_env_present():
        return None
    count = SlurmCluster.get_process_count()
    # One task a node has all of its devices; several share them, one each, as JAX does it.
    alone = env.get("SLURM_STEP_NUM_NODES") == str(count)
    local = None if alone else (int(env["SLURM_LOCALID"]),)
    address = SlurmCluster.get_coordinator_address(None, env.get("JAX_COORDINATOR_PORT"))
    return Cluster("SLURM", address, count, SlurmCluster.get_process_id(), ("",) * count, local)


def _cloud_tpu() -> Cluster | None:
    """On a host of a Cloud TPU slice, where JAX is to use it."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if util.find_spec("libtpu") is None or (asked and "tpu" not in asked.split(",")):
        return None
    from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster, GkeTpuCluster

    kind = next((k for k in (GkeTpuCluster, GceTpuCluster) if k.is_env_present()), None)
    if kind is None or kind.get_process_count() < 2:
        return None
    count, timeout = kind.get_process_count(), start_timeout()
    try:
        address = kind.get_coordinator_address(timeout, os.environ.get("JAX_COORDINATOR_PORT"))
    except RuntimeError as error:
        raise ConfigError(
            f"the first host of this TPU slice has no address after {timeout} s ({error}); look "
            "whether it is up"
        ) from error
    names = kind._get_worker_list_in_slice()
    known = tuple(names) if len(names) == count else ("",) * count
    return Cluster("Cloud TPU", address, count, kind.get_process_id(), known)


def start_timeout() -> int:
    """Seconds that a process waits for the others. Raises ConfigError."""
    return _whole(START_S, at_least=1, default=300)


def heartbeat_timeout() -> int:
    """Seconds after which a silent machine counts as dead. Raises ConfigError."""
    return _whole(HEARTBEAT_S, at_least=5, default=60)
