"""Results that survive an interruption: records as they are made, then one whole file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.evals.qa.items import EvalError
from jaxcomp.runtime import strict_json
from jaxcomp.training.manifest import write_json


@contextlib.contextmanager
def intact(file: Path | None) -> Iterator[None]:
    """Raises EvalError that names `file` where what was read from it has another shape. None:
    nothing was read, and an error is one of the program."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if file is None or isinstance(error, EvalError):
            raise
        raise EvalError(
            f"{file} is damaged, or of another version ({error!r}); remove it, or choose another "
            "--out"
        ) from error


class Journal:
    """The file `out` of what `about` says; None: nothing is kept.

    Until it is finished, its records stand in `<out>.part.jsonl`, below a line that holds `about`.
    `read`: the file of which something was read.
    """

    read: Path | None = None

    def __init__(self, out: Path | None, about: dict[str, Any]):
        self.out, self.about = out, about
        self.part = out.with_name(out.name + ".part.jsonl") if out else None

    def finished(self) -> dict[str, Any] | None:
        """The whole result, if it is there. Raises EvalError where the file is of another."""
        if self.out is None or not self.out.exists():
            return None
        try:
            found = strict_json.read(self.out, dict)
        except (OSError, ValueError) as error:
            raise EvalError(
                f"{self.out} is there already and is no result of a task ({error}); choose "
                "another --out or remove it"
            ) from error
        self._same(found.get("about"), self.out)
        self.read = self.out
        return found

    def records(self) -> list[dict[str, Any]]:
        """The records of an interrupted run; a last line that was cut short is taken away."""
        if self.part is None or not self.part.exists():
            return []
        raw = self.part.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            with self.part.open("r+b") as file:
                file.truncate(len(whole))
        try:
            lines = [
                strict_json.parse(line, f"line {number}", dict)
                for number, line in enumerate(whole.split(b"\n"), 1)
                if line
            ]
        except strict_json.JsonError as error:
            raise EvalError(f"{self.part} is damaged ({error}); remove it") from error
        if lines:
            self._same(lines[0], self.part)
            self.read = self.part
        return lines[1:]

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Keeps records. On the disk when it returns."""
        if self.part is None:
            return
        self.part.parent.mkdir(parents=True, exist_ok=True)
        with self.part.open("a", encoding="utf-8") as file:
            for line in [] if file.tell() else [self.about]:
                file.write(json.dumps(line) + "\n")
            for record in records:
                file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the whole result in place of the records."""
        if self.out is None or self.part is None:
            return
        write_json(self.out, result)
        self.part.unlink(missing_ok=True)

    def _same(self, found: Any, file: Path) -> None:
        about = found if isinstance(found, dict) else {}
        differ = [k for k, v in self.about.items() if k != "hash" and about.get(k) != v]
        if differ:
            raise EvalError(
                f"{file} is there already, with another {' and '.join(differ)}; choose another "
                "--out or remove it"
            )
