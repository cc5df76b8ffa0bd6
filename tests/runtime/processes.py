"""Real processes on this machine, over localhost, with fake CPU devices; and what they train.

They share one compilation cache, since they compile far more than they compute.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import HANGS_S

# A short run of what is shipped.
SHORT = {
    "train.optim.batch": "8", "data.val_passages": "4", "data.eval_passages": "2",
    "eval.batch": "4", "eval.samples": "0", "eval.edits_per_kind": "1",
}  # fmt: skip


def typed(command, workdir, **fields):
    """The arguments of a command on configs/tiny.py, `SHORT` but for these fields."""
    flags = [f"--{name}={value}" for name, value in (SHORT | fields).items()]
    return ["-m", "jaxcomp", command, "--config=configs/tiny.py", f"--workdir={workdir}", *flags]


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


class Processes:
    """`count` processes of one command, each with its share of `devices` fake CPU devices."""

    def __init__(self, args, count=1, devices=8, *, folder: Path, each=lambda i: {}, **env):
        self.logs, self.running = [], []
        shared = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices // count),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **{name: str(value) for name, value in env.items()},
        }
        if count > 1:
            address = f"localhost:{free_port()}"
            shared |= {"JAX_COORDINATOR_ADDRESS": address, "JAXCOMP_PROCESSES": str(count)}
        for i in range(count):
            own = {"JAXCOMP_PROCESS": str(i)} if count > 1 else {}
            self.logs.append(folder / f"log-{time.monotonic_ns()}.txt")
            with self.logs[-1].open("w") as file:
                command, env = [sys.executable, *args], os.environ | shared | own | each(i)
                child = subprocess.Popen(command, env=env, stdout=file, stderr=file)
            self.running.append(child)

    def text(self, i: int) -> str:
        return self.logs[i].read_text()

    def error(self, i: int) -> str:
        """The one error line of process i."""
        lines = [x for x in self.text(i).splitlines() if x.startswith("jaxcomp: error")]
        assert len(lines) == 1, self.text(i)
        return lines[0]

    def wait(self, seconds: float = HANGS_S) -> list[int]:
        end = time.monotonic() + seconds
        return [p.wait(max(0.1, end - time.monotonic())) for p in self.running]

    def ok(self, seconds: float = HANGS_S) -> "Processes":
        codes = self.wait(seconds)
        shown = "\n".join(self.text(i) for i in range(len(codes)))
        assert codes == [0] * len(codes), f"{codes}\n{shown}"
        return self

    def until(self, condition, seconds: float = HANGS_S) -> None:
        end = time.monotonic() + seconds
        while not condition():
            ended = [p.poll() for p in self.running]
            well = time.monotonic() < end and ended == [None] * len(ended)
            assert well, [self.text(i) for i in range(len(ended))]
            time.sleep(0.02)

    def close(self) -> None:
        for process in self.running:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
