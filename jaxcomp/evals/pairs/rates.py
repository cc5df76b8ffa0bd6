"""From the likelihoods of minimal pairs to rates, tests and a table. The metrics page: "Drift on
minimal pairs"."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from scipy import stats

from jaxcomp.evals.pairs.edit_rules import DIMENSIONS
from jaxcomp.evals.qa.ask import shown
from jaxcomp.evals.qa.resumable import Record
from jaxcomp.evals.qa.scoring import proportion

CONDITIONS = ("memory", "no_memory", "plain")


def rates(records: Sequence[Record]) -> dict[str, Any]:
    """`dimensions`: of each dimension and `all`; `sources`: the same of each set; `rules`: of each
    <dimension>/<rule>."""
    sources: dict[str, list[Record]] = {}
    rules: dict[str, list[Record]] = {}
    for r in records:
        sources.setdefault(r["source"], []).append(r)
        rules.setdefault(f"{r['dimension']}/{r['rule']}", []).append(r)
    return {
        "dimensions": _by_dimension(records),
        "sources": {name: _by_dimension(sources[name]) for name in sorted(sources)},
        "rules": {name: _of(rules[name]) for name in sorted(rules)},
    }


def _by_dimension(records: Sequence[Record]) -> dict[str, Any]:
    found = {name: _of([r for r in records if r["dimension"] == name]) for name in DIMENSIONS}
    return found | {"all": _of(records)}


def _of(records: Sequence[Record]) -> dict[str, Any]:
    # The id of a pair is <passage>/<dimension>.
    passages = [r["id"].rpartition("/")[0] for r in records]
    # The true text is the likelier of (true, foil); a tie is not right.
    right = {c: [r["nats"][c][0] < r["nats"][c][1] for r in records] for c in CONDITIONS}
    # From its own memory the foil is the true text.
    foils = [r["nats"]["foil_memory"][1] < r["nats"]["foil_memory"][0] for r in records]
    even = [r["tokens"][0] == r["tokens"][1] for r in records]
    over = [not hit for hit in right["no_memory"]]
    memory_only = _among(right["memory"], passages, over)
    gained = memory_only["count"]
    lost = sum(f and not m for m, f in zip(right["memory"], right["no_memory"], strict=True))
    both = [a and b for a, b in zip(right["memory"], foils, strict=True)]
    return {
        "n": len(records),
        **{c: proportion(right[c], passages) for c in CONDITIONS},
        "pair_accuracy": proportion(both, passages),
        "against_no_memory": memory_only,
        "mcnemar": {
            "memory_only": gained,
            "no_memory_only": lost,
            "p": float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else None,
        },
        "ties": sum(r["nats"]["memory"][0] == r["nats"]["memory"][1] for r in records),
        "margin": {c: _margin(records, c) for c in CONDITIONS},
        "equal_tokens": {
            "share": proportion(even, passages),
            **{c: _among(right[c], passages, even) for c in CONDITIONS},
        },
    }


def _among(hits: list[bool], passages: list[str], which: list[bool]) -> dict[str, Any]:
    """The share of hits among those that `which` marks."""
    return proportion(
        list(itertools.compress(hits, which)), list(itertools.compress(passages, which))
    )


def _margin(records: Sequence[Record], condition: str) -> float | None:
    """Nats by which the foil is the less likely one, mean over pairs."""
    gaps = [r["nats"][condition][1] - r["nats"][condition][0] for r in records]
    return sum(gaps) / len(gaps) if gaps else None


def table(result: dict[str, Any]) -> str:
    """A result as text."""
    pairs = result["pairs"]
    made = sum(pairs["made"].values())
    lines = [
        f"{pairs['asked']:,} of {made:,} minimal pairs of {pairs['passages']:,} passages asked"
    ]
    lines += [f"  left out: {n:,} with {why}" for why, n in sorted(pairs["left_out"].items())]
    lines.append(
        f"  {pairs['beyond_training']:,} have a memory of more than the "
        f"{pairs['trained_segments']} segment(s) this pair was trained with"
    )
    for name, found in result["sources"].items():
        lines += ["", f"{name}: the true text is likelier than its foil, from"]
        lines += [_HEAD, *(_row(d, found[d]) for d in (*DIMENSIONS, "all") if found[d]["n"])]
        lines += [f"{d:10} not measurable: no pair" for d in DIMENSIONS if not found[d]["n"]]
    lines += [
        "",
        "memory: its memory. no memory: same prompt (chance and prior). text alone: the",
        "decoder as a language model. pair accuracy: right from its memory, and the foil from the",
        "foil's; without memory none can be. p: memory against no memory, McNemar's test, exact,",
        "two-sided. equal: the rate from memory of pairs of as many decoder tokens, and how many",
        "they are. Wilson 95% intervals; that of `all` takes the pairs of a passage together, and",
        "its p does not. Definitions: python -m jaxcomp.analysis.metrics_page",
    ]
    return "\n".join(lines)


_HEAD = (
    f"{'':10}{'pairs':>6}{'memory':>22}{'no memory':>11}{'text alone':>12}{'pair accuracy':>22}"
    f"{'p':>9}{'equal':>14}"
)


def _row(name: str, found: dict[str, Any]) -> str:
    p, even = found["mcnemar"]["p"], found["equal_tokens"]["memory"]
    equal = f"{_percent(even)} of {even['n']}"
    return (
        f"{name:10}{found['n']:>6}{shown(found['memory']):>22}{_percent(found['no_memory']):>11}"
        f"{_percent(found['plain']):>12}{shown(found['pair_accuracy']):>22}"
        f"{'-' if p is None else f'{p:.2g}':>9}{equal:>14}"
    )


def _percent(found: dict[str, Any]) -> str:
    return "-" if found["rate"] is None else f"{100 * found['rate']:.1f}%"
