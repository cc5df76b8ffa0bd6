"""A page of one reduced text: every token coloured by its score, kept spans marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.inference.selecting import Selected
from jaxcomp.runtime import pages

STEPS = 8  # colours above none
_TOP = 99.5  # percentile of the scores at which the strongest colour begins


class Piece(NamedTuple):
    text: str
    step: int  # of the colour
    kept: bool


def page(text: str, found: Sequence[Selected], about: str) -> str:
    """HTML of a text that was reduced for one question or for several; `about` is its title."""
    every = [
        {
            "question": one.question,
            "subtracted": one.subtracted,
            "kept": one.kept,
            "tokens": one.tokens,
            "pieces": _pieces(text, one),
        }
        for one in found
    ]
    values: dict[str, Any] = {"found": every, "steps": range(1, STEPS + 1), "most": STEPS}
    return pages.render("heat_map.html.jinja", title=about, **values)


def _pieces(text: str, one: Selected) -> list[Piece]:
    top = max(float(np.percentile(one.score_W, _TOP)), 1e-12)
    step_W = np.ceil(np.clip(one.score_W / top, 0, 1) * STEPS).astype(int).tolist()
    starts = [start for start, _ in one.offsets]
    starts[0] = 0
    ends = [*starts[1:], len(text)]
    kept = np.zeros(len(text) + 1, bool)
    for start, end, _ in one.spans:
        kept[start:end] = True
    look = [
        (step, bool(kept[(a + b) // 2])) for step, a, b in zip(step_W, starts, ends, strict=True)
    ]
    out = []
    for (step, is_kept), run in groupby(range(len(look)), look.__getitem__):
        places = list(run)
        out.append(Piece(text[starts[places[0]] : ends[places[-1]]], step, is_kept))
    return out
