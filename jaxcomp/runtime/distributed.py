"""Several processes as one run, by JAX's distributed service, with detection of dead processes.

In a process that is alone everything here does nothing. Process 0 leads: it alone writes what is
not written shard by shard, and it alone prints (docs/how-to/run-several-processes.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata, util
from typing import Any, TypeVar

from jaxcomp.config import ConfigError
from jaxcomp.runtime.errors import chain

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAXCOMP_PROCESSES", "JAXCOMP_PROCESS"
START_S, HEARTBEAT_S = "JAXCOMP_START_TIMEOUT", "JAXCOMP_HEARTBEAT_TIMEOUT"
LOST = 1  # exit code
AGAIN = "start all processes again with the same command: it resumes"
_GRACE_S = 4.0  # in which a process may end by itself after another one has said that it ends
_LONG_MS = 7 * 24 * 3600 * 1000
T = TypeVar("T")

_count, _process = 1, 0
_client: Any = None  # of JAX's coordination service, which also holds small values by key
_calls = itertools.count()
_code: int | None = None  # with which this process is about to exit
_abort_handler: Any = None  # what C calls must stay alive


class StartError(RuntimeError):
    """The processes of a run did not come together."""


class Ended(RuntimeError):
    """Another process of this run failed, or a step that all do together."""


# --- starting -----------------------------------------------------------------------------------


def start(argv: Sequence[str] = (), *, config: str = "") -> None:
    """Join the other processes of this run, if there are any, before any use of JAX's devices.

    The command `argv` and the hash `config` of its config must be the same everywhere.
    Raises ConfigError for the environment, StartError where the processes are not alike.
    """
    global _count, _process, _client
    _, processes = found()
    if processes == 1 or _count > 1:
        return
    timeout, silence = _whole(START_S, 1, 300), _whole(HEARTBEAT_S, 5, 60)
    import jax
    from jax._src import distributed as service  # the client has no public name
    from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]

    _explain_abort()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", True)  # see preemption.py
    by_hand = COUNT in os.environ
    # JAX gives its service no time-out for the start, and so it would never name who is missing.
    make = _jax.get_distributed_runtime_service
    _jax.get_distributed_runtime_service = functools.partial(make, cluster_register_timeout=timeout)
    try:
        jax.distributed.initialize(
            num_processes=processes if by_hand else None,
            process_id=_whole(INDEX, 0) if by_hand else None,
            cluster_detection_method="deactivate" if by_hand else None,
            initialization_timeout=timeout + 10,
            heartbeat_timeout_seconds=silence,
            shutdown_timeout_seconds=60,
        )
    except RuntimeError as error:
        raise StartError(f"JAX could not bring the processes together ({error})") from error
    finally:
        _jax.get_distributed_runtime_service = make
    _client, _process, _count = service.global_state.client, jax.process_index(), processes
    threading.Thread(target=_end_with_others, daemon=True).start()
    _compare(argv, config)


def found() -> tuple[str, int]:
    """What says how many processes this run has, and the number; ("", 1) where it is alone.

    That is the three variables, a SLURM step of several tasks, or a Cloud TPU slice of several
    hosts. Raises ConfigError for values that cannot be, or of which some are missing.
    """
    given = {name: os.environ.get(name, "") for name in (ADDRESS, COUNT, INDEX)}
    if given[ADDRESS]:
        _, colon, port = given[ADDRESS].rpartition(":")
        if not (colon and port.isdigit() and 0 < int(port) < 65536):  # JAX dies of it
            raise ConfigError(
                f"{ADDRESS}={given[ADDRESS]}: expected host:port, as in 10.0.0.2:8476"
            )
    if not (given[COUNT] or given[INDEX]):
        cluster = _of_cluster()
        if cluster[1] > 1 or not given[ADDRESS]:
            return cluster
    if given[COUNT] == "1":
        return "", 1
    absent = [name for name, value in given.items() if not value]
    if absent:
        there = ", ".join(f"{name}={value}" for name, value in given.items() if value)
        raise ConfigError(
            f"{there} without {' and '.join(absent)}: a run of several processes needs {ADDRESS} "
            f"(host:port of process 0), {COUNT} and {INDEX}; set all of them or none"
        )
    count = _whole(COUNT, 1)
    if _whole(INDEX, 0) >= count:
        raise ConfigError(
            f"{INDEX}={given[INDEX]}: expected 0 to {count - 1}, since {COUNT}={count}"
        )
    return COUNT, count


def _of_cluster() -> tuple[str, int]:
    """As JAX detects it. Looks first whether there can be one, for to import JAX takes a second."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    tpu = util.find_spec("libtpu") is not None and (not asked or "tpu" in asked.split(","))
    if not (tpu or "SLURM_STEP_NODELIST" in os.environ):
        return "", 1
    from jax._src.clusters import ClusterEnv

    kinds = [k for k in ClusterEnv._cluster_types if not k.opt_in_only_method]
    kind = next((k for k in kinds if k.is_env_present()), None)
    return ("", 1) if kind is None else (kind.__name__, kind.get_process_count())


def _whole(name: str, least: int, default: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdigit() or int(text) < least:
        raise ConfigError(f"{name}={text}: expected a whole number of at least {least}")
    return int(text)


def refuse_several(command: str) -> None:
    """Raises ConfigError where this process is one of several."""
    where, processes = found()
    if processes > 1:
        raise ConfigError(
            f"jaxcomp {command} runs in one process, but {where} says that this is one of "
            f"{processes}; run it on one machine that is no part of a cluster"
        )


def _compare(argv: Sequence[str], config: str) -> None:
    """Raises StartError, on every process, where not all were started alike."""
    import numpy as np
    from jax.experimental import multihost_utils

    version = metadata.version("jaxcomp")
    command = shlex.join(["jaxcomp", *argv])
    own = hashlib.sha256(json.dumps([command, config, version]).encode()).digest()
    every = multihost_utils.process_allgather(np.frombuffer(own, np.uint8))
    others = [str(i) for i, digest in enumerate(every) if (digest != every[0]).any()]
    if others:
        raise StartError(
            f"process {', '.join(others)} was started otherwise than process 0. This one, process "
            f"{_process} ({socket.gethostname()}), has jaxcomp {version}, the command `{command}` "
            f"and the config {config}; all processes need the same"
        )


# --- together -----------------------------------------------------------------------------------


def is_lead() -> bool:
    """Is this process 0, or alone?"""
    return _process == 0


def count() -> int:
    """Processes of this run."""
    return _count


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if _count > 1:
        _client.wait_at_barrier(f"jaxcomp/{name}/{next(_calls)}", _LONG_MS)


def by_lead(do: Callable[[], T]) -> T:
    """Process 0 does it; the others wait, and get what it returned (a JSON value). Its error is
    raised there, and as Ended everywhere else. Not a collective, since those do not wait long."""
    if _count == 1:
        return do()
    key = f"jaxcomp/lead/{next(_calls)}"
    if _process:
        error, value = json.loads(_client.blocking_key_value_get(key, _LONG_MS))
        if error is not None:
            raise Ended(f"process 0 ended: {' '.join(error.split())}")
        return value
    try:
        value = do()
    except Exception as error:
        _client.key_value_set(key, json.dumps([f"{type(error).__name__}: {error}", None]))
        raise
    _client.key_value_set(key, json.dumps([None, value]))
    return value


# --- ending -------------------------------------------------------------------------------------


def finish() -> None:
    """The orderly end: every process leaves when all have come here."""
    global _count, _process
    if _count > 1:
        import jax

        _client.key_value_set(_ended_key(_process), "")
        jax.distributed.shutdown()
        _count, _process = 1, 0


def leave(code: int, why: str) -> None:
    """End this process for `why`, and the others too; returns if it is alone. JAX's own exits would
    wait for minutes for processes that never come."""
    if _count == 1:
        return
    for other in range(_count):
        with contextlib.suppress(RuntimeError):  # it was told already
            _client.key_value_set(_ended_key(other), f"process {_process} ended: {why}")
    _leave_together(code)


def _leave_together(code: int) -> None:
    """Ends this process, after the others have said why they end if they come here soon."""
    global _code
    import jax

    _code = code
    waiting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    waiting.start()
    waiting.join(2 * _GRACE_S)
    _exit(code)


def _ended_key(process: int) -> str:
    return f"jaxcomp/ended/{process}"


def _end_with_others() -> None:
    """Ends this process when another one has left: a collective with it would never return."""
    try:
        why = _client.blocking_key_value_get(_ended_key(_process), _LONG_MS)
    except RuntimeError:  # the service is gone: JAX ends this process
        return
    time.sleep(_GRACE_S)
    if why and _code is None:
        _say_lost(why)
        _leave_together(LOST)


def wait_if_lost(error: BaseException) -> None:
    """Where `error` only follows from the end of another process: wait until JAX's service misses
    the other's heartbeats, gives its number and ends this one."""
    names = ("JaxRuntimeError", "XlaRuntimeError")
    collective = any(type(e).__name__ in names or "Gloo" in str(e) for e in chain(error))
    if _count > 1 and (collective or _code is not None):
        time.sleep(_whole(HEARTBEAT_S, 5, 60) + 3 * _GRACE_S)


def _explain_abort() -> None:
    """Where JAX aborts since another process is missing or dead, after lines that give its number:
    end with one more line and an exit code instead of a core dump."""
    global _abort_handler

    def aborted(_: int) -> None:
        if _code is None:
            _say_lost(_who())
        _exit(_code or LOST)

    # Python's own handlers run in the main thread, which may never wake again.
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    ctypes.CDLL(None).signal(signal.SIGABRT.value, _abort_handler)


def _who() -> str:
    from jax._src import distributed as service

    address = service.global_state.coordinator_address or ":0"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError:
        return f"process 0 ({address}) died, did not start or cannot be reached"
    return (
        "another process died or did not start; the lines above give its number as that of a task"
    )


def _say_lost(why: str) -> None:
    print(f"jaxcomp: error: {why}; {AGAIN}", file=sys.stderr, flush=True)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
