"""Several processes as one run: finding the others, starting together, ending together.

`start` joins a cluster if there is one; everything else here does nothing, and costs nothing, in a
process that is alone. Process 0 leads: it alone writes what is not written shard by shard, and it
alone prints. How to start such a run, and what it guarantees: docs/distributed.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, TypeVar

from jaxcomp.config import ConfigError
from jaxcomp.runtime.channel import Channel, Hello, Line, Lost, call_in, gather_all
from jaxcomp.runtime.cluster import Cluster, find_cluster, heartbeat_timeout, start_timeout
from jaxcomp.runtime.errors import chain

CLOCKS_APART_S = 60.0  # claims and logs of several hosts are read side by side
_GRACE_S = 5.0  # in which a process may end by itself after another one was lost
LOST = 1  # exit code
AGAIN = "start all processes again with the same command: it resumes"
T = TypeVar("T")


_cluster: Cluster | None = None
_channel: Channel | None = None
_abort_handler: Any = None  # what C calls must stay alive
_said = threading.Lock()
when_stopped: list[Callable[[], None]] = []  # what every process does when one was told to stop


# --- starting -----------------------------------------------------------------------------------


def start(argv: Sequence[str] = (), *, config: str = "", cluster: Cluster | None = None) -> None:
    """Joins this process's cluster (default: `find_cluster`), before any use of JAX's devices.

    Args:
        argv: the command, which must be the same everywhere.
        config: a hash of what it was read to mean.

    Raises, on every process that has come and within JAXCOMP_START_TIMEOUT:
        ConfigError: a variable of the environment cannot be.
        StartError: who is missing, or whose command, config, versions or clock differ.
    """
    global _cluster, _channel
    cluster = cluster or find_cluster()
    if cluster is None or _channel is not None:
        return
    timeout, silence = start_timeout(), heartbeat_timeout()
    host, _, port = cluster.address.rpartition(":")
    hello = _hello(cluster, argv, config)
    lines: dict[int, Line]
    if cluster.process == 0:
        lines, hellos = gather_all(int(port), hello, cluster.names, timeout, differs)
    else:
        line, hellos = call_in(cluster.address, hello, timeout)
        lines = {0: line}
    _join_jax(cluster, f"{host}:{hellos[0]['jax_port']}", timeout, silence)
    _cluster = cluster
    _channel = Channel(cluster.process, [h["host"] for h in hellos], lines, silence)
    _channel.on_lost = _end_if_stuck
    _channel.on_stop = lambda: [do() for do in when_stopped]
    _channel.open()
    _explain_abort()


def refuse_several(command: str) -> None:
    """Raises ConfigError where this process is one of several."""
    cluster = find_cluster()
    if cluster is not None:
        raise ConfigError(
            f"jaxcomp {command} runs in one process, but {cluster.how} says that this is one of "
            f"{cluster.processes}; run it on one machine that is no part of a cluster"
        )


def _hello(cluster: Cluster, argv: Sequence[str], config: str) -> Hello:
    with socket.create_server(("", 0)) as free:
        jax_port = free.getsockname()[1]
    return {
        "process": cluster.process,
        "processes": cluster.processes,
        "host": socket.gethostname(),
        "jax_port": jax_port,
        "command": shlex.join(["jaxcomp", *argv]),
        "config": config,
        "versions": _versions(),
        "time": time.time(),
    }


def _versions() -> dict[str, str]:
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("jax", "jaxlib", "libtpu", "jaxcomp"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def differs(mine: Hello, theirs: Hello) -> str | None:
    """What of another process's greeting, just come, does not fit that of process 0."""
    us = f"process 0 ({mine['host']})"
    them = f"process {theirs['process']} ({theirs['host']})"
    for name, value in mine["versions"].items():
        other = theirs["versions"].get(name)
        if other != value:
            return (
                f"{them} has {name} {other}, {us} {value}; install the same version on every host"
            )
    if theirs["command"] != mine["command"]:
        return (
            f"{them} was started with `{theirs['command']}`, {us} with `{mine['command']}`; start "
            "every process with the same command"
        )
    if theirs["config"] != mine["config"]:
        return (
            f"{them} reads the config as {theirs['config']}, {us} as {mine['config']}; the config "
            "file must be the same on every host"
        )
    apart = theirs["time"] - time.time()
    if abs(apart) > CLOCKS_APART_S:
        late = "ahead of" if apart > 0 else "behind"
        return (
            f"the clock of {them} is {abs(apart):.0f} s {late} that of {us}; set the clocks by NTP "
            f"(at most {CLOCKS_APART_S:.0f} s apart)"
        )
    return None


def _join_jax(cluster: Cluster, address: str, timeout: int, silence: int) -> None:
    import jax

    # A handler of its own for SIGTERM would take the place of ours (stopping.py).
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address,
        cluster.processes,
        cluster.process,
        local_device_ids=cluster.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=silence,
        shutdown_timeout_seconds=30,
    )


# --- together -----------------------------------------------------------------------------------


def is_lead() -> bool:
    """Is this process 0, or alone?"""
    return _channel is None or _channel.process == 0


def count() -> int:
    """Processes of this run."""
    return 1 if _channel is None else len(_channel.hosts)


def channel() -> Channel | None:
    """The lines to the other processes; None where there are none."""
    return _channel


def barrier(name: str) -> None:
    """Waits until every process is here. Raises Lost."""
    if _channel is not None:
        _channel.gather(name)


def gather(name: str, value: Any = None, timeout: float | None = None) -> list[Any]:
    """The JSON `value` of every process, by its index. Raises Lost, also after `timeout` s."""
    return [value] if _channel is None else _channel.gather(name, value, timeout)


def by_lead(do: Callable[[], T]) -> T:
    """Process 0 does it; the others wait, and get what it returned (a JSON value).

    An error of process 0 is raised there, and as Lost everywhere else.
    """
    if _channel is None:
        return do()
    if not is_lead():
        error, value = _channel.gather("lead")[0]
        if error is not None:
            raise Lost(f"process 0 ({_channel.hosts[0]}) ended: {error}")
        return value
    try:
        value = do()
    except BaseException as error:
        with contextlib.suppress(Lost):
            _channel.gather("lead", [_words(error), None], _GRACE_S)
        raise
    _channel.gather("lead", [None, value])
    return value


# --- ending -------------------------------------------------------------------------------------


def finish() -> None:
    """The orderly end: every process leaves when all have come here."""
    global _channel
    if _channel is None:
        return
    import jax

    _channel.close()
    _channel = None
    with contextlib.suppress(RuntimeError):  # whoever died after its work was done harms nobody
        jax.distributed.shutdown()


def leave(code: int, why: str) -> None:
    """Ends this process for `why`, and tells the others, who end too; returns if it is alone.

    Without the exits of JAX, which would wait for processes that never come.
    """
    if _channel is None:
        return
    with contextlib.suppress(ValueError):  # it is the main thread that gets signals
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _channel.fail(why)
    time.sleep(0.2)  # an end at once could cut off what was just sent
    _exit(code)


def lost_because_of(error: BaseException, wait_s: float = _GRACE_S) -> str | None:
    """Whose end another error is only a consequence of, in words; None where it is no such one."""
    if _channel is None:
        return None
    if isinstance(error, Lost):
        return str(error)
    if not _is_of_collective(error):
        return None
    end = time.monotonic() + wait_s
    while _channel.lost is None and time.monotonic() < end:
        time.sleep(0.05)
    return _channel.lost


def _is_of_collective(error: BaseException) -> bool:
    jax_errors = ("JaxRuntimeError", "XlaRuntimeError")
    return any(type(e).__name__ in jax_errors or "Gloo" in str(e) for e in chain(error))


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _end_if_stuck() -> None:
    """Called when another process is lost: a collective with it never returns."""

    def end() -> None:
        time.sleep(_GRACE_S)
        if _channel is not None and _channel.lost is not None:
            say_lost(_channel.lost)
            _exit(LOST)

    threading.Thread(target=end, daemon=True).start()


def say_lost(why: str) -> None:
    """The one line of a process that ends because another one did, whoever finds out first."""
    if _said.acquire(blocking=False):
        print(f"jaxcomp: error: {why}; {AGAIN}", file=sys.stderr, flush=True)
    else:
        time.sleep(0.2)  # in which the other thread has said it


def _explain_abort() -> None:
    """JAX aborts a process whose coordinator is gone. The channel knows who that is: say it, and
    end with an exit code instead of a core dump."""
    global _abort_handler

    def aborted(_: int) -> None:
        end = time.monotonic() + 2.0
        while _channel is not None and _channel.lost is None and time.monotonic() < end:
            time.sleep(0.02)
        if _channel is not None and _channel.lost is not None:
            say_lost(_channel.lost)
            _exit(LOST)

    # Python's own handlers run in the main thread, which may never wake again.
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    ctypes.CDLL(None).signal(signal.SIGABRT.value, _abort_handler)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
