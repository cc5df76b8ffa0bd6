"""From the likelihoods of minimal pairs to rates, tests and a table. docs/metrics.md: "Drift on
minimal pairs"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy import stats

from jaxcomp.evals.pairs.edit_rules import DIMENSIONS
from jaxcomp.evals.qa.scoring import proportion

CONDITIONS = ("memory", "no_memory", "plain")


def rates(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`dimensions`: of each dimension and `all`; `sources`: the same of each set; `rules`: of each
    <dimension>/<rule>."""
    sources = sorted({r["source"] for r in records})
    rules = sorted({f"{r['dimension']}/{r['rule']}" for r in records})
    return {
        "dimensions": _by_dimension(records),
        "sources": {
            name: _by_dimension([r for r in records if r["source"] == name]) for name in sources
        },
        "rules": {
            name: _of([r for r in records if f"{r['dimension']}/{r['rule']}" == name])
            for name in rules
        },
    }


def right(nats: Sequence[float]) -> bool:
    """The true text is the likelier of (true, twin); a tie is not right."""
    return nats[0] < nats[1]


def passage_of(record: dict[str, Any]) -> str:
    """The id of its passage: that of a pair is <passage>/<dimension>."""
    return record["id"].rpartition("/")[0]


def _by_dimension(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: _of([r for r in records if name in ("all", r["dimension"])])
        for name in (*DIMENSIONS, "all")
    }


def _of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    n, passages = len(records), [passage_of(r) for r in records]
    judged = {c: [right(r["nats"][c]) for r in records] for c in CONDITIONS}
    memory, floor = judged["memory"], judged["no_memory"]
    # From its own memory the twin is the true text.
    twins = [right(r["nats"]["twin_memory"][::-1]) for r in records]
    both = [a and b for a, b in zip(memory, twins, strict=True)]
    over = [(m, p) for m, f, p in zip(memory, floor, passages, strict=True) if not f]
    gained = sum(m for m, _ in over)
    lost = sum(f and not m for m, f in zip(memory, floor, strict=True))
    even = [r for r in records if r["tokens"][0] == r["tokens"][1]]
    of_even = [passage_of(r) for r in even]
    return {
        "n": n,
        **{c: proportion(judged[c], passages) for c in CONDITIONS},
        "pair_accuracy": proportion(both, passages),
        "against_no_memory": proportion([m for m, _ in over], [p for _, p in over]),
        "mcnemar": {
            "memory_only": gained,
            "no_memory_only": lost,
            "p": float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else None,
        },
        "ties": sum(r["nats"]["memory"][0] == r["nats"]["memory"][1] for r in records),
        "margin": {c: _margin(records, c) for c in CONDITIONS},
        "equal_tokens": {
            "share": proportion([r["tokens"][0] == r["tokens"][1] for r in records], passages),
            **{c: proportion([right(r["nats"][c]) for r in even], of_even) for c in CONDITIONS},
        },
    }


def _margin(records: Sequence[dict[str, Any]], condition: str) -> float | None:
    """Nats by which the twin is the less likely one, mean over pairs."""
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
    lines += [
        f"  {pairs['beyond_training']:,} have a memory of more than the "
        f"{pairs['trained_segments']} segment(s) this pair was trained with",
    ]
    for name, found in result["sources"].items():
        lines += ["", f"{name}: the true text is likelier than its twin, from"]
        lines += [_HEAD, *(_row(d, found[d]) for d in (*DIMENSIONS, "all") if found[d]["n"])]
        lines += [f"{d:10} not measurable: no pair" for d in DIMENSIONS if not found[d]["n"]]
    lines += [
        "",
        "memory: its memory. no memory: same prompt (chance and prior). text alone: the",
        "decoder as a language model. pair accuracy: right from its memory, and the twin from the",
        "twin's; without memory none can be. p: memory against no memory, McNemar's test, exact,",
        "two-sided. equal: the rate from memory of pairs of as many decoder tokens, and how many",
        "they are. Wilson 95% intervals; that of `all` takes the pairs of a passage together, and",
        "its p does not. Definitions: docs/metrics.md",
    ]
    return "\n".join(lines)


_HEAD = (
    f"{'':10}{'pairs':>6}{'memory':>22}{'no memory':>11}{'text alone':>12}{'pair accuracy':>22}"
    f"{'p':>9}{'equal':>14}"
)


def _row(name: str, found: dict[str, Any]) -> str:
    p, even = found["mcnemar"]["p"], found["equal_tokens"]
    shown = f"{_percent(even['memory'])} of {even['memory']['n']}"
    return (
        f"{name:10}{found['n']:>6}{_interval(found['memory']):>22}{_percent(found['no_memory']):>11}"
        f"{_percent(found['plain']):>12}{_interval(found['pair_accuracy']):>22}"
        f"{'-' if p is None else f'{p:.2g}':>9}{shown:>14}"
    )


def _percent(found: dict[str, Any]) -> str:
    return "-" if found["rate"] is None else f"{100 * found['rate']:.1f}%"


def _interval(found: dict[str, Any]) -> str:
    if found["low"] is None:
        return _percent(found)
    return f"{_percent(found)} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
