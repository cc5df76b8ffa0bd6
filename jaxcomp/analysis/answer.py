"""The verdict of a sweep as sentences, computed from its numbers."""

from __future__ import annotations

import statistics
from collections import defaultdict

from jaxcomp.analysis import stats
from jaxcomp.analysis.document import Answer
from jaxcomp.analysis.tables import number, p_phrase, phrase, points, verdict
from jaxcomp.analysis.verdict import (
    ABSENT,
    POWER,
    PRESENT,
    THESE_BASES,
    TRIED,
    RatioVerdict,
    Verdict,
)
from jaxcomp.config import Config
from jaxcomp.evals.metrics import Headline, endpoints
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results

QUESTION = "Does a larger compressor lose faithfulness?"
TUNED = f"{QUESTION[:-1]} with the learning rate tuned per size?"


def answer(results: Results, tuned: bool = False) -> Answer:
    """The answer at the primary ratio, the numbers behind it, and what would settle it. Needs a
    finished job."""
    said, (loss, kept) = verdict(results, tuned), endpoints(results.cfg)
    question, v, ratio = TUNED if tuned else QUESTION, said.primary, said.primary_ratio
    if all(len(names) < 2 for names in grid.sizes(results.cfg).values()):
        why = "This sweep has one size only; a comparison needs two or more."
        return Answer(question, "Inconclusive", why, settle=_more_sizes(results.cfg))
    if v is None:
        return Answer(
            question,
            "Inconclusive",
            f"The primary ratio, {ratio}x, is not in this grid.",
            settle=f"Add {ratio} to sweep.ratios.",
            others=_others(said),
        )
    sign = {PRESENT: "Yes", ABSENT: "No"}.get(v.word, "Inconclusive")
    why, settle = _why(v, said, loss, kept, bool(results.missing or results.failed))
    return Answer(question, sign, why, _numbers(results, v, tuned), settle, _others(said))


def _more_sizes(cfg: Config) -> str:
    """The flag that adds a size, where a family of the config has a second one."""
    for setup in grid.setups(cfg):
        others = [size for size in cfg.families[setup.family] if size != setup.size]
        if others:
            return f"Run two or more sizes (--sweep.sizes={setup.size},{others[-1]})."
    return "Add a size to `families`."


def _measured(v: RatioVerdict) -> bool:
    """Has a pretraining seed both metrics of every size?"""
    return min(v.loss.replicates, v.kept.replicates) > 0


def _why(
    v: RatioVerdict, said: Verdict, loss: Headline, kept: Headline, unfinished: bool
) -> tuple[str, str]:
    """Why this is the answer, and what would settle it."""
    smallest = phrase(said.smallest_effect, kept.unit, step=True)
    if v.worst is None:
        if not _measured(v):
            return (
                f"No pretraining seed has a finished run of every size with {loss.label} and "
                f"{kept.label} yet.",
                "Finish the sweep: the same command resumes it." if unfinished else "",
            )
        bases = min(v.loss.bases, v.kept.bases)
        return (
            f"{seeds(bases)} per size cannot answer it: what is seen here applies to these "
            "pretrained models only.",
            "Run at least 3 pretraining seeds (sweep.base_seeds).",
        )
    tested = f"{loss.label} {_trend(v.loss)}, {kept.label} {_trend(v.kept)} ({seeds(v.kept.bases)})"
    if v.word == PRESENT:
        return f"At {v.ratio}x both fall as size grows: {tested}.", ""
    w = v.worst
    bound = f"{w.family} {w.large} compared with {w.small}"
    if v.word == ABSENT:
        return (
            f"At {v.ratio}x a fall by {smallest} is excluded: at 95% confidence the largest size "
            f"preserves at most {phrase(max(w.bound, 0.0), kept.unit, step=True)} less than a "
            f"smaller one ({bound}). {tested[0].upper()}{tested[1:]}.",
            "",
        )
    why = (
        f"At {v.ratio}x as size grows, {tested}. A fall by {smallest} is not excluded: it may be "
        f"up to {phrase(w.bound, kept.unit, step=True)} ({bound})."
    )
    if v.at_baseline:
        return (
            f"{why} {', '.join(v.at_baseline)} is within {smallest} of the no-memory baseline, so "
            "no such fall could show.",
            "Train longer or choose a lower ratio; more pretraining seeds would not help.",
        )
    needed = v.needed
    settle = "" if needed is None else (
        f"In {POWER:.0%} of sweeps, {_count(needed.to_exclude)} pretraining seeds decide if all "
        f"sizes are equal, {_count(needed.to_find)} if the endpoint falls by {smallest} from the "
        "smallest size to the largest (simulated with the spread found here)."
    )  # fmt: skip
    return why, settle


def seeds(n: int) -> str:
    return "One pretraining seed" if n == 1 else f"{n} pretraining seeds"


def _count(n: int | None) -> str:
    return f"more than {TRIED[-1]}" if n is None else str(n)


def _trend(t: stats.Trend) -> str:
    """`falls (p = 0.016)`; the p is one-sided, of the direction that is named."""
    way = stats.way(t)
    p = t.p_rise if way == "rises" else t.p_fall
    return f"{way} ({p_phrase(p)})" if way != "has no clear trend" else way


def _numbers(results: Results, v: RatioVerdict, tuned: bool) -> str:
    """The two metrics of the smallest and the largest size of each family, means over runs."""
    ends = []
    for head in endpoints(results.cfg):
        held: dict[str, dict[tuple[float, str], list[float]]] = defaultdict(dict)
        for p in points(results.rows, head.metric, v.ratio, tuned):
            if p.value is not None:
                held[p.family].setdefault((p.params, p.size), []).append(p.value)
        ends.append({f: sorted(sizes.items()) for f, sizes in held.items() if len(sizes) > 1})
    said = []
    for family in sorted(ends[0].keys() & ends[1].keys()):
        sizes = ends[0][family]
        names = f"{sizes[0][0][1]} → {sizes[-1][0][1]}"
        each = [
            f"{head.label} {number(statistics.fmean(at[family][0][1]), head.unit)} → "
            f"{phrase(statistics.fmean(at[family][-1][1]), head.unit)}"
            for head, at in zip(endpoints(results.cfg), ends, strict=True)
        ]
        said.append(f"{family} {names}: {', '.join(each)}")
    return (
        f"At {v.ratio}x, from the smallest size to the largest: {'; '.join(said)}." if said else ""
    )


def _others(said: Verdict) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for v in said.ratios:
        if v.ratio != said.primary_ratio and v.word != THESE_BASES:
            groups[v.word if _measured(v) else "not measured for every size"].append(f"{v.ratio}x")
    rest = "; ".join(f"{word} at {', '.join(which)}" for word, which in sorted(groups.items()))
    return f"Other ratios (Holm-adjusted): {rest}." if rest else ""
