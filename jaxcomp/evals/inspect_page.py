"""The page of `jaxcomp inspect`: source and rebuilt text side by side, words coloured by origin."""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxcomp.data.facts import OUTCOMES
from jaxcomp.evals import attribution
from jaxcomp.evals.attribution import REBUILT, SOURCE, Word
from jaxcomp.evals.linear_probe import Reading, Share
from jaxcomp.evals.tracing import Said, Trace
from jaxcomp.runtime import pages, strict_json

VERSION = 2  # of the page's form
LABELS = (*SOURCE, "invented")
STEP = 0.5  # nats of entropy a pixel of the bar under a word stands for
HIGHEST = 9  # pixels of the longest bar

_META = "jaxcomp-inspect"
_MEANING = {
    "copied": "the same word at the same place of both texts",
    "paraphrased": "at its place stands the same word in another form (case, number, person, "
    "tense; a number in digits or letters): by rules, no meaning is judged",
    "overwritten": "at its place stands another word, which the decoder without the memory, given "
    "the same rebuilt words before it, finds likelier than the source's word",
    "replaced": "source: at its place stands another word, which that decoder does not find "
    "likelier (in the rebuilt text that word is called invented)",
    "lost": "source: nothing stands at its place",
    "invented": "rebuilt: no word of the source has this place, or one that it replaced without "
    "being likelier to the decoder without the memory",
}
_ENTROPY = (
    f"The bar under a rebuilt word is the decoder's entropy with the memory: a pixel for each "
    f"{STEP} nats, at most {HIGHEST}; the largest among the word's tokens. Rest the pointer on a "
    "word for the numbers: entropy, its probability with the memory and without (product over its "
    "tokens), and of a word that stands for another ln p of it less ln p of the source's at the "
    "first token at which the two part, with the memory and without."
)
_DEPARTURE = (
    "A departure (dotted on the left) is a rebuilt word, neither copied nor paraphrased, that "
    "begins the text or follows one that is. After it the decoder has its own words before it, and "
    "what follows is likely to it whatever the memory says: among the overwritten words, read the "
    "departures first."
)


class Probed(NamedTuple):
    """The linear probe of one set: its passages, readings, and the facts that were not asked."""

    set: str
    passages: int
    readings: Sequence[Reading]
    left_out: Mapping[str, int]


class Content(NamedTuple):
    """What a page shows. `words` is `main.value_words`; both are None outside the world."""

    title: str
    about: dict[str, Any]
    sets: dict[str, list[Trace]]
    probed: Probed | None = None
    words: Mapping[str, Counter[str]] | None = None

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        return {k: attribution.counts(t.labels for t in v) for k, v in self.sets.items()}


class Table(NamedTuple):
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


class Piece(NamedTuple):
    """A piece of a text, or a word of it with its classes."""

    text: str
    mark: str = ""
    title: str = ""


COLOURS = {  # of the first letters of labels; copied words have none
    "p": "preserved", "o": "overwritten", "r": "substituted", "l": "omitted", "i": "swapped",
}  # fmt: skip


def html_of(content: Content) -> str:
    """The whole page; every text in it is escaped, and it allows no script but its own."""
    more = []
    if content.probed is not None:
        more.append(("Linear probe: which facts stand in the memory?", _probe(content.probed)))
        if content.words is not None:
            table = _value_words(content.words, content.probed)
            more.append(("Facts and words: a check of the alignment", table))
    rows = [_row(name, trace) for name, traces in content.sets.items() for trace in traces]
    return pages.render(
        "inspect.html.jinja",
        scripts=[pages.source("inspect.js")],
        title=content.title,
        meta=_META,
        about=json.dumps(content.about, sort_keys=True),
        colours=COLOURS,
        highest=HIGHEST,
        tables=_counts(content),
        legend=[(label[0], label, _MEANING[label]) for label in LABELS],
        entropy=_ENTROPY,
        departure=_DEPARTURE,
        more=more,
        keys=[("number", "order"), ("loss", "loss"), *((label, label) for label in LABELS)],
        rows=rows,
    )


def about_of(content: bytes) -> dict[str, Any] | None:
    """`Content.about` of a page written by `html_of`; None where `content` is no such page."""
    head = content[:4096].decode(errors="replace")
    found = re.search(rf'<meta name="{_META}" content="([^"]*)">', head)
    try:
        return strict_json.parse(html.unescape(found[1]), _META, dict) if found else None
    except strict_json.JsonError:
        return None


# --- tables -----------------------------------------------------------------------------------


def _counts(content: Content) -> list[Table]:
    """Words of the source and of the rebuilt text, by what became of them."""
    rows, back = [], []
    for name, traces in content.sets.items():
        c = content.counts[name]
        targets = sum(len(t.example.target) for t in traces)
        nll = math.fsum(t.loss * len(t.example.target) for t in traces)
        row = [name, str(len(traces)), f"{nll / targets:.3g}", str(c["source/all"])]
        rows.append(row + [_of(c, "source", label) for label in SOURCE])
        unattributed = str(sum(t.unattributed for t in traces))
        row = [name, str(c["rebuilt/all"]), *(_of(c, "rebuilt", label) for label in REBUILT)]
        row += [str(c["departure/all"]), _of(c, "departure", "overwritten"), unattributed]
        back.append(row)
    source = Table(
        ["source", "passages", "loss (nats/token)", "words", *SOURCE],
        rows,
        "Words and punctuation marks of the source, by what became of them: counts, and shares of "
        "all words of the row. Loss: teacher-forced, end token included.",
    )
    rebuilt = Table(
        ["rebuilt", "words", *REBUILT, "departures", "overwritten among them", "unattributed"],
        back,
        "Words of the rebuilt text (greedy), by where they came from. Unattributed: words in the "
        "place of another one that the decoder without memory could not be scored on at one token; "
        "they count as invented.",
    )
    return [source, rebuilt]


def _of(counts: Mapping[str, int], side: str, label: str) -> str:
    n, whole = counts[f"{side}/{label}"], counts[f"{side}/all"]
    return f"{n} ({n / whole:.1%})" if whole else "0"


def _probe(probed: Probed) -> Table:
    header = [
        "kind", "facts", "entities", "values", "read", "control", "returned", "moved", "wrong",
        "wrong: beyond chance", "wrong: reads the decoder's", "verdict",
    ]  # fmt: skip
    rows = []
    for r in probed.readings:
        shares = [_share(s) for s in (r.every, r.control, r.returned)]
        shares += [str(r.moved), _share(r.wrong)]
        beyond = f"{r.wrong.beyond_chance:.2f}" if r.wrong else "–"
        row = [r.kind, str(r.facts), str(r.entities), str(r.values), *shares, beyond]
        rows.append([*row, _share(r.as_decoder), r.verdict or f"none: {r.reason}"])
    left = "; ".join(f"{n} {why}" for why, n in sorted(probed.left_out.items()))
    caption = (
        f"{probed.passages} passages of the set {probed.set}. A multinomial logistic regression "
        "reads a fact's value from the memory vector of its block and the two next to it, fitted "
        "on facts of other entities. Shares: right, 95% interval (Wilson), c chance. control: with "
        "shuffled values. returned: facts off their favourite that were preserved. moved: facts "
        "whose value stands with another entity. wrong: the others that were not preserved. One "
        f"verdict a kind, unadjusted. Left out: {left or 'none'}. Definitions: "
        "`python -m jaxcomp.analysis.metrics_page`."
    )
    return Table(header, rows, caption)


def _share(share: Share | None) -> str:
    if share is None:
        return "–"
    return (
        f"{share.rate:.2f} [{share.low:.2f}, {share.high:.2f}] of {share.n}, c {share.chance:.2f}"
    )


def _value_words(words: Mapping[str, Counter[str]], probed: Probed) -> Table:
    rows = [
        [outcome, str(sum(words[outcome].values())), *(str(words[outcome][x]) for x in SOURCE)]
        for outcome in OUTCOMES
        if outcome in words
    ]
    caption = (
        "By the outcome of a fact (the world's grammar), how the word of its value was labelled "
        f"(the alignment): facts of one-word values, set {probed.set}."
    )
    return Table(["outcome of the fact", "facts", *SOURCE], rows, caption)


# --- a passage ---------------------------------------------------------------------------------


def _row(name: str, trace: Trace) -> dict[str, Any]:
    count = Counter(trace.labels.source)
    count["invented"] = trace.labels.rebuilt.count("invented")
    away = attribution.departures(trace.labels.rebuilt)
    source = [Piece("", label[0]) for label in trace.labels.source]
    rebuilt = map(_mark, trace.labels.rebuilt, away, trace.said)
    return {
        "name": f"{name} {trace.example.id}",
        "loss": f"{trace.loss:.4f}",
        "data": {"loss": f"{trace.loss:.6f}"} | {label: count[label] for label in LABELS},
        "counts": ", ".join(f"{count[x]} {x}" for x in LABELS if count[x]),
        "source": _marked(trace.example.text, trace.source_words, source),
        "rebuilt": _marked(trace.rebuilt, trace.rebuilt_words, list(rebuilt)),
    }


def _mark(label: str, away: bool, said: Said) -> Piece:
    bar = min(HIGHEST, round(said.entropy / STEP))
    title = (
        f"entropy {said.entropy:.2f}, p {_p(said.logp)}, without memory {_p(said.logp_no_memory)}"
    )
    if said.margin is not None and said.margin_no_memory is not None:
        title += (
            f"; over the source's word {said.margin:+.2f}, without {said.margin_no_memory:+.2f}"
        )
    names = [label[0], *(["d"] if away else []), *([f"h{bar}"] if bar else [])]
    return Piece("", " ".join(names), title)


def _p(logp: float) -> str:
    return f"{math.exp(logp):.2g}"


def _marked(text: str, words: Sequence[Word], marks: Sequence[Piece]) -> list[Piece]:
    out, at = [], 0
    for word, mark in zip(words, marks, strict=True):
        out += [Piece(text[at : word.start]), mark._replace(text=word.text)]
        at = word.end
    return [*out, Piece(text[at:])]
