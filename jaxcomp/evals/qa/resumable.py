"""Resumable results: a journal of records, then one complete file."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxcomp.evals.qa.items import EvalError
from jaxcomp.runtime import live, strict_json
from jaxcomp.runtime.live import duration
from jaxcomp.training.manifest import write_json

Record = dict[str, Any]
Say = Callable[[str], None]
Part = TypeVar("Part", bound=Sequence[Any])


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


def reasons(left_out: Mapping[str, int]) -> str:
    """What was left out, and why, as text."""
    return "; ".join(f"{n} with {why}" for why, n in sorted(left_out.items()))


def check_ids(ids: Iterable[str]) -> None:
    """Raises EvalError where one stands twice."""
    if twice := [name for name, n in Counter(ids).items() if n > 1]:
        raise EvalError(
            f"{len(twice)} ids stand twice, such as {twice[0]!r}; expected each once, with an id "
            "of its own"
        )


class Journal:
    """The file `out` of what `about` decides; None: nothing is kept.

    Until it is finished, its records stand in `<out>.part.jsonl`, below a line that holds `about`.

    Attributes:
        found: the finished result, if it is there.
        records: those that were made before, by their `key`.
        read: the file that something was read from.

    Raises EvalError where a file is damaged or of another `about`.
    """

    def __init__(self, out: Path | None, about: Record, say: Say | None, key: str = "id"):
        self.out, self.about, self.key = out, about, key
        self.say: Say = say or (lambda text: None)
        self.found: Record | None = None
        self.records: dict[str, Record] = {}
        self.read: Path | None = None
        if out is None:
            return
        self.part = out.with_name(f"{out.name}.part.jsonl")
        if out.exists():
            try:
                self.found = found = strict_json.read(out, dict)
            except (OSError, ValueError) as error:
                raise EvalError(
                    f"{out} is there already and is no result of a task ({error}); choose another "
                    "--out or remove it"
                ) from error
            self._check(found.get("about"), out)
            self._keep(found.get("records"))
        if self.part.exists():
            first, *later = self._lines() or [about]
            self._check(first, self.part)
            self._keep(later)

    def measure(
        self, parts: Iterable[Part], count: int, made: Callable[[Part], list[Record]], what: str
    ) -> None:
        """Keeps the records that `made` makes of each part; on the disk before the next one.
        `count`: how many there are in all parts; `what` they are."""
        if self.records:
            self.say(f"{len(self.records):,} {what} were done already")
        with live.phase("measuring", count, what) as row:
            for part in parts:
                records = made(part)
                self._write(records)
                self.records |= {record[self.key]: record for record in records}
                row.done += len(part)
        if count:
            spent = time.monotonic() - row.began
            self.say(
                f"{count:,} {what} measured in {duration(spent)}: {spent / count:.3g} s each, "
                "compiling included"
            )

    def finish(self, result: Record) -> Record:
        """Writes the whole result in place of the records, and returns it."""
        if self.out is not None:
            write_json(self.out, result)
            self.part.unlink(missing_ok=True)
        return result

    def _lines(self) -> list[Any]:
        """Of the records of an interrupted run; a last line that was cut short is taken away."""
        raw = self.part.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            os.truncate(self.part, len(whole))
        try:
            return [
                strict_json.parse(line, f"line {number}", dict)
                for number, line in enumerate(whole.splitlines(), 1)
            ]
        except strict_json.JsonError as error:
            raise EvalError(f"{self.part} is damaged ({error}); remove it") from error

    def _check(self, found: Any, file: Path) -> None:
        about = found if isinstance(found, dict) else {}
        differ = [k for k, v in self.about.items() if about.get(k) != v]
        if differ:
            raise EvalError(
                f"{file} is there already, with another {' and '.join(differ)}; choose another "
                "--out or remove it"
            )
        self.read = file

    def _keep(self, records: Any) -> None:
        with intact(self.read):
            self.records |= {record[self.key]: record for record in records}

    def _write(self, records: Sequence[Record]) -> None:
        if self.out is None:
            return
        self.part.parent.mkdir(parents=True, exist_ok=True)
        with self.part.open("a", encoding="utf-8") as file:
            first = [] if file.tell() else [self.about]
            file.writelines(f"{json.dumps(line)}\n" for line in [*first, *records])
            file.flush()
            os.fsync(file.fileno())
