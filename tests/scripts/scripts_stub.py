"""Runs a script of tpu_scripts/ with stubs on PATH that write down how they were called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from conftest import HANGS_S

SCRIPTS = Path(__file__).resolve().parents[2] / "tpu_scripts"
# Words end with the unit separator, calls with the record separator: a word may hold lines.
RECORD = """{ printf '%s\\037' "${0##*/}" "$@"; printf '\\036'; } >>"$CALLS"\n"""


class Done(NamedTuple):
    code: int
    out: str
    err: str
    calls: list[list[str]]


class Stubs:
    """`root/bin` holds the stubs; each is a line of bash that runs after the call is recorded."""

    def __init__(self, root: Path, **bodies: str):
        self.root, self.log = root, root / "calls"
        (root / "bin").mkdir()
        for name, body in bodies.items():
            path = root / "bin" / name.replace("_", "-")
            path.write_text(f"#!/bin/bash\n{RECORD}{body}\n")
            path.chmod(0o755)

    def env(self, **more: str) -> dict[str, str]:
        path = f"{self.root / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        own = {"PATH": path, "HOME": str(self.root), "TMPDIR": str(self.root)}
        return own | {"CALLS": str(self.log)} | more

    def calls(self) -> list[list[str]]:
        text = self.log.read_text() if self.log.exists() else ""
        return [c.split("\x1f")[:-1] for c in text.split("\x1e")[:-1]]

    def popen(self, script: str, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPTS / script), *args],
            env=self.env(**env),
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *args: str, **env: str) -> Done:
        process = self.popen(script, *args, **env)
        out, err = process.communicate(timeout=HANGS_S)
        return Done(process.returncode, out, err, self.calls())


def dry_run(args: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments of a script with --dry-run before the command."""
    cut = args.index("--") if "--" in args else len(args)
    return (*args[:cut], "--dry-run", *args[cut:])


def words(line: str) -> list[str]:
    """A printed command as bash reads it back."""
    read = ["bash", "-c", f"printf '%s\\0' {line}"]
    return subprocess.run(read, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def environment() -> dict[str, str]:
    """This process's, for engines that are installed: no requests, no usage statistics."""
    off = {"CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "CLOUDSDK_PROXY_TYPE": "http"}
    off |= {"CLOUDSDK_PROXY_ADDRESS": "127.0.0.1", "CLOUDSDK_PROXY_PORT": "1"}
    return os.environ | off | {"NO_GCE_CHECK": "true", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
