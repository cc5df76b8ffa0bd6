"""Edit survival, on real text.

By rules, one place of a passage is changed: a number (digits by as many digits, a number word by
another), a name (a capitalised word inside a sentence, seen at least twice and never in lower case,
by another such), a negation ("was late" / "was not late", the auxiliary and the next word), or the
roles of a verb ("accepted the" / "was accepted by the"; "he told her" / "she told him"; two names).
A replaced number or name occurs once in its passage, and its replacement not at all. At most
`eval.edits_per_kind` edits of each kind, one of a kind per passage. The edited passage is
compressed and rebuilt (FR). The words around the spot are aligned with the rebuilt words (difflib,
the spot itself left out); at the aligned spot, give or take two words where its neighbours did not
come back, stands the new value (**preserved**), the original (**reverted**), something else
(**substituted**) or nothing (**omitted**). The control is the same rule applied to
the *unedited* passage: does its own value come back at that spot? Where fewer than half do,
survival is **not measurable** and the rates are None. An edit may lengthen its passage: what is
then beyond the context is cut off, and an edit whose spot is cut off, or whose text does not fit
`data.target`, is left out and counted.
"""

from __future__ import annotations

import difflib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxcomp.evals.metric import (
    DRIFT,
    HIGHER,
    LOWER,
    OVERWRITING,
    PRIMARY,
    Metric,
    Record,
    Show,
    Sums,
    Values,
    metrics,
    share,
)
from jaxcomp.evals.pairs.changes import changed
from jaxcomp.evals.pairs.roles import role_spots

KINDS = ("number", "name", "negation", "role")
OUTCOMES = ("preserved", "reverted", "substituted", "omitted")
MEASURABLE = 0.5  # share of control spots that must come back before a rate is given
WINDOW = 2  # words by which a spot's place is uncertain where its neighbours did not come back

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_NUMBERS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "twenty", "thirty", "forty", "fifty", "sixty",
)  # fmt: skip
_DIGITS = re.compile(r"(?<![\w.,$£'-])\d+(?![\w'-]|[.,]\d)")
_NUMBER_WORD = re.compile(rf"(?<![\w'-])(?:{'|'.join(_NUMBERS)})(?![\w'-])")
# A capital after a word or a comma is a name; after a full stop or a quotation mark it may not be.
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?![\w'’-])")
_AUXILIARY = "is|was|are|were|can|could|will|would|should|must"
# Not before a subject: "was he" is a question, and "was not he" would be no English.
_SUBJECT = "he|she|it|they|we|you|there|this|that|these|those|not|never|the|his|her|a|an"
_POSITIVE = re.compile(rf"\b(?P<aux>{_AUXILIARY}) (?P<next>(?!(?:{_SUBJECT})\b)[a-z]+)\b(?!['’-])")
_NEGATIVE = re.compile(rf"\b(?P<aux>{_AUXILIARY}|did|had|has|have) not (?P<next>[a-z]+)\b(?!['’-])")
_WORD_BEFORE, _WORD_AFTER = re.compile(r"\w+ $"), re.compile(r"^ \w+")


class Edit(NamedTuple):
    """One changed spot. `start:end` are characters of `text`, `control_*` those of the original."""

    kind: str
    source: int  # index of the unedited passage
    text: str
    start: int
    end: int
    control_start: int
    control_end: int
    original: str
    new: str


def names(texts: Iterable[str]) -> list[str]:
    """Words that stand capitalised inside sentences at least twice and never in lower case."""
    seen: Counter[str] = Counter()
    lower: set[str] = set()
    for text in texts:
        seen.update(_NAME.findall(text))
        lower.update(re.findall(r"\b[a-z]+\b", text))
    return sorted(n for n, count in seen.items() if count >= 2 and n.lower() not in lower)


def make_edits(texts: Sequence[str], per_kind: int, seed: int) -> list[Edit]:
    """At most `per_kind` edits of each kind, one of a kind per passage; pure in its arguments."""
    pool = names(texts)
    found = dict.fromkeys(KINDS, 0)
    out = []
    for source, text in enumerate(texts):
        for kind in KINDS:
            if found[kind] >= per_kind:
                continue
            rng = random.Random(f"{seed}/{source}/{kind}")
            spots = list(_spots(kind, text, pool, rng))
            if spots:
                start, end, new = rng.choice(spots)
                edited = text[:start] + new + text[end:]
                at = start, start + len(new), start, end
                out.append(Edit(kind, source, edited, *at, text[start:end], new))
                found[kind] += 1
    return out


def _spots(
    kind: str, text: str, pool: Sequence[str], rng: random.Random
) -> Iterable[tuple[int, int, str]]:
    """(start, end, new value) of every place in `text` that this kind of edit can change."""
    if kind == "negation":
        for m in _POSITIVE.finditer(text):
            yield m.start(), m.end(), f"{m['aux']} not {m['next']}"
        for m in _NEGATIVE.finditer(text):
            # "did not go" without its "not" would leave "did go": emphatic, but still English.
            yield m.start(), m.end(), f"{m['aux']} {m['next']}"
        return
    if kind == "role":
        for _, changes in role_spots(text, frozenset(pool)):
            start, end = changes[0].start, changes[-1].end
            if len(changes) == 1:
                # With the words around it: "accepted" alone is part of "was accepted by", too.
                start = len(_WORD_BEFORE.sub("", text[:start]))
                end = len(text) - len(_WORD_AFTER.sub("", text[end:]))
            yield start, end, changed(text[:end], changes)[start:]
        return
    present = Counter(_WORD.findall(text))
    values = _NUMBERS if kind == "number" else pool
    free = [v for v in values if not present[v]]
    matches = (
        [] if kind == "name" else [(m, _other_number(m[0], rng)) for m in _DIGITS.finditer(text)]
    )
    for m in (_NUMBER_WORD if kind == "number" else _NAME).finditer(text):
        if free and m[0] in values:
            matches.append((m, rng.choice(free)))
    for m, new in matches:
        if present[m[0]] == 1 and not present[new]:
            yield m.start(), m.end(), new


def _other_number(digits: str, rng: random.Random) -> str:
    """Another number with as many digits; longer ones do not begin with 0."""
    low = 10 ** (len(digits) - 1) if len(digits) > 1 else 0
    while True:
        new = str(rng.randrange(low, 10 ** len(digits)))
        if new != digits:
            return new


def aligned(text: str, start: int, end: int, rebuilt: str, window: int = 0) -> list[str]:
    """Words of `rebuilt` that stand where the words of `text[start:end]` stood.

    Where the spot's neighbours match, it is what stands between them. Where some were replaced
    along with it, as many words are left to them on either side, less `window`.
    """
    spans = [m.span() for m in _WORD.finditer(text)]
    inside = [i for i, (s, e) in enumerate(spans) if s < end and e > start]
    if not inside:
        return []
    spot, words = inside[0], _WORD.findall(text)
    source = [*words[:spot], "\0", *words[inside[-1] + 1 :]]
    target = _WORD.findall(rebuilt)
    matcher = difflib.SequenceMatcher(None, source, target, autojunk=False)
    for _, i1, i2, j1, j2 in matcher.get_opcodes():
        if i1 <= spot < i2:
            first = max(j1, j1 + (spot - i1) - window)
            last = min(j2, j2 - (i2 - spot - 1) + window)
            return target[first:last] if first < last else []
    return []


def _holds(words: Sequence[str], value: str) -> bool:
    """The words of `value` stand in `words`, one after the other."""
    wanted = _WORD.findall(value)
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


def outcome(edit: Edit, rebuilt: str) -> str:
    """The one name of what became of `edit` in the rebuilt text of the edited passage."""
    near = aligned(edit.text, edit.start, edit.end, rebuilt, WINDOW)
    if _holds(near, edit.new):
        return "preserved"
    if _holds(near, edit.original):
        return "reverted"
    return "substituted" if aligned(edit.text, edit.start, edit.end, rebuilt) else "omitted"


def control_returned(edit: Edit, original_text: str, rebuilt: str) -> bool:
    """The original value stands at the same spot of the rebuilt *unedited* passage."""
    words = aligned(original_text, edit.control_start, edit.control_end, rebuilt, WINDOW)
    return _holds(words, edit.original)


class Edited(NamedTuple):
    """The edits of a set: kinds of those made, and the record of each whose passage fits."""

    made: list[str]
    records: list[Record]


def _sums(record: Record, name: str) -> Sums | None:
    kind, _, outcome = name.partition("/")
    if kind not in ("all", record.get("kind")):
        return None
    hit = record["control"] if outcome == "control" else record["outcome"] == outcome
    return float(hit), 1.0


_EMPTY = "empty where not measurable: under half of the unedited control spots came back"
_KEPT = f"primary endpoint: edited spots whose new value the rebuilt text keeps / all; {_EMPTY}"
_REVERTED = f"edited spots that came back as the original / all; {_EMPTY}"
_CHANGED = f"edited spots that came back as something else / all; {_EMPTY}"


def _share(name: str, definition: str, better: str, *shown: Show) -> Metric:
    return share(f"edits/<edit>/{name}", definition, better, shown=shown, sums=_sums)


@metrics(
    Metric("edits/<edit>/n", "count", "edits asked: those made less those left out"),
    Metric("edits/<edit>/left_out", "count", "edits made whose passage no longer fits"),
    _share(
        "control",
        "control spots that came back / n",
        HIGHER,
        Show("control spots", 50, meaning="unedited spots that came back / all"),
    ),
    Metric("edits/<edit>/measurable", "0 or 1", "1 where control ≥ 0.5 and n > 0"),
    _share("preserved", "preserved / n", HIGHER, Show("edits preserved", 30, PRIMARY, _KEPT)),
    _share("reverted", "reverted / n", LOWER, Show("overwriting", 40, OVERWRITING, _REVERTED)),
    _share("substituted", "substituted / n", LOWER, Show("drift", 60, DRIFT, _CHANGED)),
    _share("omitted", "omitted / n", LOWER),
)
def survival(found: Edited) -> Values:
    out: Values = {}
    for kind in ("all", *KINDS):
        mine = [r for r in found.records if kind in ("all", r["kind"])]
        n = len(mine)
        control = sum(r["control"] for r in mine) / n if n else None
        measurable = control is not None and control >= MEASURABLE
        out[f"{kind}/n"] = n
        out[f"{kind}/left_out"] = sum(kind in ("all", made) for made in found.made) - n
        out[f"{kind}/control"] = control
        out[f"{kind}/measurable"] = int(measurable)
        for name in OUTCOMES:
            hits = sum(r["outcome"] == name for r in mine)
            out[f"{kind}/{name}"] = hits / n if measurable else None
    return out
