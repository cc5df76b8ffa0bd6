"""Words between the processes of one run, over TCP and beside JAX.

Process 0 listens, the others call. Who is missing, whose versions differ and who died is known here
at once and by name, where a collective would only hang. Messages are JSON, one a line; process 0
passes on what all must know. All that a run says here is small: names, steps, errors.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_GREETING = "jaxcomp roll call 1"
_LONGEST = 1 << 20  # bytes of a greeting
_LATE_S = 10.0
Hello = dict[str, Any]  # JSON; "process" and "host" of its sender, and what is compared


class StartError(RuntimeError):
    """The processes of a run did not come together; the message names who, and the mend."""


class Lost(RuntimeError):
    """Another process of this run failed or died; the message names it."""


class Line(NamedTuple):
    """One connection: whole lines in, whole lines out."""

    sock: socket.socket
    file: Any
    lock: threading.Lock

    @classmethod
    def over(cls, sock: socket.socket) -> Line:
        return cls(sock, sock.makefile("rb"), threading.Lock())

    def send(self, message: Any) -> None:
        with self.lock:
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, limit: int = -1) -> Any:
        """The next message; None at the end, or where it is no message at all."""
        try:
            text = self.file.readline(limit)
            return json.loads(text) if text.endswith(b"\n") else None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.file.close()
            self.sock.close()


# --- coming together ----------------------------------------------------------------------------


def gather_all(
    port: int, hello: Hello, names: Sequence[str], timeout: float, check: Callable[..., str | None]
) -> tuple[dict[int, Line], list[Hello]]:
    """Process 0: waits for the others, then tells all to go on, or what is wrong.

    Args:
        hello: this process's own.
        names: a host for each process, "" where it is not known.
        check: (hello of process 0, another's) -> what is wrong with that, or None.

    Raises StartError on this process and on every one that has called.
    """
    try:
        server = _listen(port)
    except OSError as error:
        raise StartError(
            f"process 0 ({hello['host']}) cannot listen on port {port} ({error.strerror}); another "
            "run on this machine may still hold it: end that one, or choose another port"
        ) from error
    with server:
        callers, hellos, wrong = _answered(server, hello, len(names), timeout, check)
    if wrong is None and len(hellos) < len(names):
        wrong = _missing(hellos, names, timeout)
    every = [hellos[i] for i in sorted(hellos)]
    answer = {"error": wrong} if wrong else {"hellos": every}
    for _, line in callers:
        with contextlib.suppress(OSError):
            line.send(answer)
    if wrong:
        for _, line in callers:
            line.close()
        raise StartError(wrong)
    return dict(callers), every


def _answered(
    server: socket.socket,
    hello: Hello,
    count: int,
    timeout: float,
    check: Callable[..., str | None],
) -> tuple[list[tuple[int, Line]], dict[int, Hello], str | None]:
    """Who called in time, what they said, and what is wrong with it."""
    callers: list[tuple[int, Line]] = []
    hellos: dict[int, Hello] = {0: hello}
    wrong: str | None = None
    end = time.monotonic() + timeout
    while len(callers) < count - 1 and time.monotonic() < end:
        server.settimeout(max(0.01, min(1.0, end - time.monotonic())))
        try:
            sock, _ = server.accept()
        except TimeoutError:
            continue
        sock.settimeout(5.0)
        line = Line.over(sock)
        found = line.receive(_LONGEST)
        if not isinstance(found, dict) or found.get("greeting") != _GREETING:
            line.close()  # not one of ours: a port scanner, a health check
            continue
        callers.append((found["process"], line))
        if wrong is None:
            wrong = _misplaced(found, hellos, count) or check(hello, found)
            if wrong:  # those who come a little later shall hear of it too
                end = min(end, time.monotonic() + _LATE_S)
        hellos.setdefault(found["process"], found)
    return callers, hellos, wrong


def call_in(address: str, hello: Hello, timeout: float) -> tuple[Line, list[Hello]]:
    """Any other process: calls process 0 until it answers. Raises StartError."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    last: str = "no answer"
    while time.monotonic() < end:
        try:
            sock = socket.create_connection((host.strip("[]"), int(port)), timeout=5.0)
        except OSError as error:
            last = error.strerror or str(error)
            time.sleep(0.2)
            continue
        # Process 0 waits as long for the others, and then says who is missing.
        sock.settimeout(timeout + 10.0)
        line = Line.over(sock)
        with contextlib.suppress(OSError):
            line.send({"greeting": _GREETING, **hello})
        answer = line.receive()
        if isinstance(answer, dict) and "error" in answer:
            line.close()
            raise StartError(answer["error"])
        if isinstance(answer, dict):
            return line, answer["hellos"]
        line.close()
        last = "it hung up"
        time.sleep(0.2)
    raise StartError(
        f"process {hello['process']} ({hello['host']}) did not reach process 0 at {address} within "
        f"{timeout:g} s ({last}); start process 0 too, and check that every process is given the "
        "address of its host"
    )


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    return socket.create_server(("", port), backlog=1024)


def _misplaced(found: Hello, hellos: Mapping[int, Hello], count: int) -> str | None:
    process, host = found["process"], found["host"]
    if found["processes"] != count:
        return (
            f"process {process} ({host}) expects {found['processes']} processes, process 0 "
            f"({hellos[0]['host']}) {count}; give all of them the same number"
        )
    if process in hellos:
        return (
            f"{hellos[process]['host']} and {host} both say that they are process {process}; "
            f"number the {count} processes 0 to {count - 1}, each once"
        )
    return None


def _missing(hellos: Mapping[int, Hello], names: Sequence[str], timeout: float) -> str:
    def name(i: int) -> str:
        host = hellos[i]["host"] if i in hellos else names[i]
        return f"process {i}" + (f" ({host})" if host else "")

    absent = [name(i) for i in range(len(names)) if i not in hellos]
    some = ", ".join(absent[:8]) + (", ..." if len(absent) > 8 else "")
    there = ", ".join(name(i) for i in sorted(hellos)[:8]) + (", ..." if len(hellos) > 8 else "")
    return (
        f"{some} of {len(names)} did not start within {timeout:g} s; {there} did: start the "
        "missing with the same command, or give all of them more time with JAXCOMP_START_TIMEOUT"
    )


# --- going on together --------------------------------------------------------------------------


class Channel:
    """The open lines of a run. Every process holds one; its threads end with the process.

    Args:
        process: this one's index.
        hosts: of all processes.
        lines: to the others (process 0), or {0: to process 0}.
        silence: seconds after which a machine that answers nothing counts as dead.
    """

    def __init__(self, process: int, hosts: Sequence[str], lines: dict[int, Line], silence: float):
        self.process, self.hosts, self.lines = process, tuple(hosts), lines
        self.lost: str | None = None  # who, and why
        self.on_lost: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], Any] = lambda: None
        self._changed = threading.Condition()
        self._counts: dict[str, int] = {}
        self._answers: dict[str, list[Any]] = {}
        self._collected: dict[str, dict[int, Any]] = {}  # process 0 only
        self._closing = self._stopping = False
        self._silence = silence

    def open(self) -> None:
        """Begins to listen; after `on_lost` and `on_stop` are set."""
        for sender, line in self.lines.items():
            line.sock.settimeout(None)
            _keep_alive(line.sock, self._silence)
            threading.Thread(target=self._listen, args=(sender, line), daemon=True).start()

    def gather(self, name: str, value: Any = None, timeout: float | None = None) -> list[Any]:
        """The JSON `value` of every process, by its index. Waits for all of them.

        Calls of one name answer each other in their order. Raises Lost where a process is gone or
        did not come within `timeout` seconds.
        """
        with self._changed:
            number = self._counts[name] = self._counts.get(name, 0) + 1
        key = f"{name} {number}"
        if self.process:
            self._to_lead({"at": key, "value": value})
        else:
            self._collect(0, key, value)
        with self._changed:
            self._changed.wait_for(lambda: key in self._answers or self.lost, timeout)
            if key in self._answers:
                return self._answers.pop(key)
        raise Lost(self.lost or f"not every process came to {name!r} within {timeout:g} s")

    def stop(self) -> None:
        """Has `on_stop` called on every process, once."""
        if self.process:
            self._to_lead({"stop": True})
        else:
            self._stop()

    def fail(self, why: str) -> None:
        """Tells every other process that this one ends because of `why`."""
        self._closing = True
        if self.process:
            self._to_lead({"failed": why})
        else:
            self._to_all({"lost": f"process 0 ({self.hosts[0]}) ended: {why}"})

    def close(self) -> None:
        """After the last `gather`: from here on nobody misses this process."""
        self._closing = True
        with contextlib.suppress(Lost):
            self.gather("close", timeout=30.0)
        for line in self.lines.values():
            line.close()

    # -- in the threads ----

    def _listen(self, sender: int, line: Line) -> None:
        while (message := line.receive()) is not None:
            if "at" in message:
                self._collect(sender, message["at"], message["value"])
            elif "all" in message:
                self._answer(message["all"], message["values"])
            elif "lost" in message:
                self._is_lost(message["lost"])
            elif "failed" in message:
                self._is_lost(f"process {sender} ({self.hosts[sender]}) ended: {message['failed']}")
            elif "stop" in message:
                self._stop()
        self._is_lost(f"process {sender} ({self.hosts[sender]}) died or cannot be reached any more")

    def _collect(self, sender: int, key: str, value: Any) -> None:
        with self._changed:
            found = self._collected.setdefault(key, {})
            found[sender] = value
            if len(found) < len(self.hosts):
                return
            del self._collected[key]
        values = [found[i] for i in range(len(self.hosts))]
        self._to_all({"all": key, "values": values})
        self._answer(key, values)

    def _answer(self, key: str, values: list[Any]) -> None:
        with self._changed:
            self._answers[key] = values
            self._changed.notify_all()

    def _stop(self) -> None:
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
        if self.process == 0:
            self._to_all({"stop": True})
        threading.Thread(target=self.on_stop, daemon=True).start()

    def _is_lost(self, why: str) -> None:
        with self._changed:
            if self.lost is not None or self._closing:
                return
            self.lost = why
            self._changed.notify_all()
        if self.process == 0:
            self._to_all({"lost": why})
        self.on_lost()

    def _to_lead(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # its thread will see the end of the line
            self.lines[0].send(message)

    def _to_all(self, message: Any) -> None:
        for line in list(self.lines.values()):
            with contextlib.suppress(OSError):
                line.send(message)


def _keep_alive(sock: socket.socket, silence: float) -> None:
    """A machine without power closes nothing: the kernel asks, and gives up after `silence`."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    each = max(1, int(silence / 6))
    names = {"TCP_KEEPIDLE": each, "TCP_KEEPINTVL": each, "TCP_KEEPCNT": 4}
    names["TCP_USER_TIMEOUT"] = int(silence * 1000)
    for name, value in names.items():
        if hasattr(socket, name):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
