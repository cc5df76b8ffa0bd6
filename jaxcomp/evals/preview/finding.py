"""What a check answers."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One sentence each. `ok` is None where there is nothing to measure yet."""

    ok: bool | None
    found: str
    expected: str = ""
    fix: str = ""


def healthy(found: str) -> Finding:
    return Finding(True, found)
