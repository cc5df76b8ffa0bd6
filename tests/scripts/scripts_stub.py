"""A cloud on this machine, for the scripts of tpu_scripts/.

`gcloud`, `git`, `sleep`, `xpk` and the like are stubs on PATH that write down how they were called.
The stub of gcloud keeps queued resources (in world.json) whose describe output has the form of the
v2 API, and runs `ssh --command` in a folder a worker, so that the real worker.sh starts real
processes there. The program that those jobs run, `jaxcomp`, is a stub too: world["runs"] says what
each run of it does.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from conftest import HANGS_S

SCRIPTS = Path(__file__).resolve().parents[2] / "tpu_scripts"
STUBS = ["gcloud", "git", "xpk", "srun", "scontrol", "uv", "jaxcomp", "jaxcomp-python"]
# Called so often that the start of a Python would be felt.
QUICK = {
    "hostname": 'echo "${WORKER_HOST:-laptop}"',
    "sleep": """printf '["sleep","%s"]\\n' "$1" >>"$CLOUD/calls.jsonl"; exec /bin/sleep 0.05""",
}
ENGINE = Path(__file__).with_name("scripts_engine.py")


# A suite run in the background inherits deafness to SIGINT, and bash would keep it. Not preexec_fn:
# that forks, against which JAX warns once it has threads.
HEARING = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execvp('bash', ['bash', *sys.argv[1:]])"
)


@dataclass
class Cloud:
    """The folder of one test: stubs, log of calls, workers' homes, world.json."""

    root: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path, **world) -> Cloud:
        cloud = cls(root)
        (root / "bin").mkdir()
        bodies = {n: f'exec {sys.executable} -IS {ENGINE} {n} "$@"' for n in STUBS} | QUICK
        for name, body in bodies.items():
            path = root / "bin" / name
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        (root / "home").mkdir()
        start = {
            "resources": {},
            "after_create": [],
            "hosts": 1,
            "fail": [],
            "held": [],
            "runs": [],
            "versions": {},
        }
        (root / "world.json").write_text(json.dumps(start | world))
        return cloud

    # --- running a script

    def env(self, **more: str) -> dict[str, str]:
        keep = {k: os.environ[k] for k in ("LANG", "LC_ALL") if k in os.environ}
        path = f"{self.root / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        tmp = self.root / "tmp"
        tmp.mkdir(exist_ok=True)
        own = {
            "PATH": path,
            "HOME": str(self.root / "home"),
            "CLOUD": str(self.root),
            "TMPDIR": str(tmp),
        }
        return keep | own | more

    def popen(self, script: str, *args: str, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-ISc", HEARING, str(SCRIPTS / script), *args],
            env=self.env(**more),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, script: str, *args: str, code: int | None = 0, **more: str) -> Done:
        process = self.popen(script, *args, **more)
        try:
            out, err = process.communicate(timeout=HANGS_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"{script} {args} hangs:\n{out}\n{err}\n{self.calls()}") from None
        if code is not None:
            assert process.returncode == code, f"{process.returncode} is not {code}\n{out}\n{err}"
        return Done(process.returncode, out, err)

    def paste(self, lines: str) -> None:
        """What --dry-run printed, typed into bash."""
        done = subprocess.run(
            ["bash", "-c", lines], env=self.env(), cwd=self.root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    # --- what happened

    def calls(self, *words: str) -> list[list[str]]:
        """The logged calls, sleeps left out, in which all `words` occur as arguments or parts."""
        log = self.root / "calls.jsonl"
        rows = [json.loads(r) for r in log.read_text().splitlines()] if log.exists() else []
        found = [r for r in rows if r[0] not in ("sleep", "uv")]
        found = [r for r in found if not r[0].startswith("jaxcomp")]
        return [r for r in found if all(any(w in part for part in r) for w in words)]

    def verbs(self) -> list[str]:
        """The calls as short words, in order: create, describe, scp, ssh start, ..."""
        return [short(c) for c in self.calls()]

    def slept(self) -> list[str]:
        rows = [json.loads(r) for r in (self.root / "calls.jsonl").read_text().splitlines()]
        return [r[1] for r in rows if r[0] == "sleep"]

    def forget(self) -> None:
        (self.root / "calls.jsonl").unlink(missing_ok=True)

    def world(self, **changes) -> dict:
        path = self.root / "world.json"
        with open(self.root / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            now = json.loads(path.read_text()) | changes
            written = path.with_suffix(".new")
            written.write_text(json.dumps(now))
            written.replace(path)
        return now

    def home(self, node: str, worker: int = 0) -> Path:
        return self.root / "workers" / node / str(worker)

    def jobs(self, node: str, worker: int = 0) -> list[list[str]]:
        """The arguments with which the job's program was started there, oldest first."""
        path = self.root / "bucket" / f"{node}-{worker}.jsonl"
        return [json.loads(r) for r in path.read_text().splitlines()] if path.exists() else []

    def resource(self, name: str, *states: str, count: int = 1, **more) -> None:
        """One that exists already; its workers are empty."""
        new = {
            "states": list(states or ["ACTIVE"]),
            "type": "v5litepod-16",
            "count": count,
            "spot": True,
        }
        self.world(resources=self.world()["resources"] | {name: new | more})

    def ready(self, name: str) -> None:
        """One that exists and is as `tpu.sh setup` leaves it."""
        self.resource(name)
        for worker in range(self.world()["hosts"]):
            code = self.home(name, worker) / "jaxcomp"
            shutil.copytree(SCRIPTS, code / "tpu_scripts")
            (code / ".venv/bin").mkdir(parents=True)
            (code / ".venv/bin/jaxcomp").symlink_to(self.root / "bin/jaxcomp")
            (code / ".venv/jaxcomp-ready").touch()

    def close(self) -> None:
        """End what a failed test may have left."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        for lock in self.root.glob("workers/*/*/.jaxcomp-job/group"):
            kill(lock)


@dataclass
class Done:
    code: int
    out: str
    err: str


def kill(group: Path) -> None:
    try:
        os.killpg(int(group.read_text()), signal.SIGKILL)
    except (OSError, ValueError):
        return


def short(call: list[str]) -> str:
    """`gcloud compute tpus tpu-vm ssh ... worker.sh start` -> `ssh start`."""
    if call[0] != "gcloud":
        return " ".join(call[:1] + [a for a in call[1:2] if not a.startswith("-")])
    what = {"queued-resources": "", "tpu-vm": "node "}[call[3]]
    verb = call[4]
    if verb == "ssh":
        command = next(a for a in call if a.startswith("--command="))
        named = re.findall(r"worker\.sh (\w+)", command)
        return f"ssh {'unpack' if 'jaxcomp.new' in command else named[-1]}"
    return verb if verb == "scp" else what + verb


def wait_for(what, seconds: float = HANGS_S):
    """`what()` once it is true; fails when it stays false."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"did not happen in {seconds} s"
        time.sleep(0.02)
    return found
