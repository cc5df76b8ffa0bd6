"""The page: one file that links to nothing, source and rebuilt text side by side in colours."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxcomp.data.facts import OUTCOMES
from jaxcomp.evals import attribution
from jaxcomp.evals.attribution import REBUILT, SOURCE, Word
from jaxcomp.evals.linear_probe import Reading, Share
from jaxcomp.evals.tracing import Said, Trace
from jaxcomp.runtime import strict_json

VERSION = 1  # of the page's form
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
    """The linear probe of one set: its passages, readings, and the slots that were not asked."""

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


def html_of(content: Content) -> str:
    """The whole page; every text in it is escaped, and it allows no script but its own."""
    hashed = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'"
    about = json.dumps(content.about, sort_keys=True)
    out = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f'<meta name="{_META}" content="{_e(about)}">',
        f'<meta http-equiv="Content-Security-Policy" content="{_e(policy)}">',
        f"<title>{_e(content.title)}</title><style>{_STYLE}</style><h1>{_e(content.title)}</h1>",
        _counts(content),
        _legend(),
    ]
    if content.probed is not None:
        out.append(_probe(content.probed))
    if content.words is not None and content.probed is not None:
        out.append(_value_words(content.words, content.probed))
    out += ["<h2>Passages</h2>", _buttons(), "<table id=passages><thead><tr><th>passage<th>source"]
    out.append("<th>rebuilt</thead><tbody>")
    rows = ((name, trace) for name, traces in content.sets.items() for trace in traces)
    out += [_row(number, name, trace) for number, (name, trace) in enumerate(rows)]
    out += ["</tbody></table>", f"<script>{_SCRIPT}</script></html>"]
    return "\n".join(out) + "\n"


def about_of(content: bytes) -> dict[str, Any] | None:
    """`Content.about` of a page written by `html_of`; None where `content` is no such page."""
    head = content[:4096].decode(errors="replace")
    found = re.search(rf'<meta name="{_META}" content="([^"]*)">', head)
    try:
        return strict_json.parse(html.unescape(found[1]), _META, dict) if found else None
    except strict_json.JsonError:
        return None


# --- the top -----------------------------------------------------------------------------------


def _counts(content: Content) -> str:
    out = ["<h2>Words</h2>"]
    header = ["set", "passages", "loss", "words", *SOURCE]
    rows, back = [], []
    for name, traces in content.sets.items():
        c = content.counts[name]
        targets = sum(len(t.example.target) for t in traces)
        nll = math.fsum(t.loss * len(t.example.target) for t in traces)
        row = [name, str(len(traces)), f"{nll / targets:.4f}", str(c["source/all"])]
        rows.append(row + [_of(c, "source", label) for label in SOURCE])
        undecided = str(sum(t.undecided for t in traces))
        row = [name, str(c["rebuilt/all"]), *(_of(c, "rebuilt", label) for label in REBUILT)]
        row += [str(c["departure/all"]), _of(c, "departure", "overwritten"), undecided]
        back.append(row)
    out.append("<p>Of the source (loss: nats/token, TF, end token included):</p>")
    out.append(_table(header, rows))
    out.append("<p>Of the rebuilt text (FR, greedy):</p>")
    header = ["set", "words", *REBUILT, "departures", "of them overwritten", "undecided"]
    out.append(_table(header, back))
    out.append(
        "<p>A word is a word or a punctuation mark. Counts, and shares of the words of their row. "
        "Undecided: words that stand for another one, where the decoder without the memory could "
        "not be asked at one token; they are among the invented.</p>"
    )
    return "\n".join(out)


def _of(counts: Mapping[str, int], side: str, label: str) -> str:
    n, whole = counts[f"{side}/{label}"], counts[f"{side}/all"]
    return f"{n} ({n / whole:.1%})" if whole else "0"


def _legend() -> str:
    items = "".join(
        f"<li><span class={label[0]}>{label}</span>: {_e(_MEANING[label])}" for label in LABELS
    )
    return f"<h2>Legend</h2><ul>{items}</ul><p>{_e(_ENTROPY)}</p><p>{_e(_DEPARTURE)}</p>"


def _probe(probed: Probed) -> str:
    header = [
        "kind",
        "slots",
        "entities",
        "values",
        "read",
        "control",
        "returned",
        "moved",
        "wrong",
    ]
    header += ["wrong: beyond chance", "wrong: reads the decoder's", "verdict"]
    rows = []
    for r in probed.readings:
        shares = [_share(s) for s in (r.every, r.control, r.returned)]
        shares += [str(r.moved), _share(r.wrong)]
        beyond = f"{r.wrong.beyond_chance:.2f}" if r.wrong else "–"
        row = [r.kind, str(r.slots), str(r.entities), str(r.values), *shares, beyond]
        rows.append([*row, _share(r.as_decoder), r.verdict or f"none: {r.reason}"])
    left = "; ".join(f"{n} {why}" for why, n in sorted(probed.left_out.items()))
    note = (
        f"{probed.passages} passages of the set {probed.set}. A multinomial logistic regression "
        "reads a slot's value from the memory vector of its block and the two beside it, fitted on "
        "slots of other entities. Shares: right, 95% interval (Wilson), c chance. control: the "
        "same, with shuffled values. returned: slots off their favourite that came back. "
        "moved: slots whose value came back in its place beside another entity. wrong: the other "
        "ones that did not come back. Verdicts are one kind each, unadjusted for their number. Not "
        f"asked: {left or 'none'}. Definitions: python -m jaxcomp.analysis.metrics_page."
    )
    return f"<h2>Linear probe</h2>{_table(header, rows)}<p>{_e(note)}</p>"


def _share(share: Share | None) -> str:
    if share is None:
        return "–"
    return (
        f"{share.rate:.2f} [{share.low:.2f}, {share.high:.2f}] of {share.n}, c {share.chance:.2f}"
    )


def _value_words(words: Mapping[str, Counter[str]], probed: Probed) -> str:
    rows = [
        [outcome, str(sum(words[outcome].values())), *(str(words[outcome][x]) for x in SOURCE)]
        for outcome in OUTCOMES
        if outcome in words
    ]
    note = (
        "A check of the alignment against the world's grammar: by the outcome of a slot, how the "
        f"word of its value was labelled (slots of one-word values, set {probed.set})."
    )
    return f"<h2>Slots and words</h2>{_table(['slot', 'n', *SOURCE], rows)}<p>{_e(note)}</p>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(
        "<tr>" + "".join(f"<{tag}>{_e(cell)}" for cell in row)
        for tag, row in [("th", header), *(("td", row) for row in rows)]
    )
    return f"<div class=wide><table>{body}</table></div>"


def _buttons() -> str:
    keys = ("number", "loss", *LABELS)
    buttons = "".join(
        f"<button data-by={k}>{'order' if k == 'number' else k}</button>" for k in keys
    )
    return f"<p>Sort by (most first): {buttons}</p>"


# --- a passage ---------------------------------------------------------------------------------


def _row(number: int, name: str, trace: Trace) -> str:
    count = Counter(trace.labels.source)
    count["invented"] = trace.labels.rebuilt.count("invented")
    data = " ".join(f"data-{label}={count[label]}" for label in LABELS)
    said = ", ".join(f"{count[x]} {x}" for x in LABELS if count[x])
    about = f"{_e(name)} {_e(trace.example.id)}<br>loss {trace.loss:.4f}"
    source = _marked(
        trace.example.text, trace.source_words, [f"class={x[0]}" for x in trace.labels.source]
    )
    away = attribution.departures(trace.labels.rebuilt)
    marks = map(_mark, trace.labels.rebuilt, away, trace.said)
    rebuilt = _marked(trace.rebuilt, trace.rebuilt_words, list(marks))
    return (
        f"<tr data-number={number} data-loss={trace.loss:.6f} {data}><td>{about}<br>{said}"
        f"<td class=t>{source}<td class=t>{rebuilt}"
    )


def _mark(label: str, away: bool, said: Said) -> str:
    bar = min(HIGHEST, round(said.entropy / STEP))
    title = f"entropy {said.entropy:.2f}, p {_p(said.logp)}, without memory {_p(said.logp_floor)}"
    if said.margin is not None and said.margin_floor is not None:
        title += f"; over the source's word {said.margin:+.2f}, without {said.margin_floor:+.2f}"
    names = [label[0], *(["d"] if away else []), *([f"h{bar}"] if bar else [])]
    return f'class="{" ".join(names)}" title="{title}"'


def _p(logp: float) -> str:
    return f"{math.exp(logp):.2g}"


def _marked(text: str, words: Sequence[Word], marks: Sequence[str]) -> str:
    out, at = [], 0
    for word, mark in zip(words, marks, strict=True):
        out.append(f"{_e(text[at : word.start])}<b {mark}>{_e(word.text)}</b>")
        at = word.end
    return "".join(out) + _e(text[at:])


def _e(text: str) -> str:
    return html.escape(text).replace("\0", "\ufffd")  # HTML knows no NUL


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:90rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin:1rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left} div.wide{overflow-x:auto} h2{margin-top:2rem}
#passages td,#passages th{text-align:left} #passages td:first-child{width:13rem}
td.t{white-space:pre-wrap;font-size:15px;line-height:2.1;unicode-bidi:isolate;width:42%}
b,li span{font-weight:normal;display:inline-block;line-height:1.3;vertical-align:top;padding:0 1px}
.c{color:#222}.p{background:#cfe3ff}.o{background:#ffc9a8}.r{background:#fff0a0}
.l{background:#ddd;text-decoration:line-through}.i{background:#e6ccf5}
.d{border-left:2px dotted #222}
button{margin-right:.4rem}
""" + "".join(f".h{n}{{border-bottom:{n}px solid #357}}" for n in range(1, HIGHEST + 1))

_SCRIPT = """
const body = document.querySelector("#passages tbody");
for (const button of document.querySelectorAll("button[data-by]")) {
  button.addEventListener("click", () => {
    const by = button.dataset.by, sign = by === "number" ? 1 : -1;
    const value = row => parseFloat(row.dataset[by]);
    const order = (a, b) => value(a) === value(b) ? 0 : sign * (value(a) - value(b));
    const place = (a, b) => order(a, b) || a.dataset.number - b.dataset.number;
    body.append(...[...body.rows].sort(place));
  });
}
"""
