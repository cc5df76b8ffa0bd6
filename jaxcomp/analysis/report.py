"""The report of a sweep: answer, figure, outcomes of facts, examples, statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxcomp.analysis import (
    arms,
    charts,
    compare_page,
    compare_runs,
    correlations,
    document,
    examples,
    factor,
    factor_effect,
    figures,
    overwriting,
    prior_conflict,
    size_tables,
    stats,
)
from jaxcomp.analysis.answer import answer, seeds
from jaxcomp.analysis.document import Alert, Block, Folded, Head, Link, Para, Table
from jaxcomp.analysis.tables import (
    cell,
    counted,
    header,
    lr_grid_csv,
    no_memory_of,
    number,
    own_decoder,
    points,
    results_csv,
    text,
    timings_csv,
)
from jaxcomp.config import Config
from jaxcomp.evals.metrics import PREDICTOR, Headline, endpoints, headlines, of_roles
from jaxcomp.evals.metrics.reconstruction import memory_size
from jaxcomp.sweep import grid, rows
from jaxcomp.sweep.collect import Result, Results, collect, with_passages
from jaxcomp.sweep.store import Ledger, write_bytes, write_text


class Written(NamedTuple):
    """What a report says in short, for the command line."""

    folder: Path
    sentence: str
    done: int
    failed: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


def report(cfg: Config, workdir: Path, others: Sequence[tuple[Config, Path]] = ()) -> Written:
    """Write `workdir/report/`; works on an unfinished sweep and says what is missing.

    `others` are configs and workdirs of the same sizes against another decoder, at another prior
    strength, or from base models of another text; of the people world, arms (arms.py).

    Raises:
      OSError: the disk is full.
      ConfigError: sweeps that cannot be compared, or damaged records of passages.
    """
    results = with_passages(collect(cfg, Ledger(workdir)), workdir)
    folder = workdir / "report"
    kinds = [factor.kind_of(cfg, other) for other, _ in others]
    swaps = [x for kind, x in zip(kinds, others, strict=True) if kind == "decoder"]
    compared = compare_runs.blocks(results, [collect(c, Ledger(place)) for c, place in swaps])
    measured = []
    if "arms" in kinds:
        compared += arms.blocks([results, *(collect(c, Ledger(place)) for c, place in others)])
    for kind in sorted(set(kinds) - {"arms", "decoder"}):
        levels = [x for k, x in zip(kinds, others, strict=True) if k == kind]
        measured.append(_factor(kind, [(cfg, workdir), *levels]))
    sizes = size_tables.gather(results)
    blocks = _blocks(results, workdir, sizes)
    # Nothing is written before all is known to be comparable.
    for made, found in measured:
        write_text(folder / f"{made.file}.csv", compare_page.as_csv(made, found))
        compared += compare_page.blocks(made, found)
    write_text(folder / "timings.csv", timings_csv(results))
    if cfg.sweep.lr_grid:
        write_text(folder / "lr_grid.csv", lr_grid_csv(results))
    write_text(folder / "pairs.csv", size_tables.pairs_csv(sizes))
    figure = figures.main(results)
    if figure is not None:
        write_bytes(folder / "main-dark.png", charts.png(figure, charts.DARK))
        write_bytes(folder / "main.pdf", charts.pdf(figure))
    at = next((i for i, b in enumerate(blocks) if b == STATISTICS), len(blocks))
    title = f"Compressor size and faithfulness: {cfg.name}"
    terms = {h.label: f"{h.meaning} ({h.metric})" for h in headlines(cfg)} | TERMS
    document.write(folder, "report", title, [*blocks[:at], *compared, *blocks[at:]], terms)
    sweep = workdir.absolute().name
    rows.write([{"sweep": sweep} | row for row in results.finished], folder / rows.NAME)
    write_text(folder / "results.csv", results_csv(results))
    done = len(results.timings)
    sentence = answer(results).sentence if results.rows else NOTHING
    return Written(folder, sentence, done, tuple(results.failed), tuple(results.missing))


def _factor(
    kind: str, sweeps: Sequence[tuple[Config, Path]]
) -> tuple[factor.Factor, list[factor_effect.Found]]:
    """Do prior strengths, or texts, change what size does?"""
    raw = [collect(cfg, Ledger(place)) for cfg, place in sweeps]
    names = [h.metric for h in factor.factor_of(kind, raw).heads]
    held = [with_passages(r, place, names) for r, (_, place) in zip(raw, sweeps, strict=True)]
    made = factor.factor_of(kind, held)
    return made, factor_effect.measure(made)


# --- content ---------------------------------------------------------------------------------

STATISTICS = Head("Statistics")
NOTHING = "No job has finished yet."
TERMS = {
    "preserved": "the rebuilt text states the same fact",
    "overwritten": "the decoder's favourite value stands in the place of another one (knowledge "
    "overwriting)",
    "swapped": "the two arguments of the fact are exchanged",
    "substituted": "another value stands in its place",
    "omitted": "the rebuilt text states no such fact",
    "95% interval": "value ± Student's t x the standard deviation over bootstrap draws of "
    "pretraining seeds, of training seeds inside them, and of passages where their records are "
    "there",
    "pretraining seed": "an independently pretrained model from which the compressor starts; runs "
    "of one pretraining seed share its errors",
    "Spearman's rho": "rank correlation with the number of parameters, inside a pretraining seed "
    "and training seed, averaged: -1 falls always, +1 rises always",
    "Holm": "p-values adjusted for how many are tested together (Holm 1979)",
}


def _blocks(results: Results, workdir: Path, sizes: list[size_tables.Evidence]) -> list[Block]:
    cfg = results.cfg
    out: list[Block] = _unfinished(results)
    if not results.rows:
        return [*out, Para(NOTHING)]
    opened = overwriting.gate(results)
    out += [Para(opened.sentence)] if opened else []
    out.append(answer(results))
    out += overwriting.blocks(results, opened)
    main = figures.main(results)
    out += [Head("Loss and faithfulness against size"), main] if main else []
    facts = figures.facts(results)
    out += [Head("What happened to the facts"), facts] if facts else []
    out += examples.blocks(results, workdir)
    mechanisms = figures.of_metrics(results, "mechanisms", of_roles(cfg, PREDICTOR), MECHANISMS)
    out += [Head("Mechanisms"), mechanisms] if mechanisms else []
    out += [STATISTICS, Para(_how(results))]
    out.append(Folded("All sizes and ratios", [_table(results, workdir)], brief=True))
    if any(r.tuned for r in results.rows):
        out.append(Folded("With the learning rate tuned per size", _tuned(results)))
    out.append(Folded("Trends with size", [_trends(results)], brief=True))
    out += size_tables.folded(sizes, cfg.sweep.primary_ratio)
    return [*out, *prior_conflict.folded(results), *correlations.folded(results)]


MECHANISMS = (
    "Effective rank of the memory, and how uncertain the decoder is of what it rebuilds. Points "
    "and bars as above."
)


def _unfinished(results: Results) -> list[Block]:
    failed = [f"{job}: {message}" for job, message in results.failed]
    count = counted(len(failed) + len(results.missing) + len(results.timings), "job")
    out: list[Block] = []
    if failed:
        out.append(Alert(f"{len(failed)} of {count} failed; run the sweep again.", failed))
    if results.missing:
        are = "is" if len(results.missing) == 1 else "are"
        said = f"{len(results.missing)} of {count} {are} missing from this report."
        out.append(Alert(said, results.missing))
    return out


def _how(results: Results) -> str:
    cfg, optim = results.cfg, results.cfg.train.optim
    own = sorted({r.job.setup.line for r in results.rows if own_decoder(r)})
    decoder = (
        f"a frozen decoder; {', '.join(own)} train their decoder too, so each of their runs has a "
        "no-memory baseline of its own (columns of results.csv)"
        if own
        else "one frozen decoder"
    )
    return (
        f"{seeds(len(cfg.sweep.base_seeds))} and "
        f"{counted(len(cfg.sweep.seeds), 'training seed')} per size. "
        f"Every size was trained for the same {optim.steps:,} steps of {optim.batch} passages at "
        f"learning rate {optim.lr:g}, on segments of {cfg.data.segment} tokens, against {decoder}. "
        "Formulas: `python -m jaxcomp.analysis.metrics_page`. All numbers: results.csv, pairs.csv."
    )


def _table(results: Results, workdir: Path) -> Table:
    heads = _measured(results)
    cells: dict[tuple, list[Result]] = defaultdict(list)
    for r in results.rows:
        s = r.job.setup
        cells[s.line, r.metrics["params"], s.size, s.ratio].append(r)
    counts = {len(found) for found in cells.values()}
    recipes = len(results.cfg.sweep.recipes) > 1
    kept = (workdir / "jobs").is_dir()
    bounded = [h for h in heads if h.bound]
    head = ["family", "size", "ratio", "parameters", *(["runs"] if len(counts) > 1 else [])]
    head += ["vectors x bytes of a memory"] if recipes else []
    head += [*map(header, heads), *(f"{h.label}, largest possible" for h in bounded)]
    body, ids = [], []
    for (family, params, size, ratio), found in sorted(cells.items()):
        row: list = [family, size, f"{ratio}x", f"{params:,}"]
        row += [str(len(found))] if len(counts) > 1 else []
        row += [_memory(found, endpoints(results.cfg)[0].metric)] if recipes else []
        row += [_mean(found, h.metric, ratio, h) for h in heads]
        row += [_mean(found, h.bound, ratio, h) for h in bounded]
        body.append([*row, _links(found, workdir)] if kept else row)
        ids.append(figures.place(family, size, ratio))
    mean = f"mean over {'its' if len(counts) > 1 else max(counts)} runs"
    interval = " ± half of its 95% interval, from three runs on"
    what = "one run" if counts == {1} else f"one setup, {mean}{interval}"
    caption = f"Each row: {what}.{_no_memory_note(results, heads)}"
    return Table([*head, *(["jobs"] if kept else [])], body, caption, 3, ids)


def _measured(results: Results) -> list[Headline]:
    """The headlines that a run has a value of."""
    return [
        h
        for h in headlines(results.cfg)
        if any(r.metrics.get(h.metric) is not None for r in results.rows)
    ]


def _links(found: Sequence[Result], workdir: Path) -> list[Link]:
    """To the inspect page of each run, or to its folder."""
    out = []
    for r in found:
        folder = workdir / "jobs" / r.job.id
        if folder.is_dir():
            page = "inspect.html" if (folder / "inspect.html").is_file() else ""
            out.append(Link(f"b{r.job.base_seed} s{r.job.seed}", f"../jobs/{r.job.id}/{page}"))
    return out


def _mean(found: list[Result], metric: str, ratio: int, head: Headline, tuned: bool = False) -> str:
    return cell(stats.mean(points(found, metric, ratio, tuned)), head.unit)


def _memory(found: list[Result], metric: str) -> str:
    """`14.6 x 256`: vectors of a held-out text of the metric's set, mean, and bytes of each."""
    sizes = [memory_size(r.metrics, metric.partition("/")[0]) for r in found]
    said = {f"{size[0]:.3g} x {size[1]:.4g}" for size in sizes if size}
    return ", ".join(sorted(said)) or "–"


def _no_memory_note(results: Results, heads: Sequence[Headline]) -> str:
    found = [(h, no_memory_of(results, h.metric)) for h in heads]
    said = [f"{header(h)} {number(v, h.unit)}" for h, v in found if v is not None]
    return f" The frozen decoder without memory: {', '.join(said)}." if said else ""


def _tuned(results: Results) -> list[Block]:
    """The same answer and numbers at the rate with the lowest validation loss of each size."""
    ends = endpoints(results.cfg)
    grid_of = ", ".join(f"{m:g}" for m in sorted({1.0, *results.cfg.sweep.lr_grid}))
    cells: Mapping[tuple, list[Result]] = defaultdict(list)
    for r in results.rows:
        if r.tuned:
            s = r.job.setup
            cells[s.line, r.metrics["params"], s.size, s.ratio].append(r)
    body = [
        [
            family,
            size,
            f"{ratio}x",
            " ".join(sorted({text(r.tuned[0].config.train.optim.lr) for r in found if r.tuned})),
            *(_mean(found, h.metric, ratio, h, tuned=True) for h in ends),
        ]
        for (family, _, size, ratio), found in sorted(cells.items())
    ]
    caption = (
        f"Per size the rate of the lowest validation loss among {grid_of} times the recipe's. Mean "
        "over runs ± half of its 95% interval, from three runs on."
    )
    head = ["family", "size", "ratio", "learning rate", *map(header, ends)]
    return [answer(results, tuned=True), Table(head, body, caption, 3)]


def _trends(results: Results) -> Table:
    ratios = sorted({r.job.setup.ratio for r in results.rows})
    found = [
        [stats.trend(points(results.rows, h.metric, r), grid.sizes(results.cfg, r)) for r in ratios]
        for h in _measured(results)
    ]
    body = [
        [h.label, *map(compare_runs.cell, trends)]
        for h, trends in zip(_measured(results), found, strict=True)
    ]
    tested = any(t.bases >= stats.MIN_REPLICATES for trends in found for t in trends)
    rule = (
        " with its 95% interval and one-sided permutation p-values (that it falls, that it rises), "
        "unadjusted and, but for the two metrics of the answer, exploratory"
        if tested
        else "; with under three pretraining seeds it has no interval and no p-value"
    )
    caption = f"Spearman's rho of each metric with the number of parameters{rule}."
    return Table(["metric", *(f"{r}x" for r in ratios)], body, caption, 1)
