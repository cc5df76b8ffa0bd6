"""report.md and report.html: the verdict, the table, the plots, what failed and what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxcomp.analysis import (
    charts,
    compare,
    compare_page,
    compare_runs,
    correlations,
    figures,
    plots,
    prior_conflict,
    size_tables,
    stats,
)
from jaxcomp.analysis.document import Block, Head, Items, Para, Picture, Table, markdown, page
from jaxcomp.analysis.tables import (
    floor_of,
    lr_grid_csv,
    own_decoder,
    points,
    results_csv,
    text,
    timings_csv,
    verdict,
)
from jaxcomp.analysis.verdict import Verdict
from jaxcomp.config import Config
from jaxcomp.evals.metrics import endpoints, headlines
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

    `others` are configs and workdirs of the same sizes against another decoder (beside.py), or at
    another dose of the prior, or from bases of another text (factor.py).
    Raises OSError; ConfigError where sweeps cannot be compared, or records of passages are
    damaged.
    """
    results = with_passages(collect(cfg, Ledger(workdir)), workdir)
    folder = workdir / "report"
    kinds = [compare.kind_of(cfg, other) for other, _ in others]
    swaps = [x for kind, x in zip(kinds, others, strict=True) if kind == "decoder"]
    compared = _beside(results, [collect(other, Ledger(place)) for other, place in swaps])
    measured = []
    for kind in sorted(set(kinds) - {"decoder"}):
        levels = [x for k, x in zip(kinds, others, strict=True) if k == kind]
        measured.append(_factor(kind, [(cfg, workdir), *levels]))
    # Nothing is written before all is known to be comparable.
    for made, found in measured:
        write_text(folder / f"{made.file}.csv", compare_page.as_csv(made, found))
        compared += compare_page.blocks(made, found)
    write_text(folder / "timings.csv", timings_csv(results))
    if cfg.sweep.lr_grid:
        write_text(folder / "lr_grid.csv", lr_grid_csv(results))
    said = verdict(results)
    sizes = size_tables.gather(results)
    write_text(folder / "pairs.csv", size_tables.pairs_csv(sizes))
    blocks = _blocks(results, said, compared, sizes)
    for block in blocks:
        if isinstance(block, Picture):
            write_bytes(folder / block.name, block.png)
    figure = figures.main(results)
    if figure is not None:
        write_bytes(folder / "main.png", charts.png(figure))
        write_bytes(folder / "main-dark.png", charts.png(figure, charts.DARK))
        write_bytes(folder / "main.pdf", charts.pdf(figure))
    title = f"Size and fidelity: {cfg.name}"
    write_text(folder / "report.md", markdown(title, blocks))
    write_text(folder / "report.html", page(title, blocks))
    sweep = workdir.absolute().name
    rows.write([{"sweep": sweep} | row for row in results.finished], folder / rows.NAME)
    # Last: where it agrees with the ledger, so does all the rest (`current`).
    write_text(folder / "results.csv", results_csv(results))
    done = len(results.timings)
    return Written(folder, said.sentence, done, tuple(results.failed), tuple(results.missing))


# --- content ---------------------------------------------------------------------------------


def _factor(
    kind: str, sweeps: Sequence[tuple[Config, Path]]
) -> tuple[compare.Factor, list[compare.Found]]:
    """Do doses, or texts, change what size does?"""
    raw = [collect(cfg, Ledger(place)) for cfg, place in sweeps]
    names = [h.metric for h in compare.factor_of(kind, raw).heads]
    held = [with_passages(r, place, names) for r, (_, place) in zip(raw, sweeps, strict=True)]
    made = compare.factor_of(kind, held)
    return made, compare.measure(made)


def _beside(results: Results, others: Sequence[Results]) -> list[Block]:
    """Does an effect of size hold against other decoders too?"""
    if not others:
        return [
            Para(
                "Not checked against a decoder that another reference compressor taught; before "
                "that, an effect of size is claimed of this decoder only (jaxcomp report --beside)."
            )
        ]
    compare_runs.different([other.cfg for other in others])
    every = [compare_runs.pairs(results, other) for other in others]
    out: list[Block] = [Para(compare_runs.in_all(every))] if len(every) > 1 else []
    for found, other in zip(every, others, strict=True):
        names = results.cfg.name, other.cfg.name
        header = ["endpoint", "ratio", *names, *(f"order in {n}" for n in names), "effect claimed"]
        decoder = compare_runs.decoder_of(results.cfg, other.cfg)
        out.append(Para(compare_runs.sentence(found, other.cfg.name, decoder)))
        out.append(Table(header, compare_runs.rows(found)))
    return out


def _blocks(
    results: Results, said: Verdict, compared: list[Block], sizes: list[size_tables.Evidence]
) -> list[Block]:
    cfg = results.cfg
    out: list[Block] = [Head("Verdict"), Para(f"Same recipe for all sizes: {said.sentence}")]
    if any(r.tuned for r in results.rows):
        out.append(Para(f"Rate tuned per size: {verdict(results, tuned=True).sentence}"))
    out += compared
    out.append(Para(_how(results)))
    if results.missing:
        missing = _count(len(results.missing), "job")
        out.append(Para(f"Unfinished, missing from this report: {missing}:"))
        out.append(Items(results.missing))
    if results.failed:
        out += [Head("Failed"), Items([f"{i}: {message}" for i, message in results.failed])]
    if not results.rows:
        return [*out, Para("No job has finished yet.")]
    out += [Head("Results"), _table(results), Para(_bounds(results))]
    out += [Head("Trends with size"), _trends(results), Para(_trend_note(said))]
    out += prior_conflict.blocks(results)
    out += size_tables.blocks(sizes, cfg.sweep.primary_ratio)
    out += correlations.blocks(results)
    out.append(Head("Plots"))
    out.append(
        Para(
            "Bars are 95% intervals: over replicates where a point has at least three, else over "
            "the passages of its one model (which says nothing of other models). Dotted: the "
            "frozen decoder without memory."
        )
    )
    for head in headlines(cfg):
        png = plots.plot(results, head)
        if png is not None:
            out.append(Picture(head.label.replace(" ", "_") + ".png", png))
    out += [
        Head("Definitions"),
        Items([f"{h.label}: {h.meaning} ({h.metric})" for h in headlines(cfg)]),
    ]
    out.append(
        Para("All columns of results.csv are defined in `python -m jaxcomp.analysis.metrics_page`.")
    )
    return out


def _how(results: Results) -> str:
    cfg, optim = results.cfg, results.cfg.train.optim
    base_seeds, seeds = len(cfg.sweep.base_seeds), len(cfg.sweep.seeds)
    grid = ", ".join(f"{m:g}" for m in sorted({1.0, *cfg.sweep.lr_grid}))
    tuned = (
        f" The rate is also tuned per size on validation loss over {grid} times that rate, at "
        f"ratio {', '.join(map(str, cfg.sweep.lr_ratios))}."
        if cfg.sweep.lr_grid
        else ""
    )
    done = len(results.timings)
    own = sorted({r.job.setup.line for r in results.rows if own_decoder(r)})
    decoder = f"one decoder, frozen but for {', '.join(own)}" if own else "one frozen decoder"
    return (
        f"{done} of {done + len(results.failed) + len(results.missing)} jobs done; "
        f"{_count(base_seeds * seeds, 'replicate')} ({_count(base_seeds, 'base seed')} x "
        f"{_count(seeds, 'training seed')}). Every size saw the same {optim.steps} steps of "
        f"{optim.batch} passages at learning rate {optim.lr:g}, segments of {cfg.data.segment} "
        f"tokens, against {decoder}.{tuned}"
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _table(results: Results) -> Table:
    heads = headlines(results.cfg)
    tuned = any(r.tuned for r in results.rows)
    loss, kept = endpoints(results.cfg)
    header = ["family", "size", "parameters", "ratio", "n", "lr"]
    recipes = len(results.cfg.sweep.recipes) > 1
    header += ["vectors x bytes of a memory"] if recipes else []
    header += [h.label for h in heads] + [f"{h.label} bound" for h in heads if h.bound]
    header += ["tuned lr", f"{loss.label} (tuned)", f"{kept.label} (tuned)"] if tuned else []
    cells: dict[tuple, list[Result]] = defaultdict(list)
    for r in results.rows:
        setup = r.job.setup
        cells[setup.line, r.metrics["params"], setup.size, setup.ratio].append(r)
    rows = []
    for (family, params, size, ratio), found in sorted(cells.items()):
        row = [family, size, f"{params:,}", f"{ratio}x", str(len(found))]
        row.append(text(found[0].job.config.train.optim.lr))
        row += [_memory(found, loss.metric)] if recipes else []
        row += [_mean(found, h.metric, ratio) for h in heads]
        row += [_mean(found, h.bound, ratio) for h in heads if h.bound]
        if tuned:
            best = [r.tuned for r in found if r.tuned]
            rates = sorted({job.config.train.optim.lr for job, _ in best})
            row.append(" ".join(map(text, rates)))
            row += [_mean(found, k, ratio, tuned=True) for k in (loss.metric, kept.metric)]
        rows.append(row)
    return Table(header, rows)


def _mean(found: list[Result], metric: str, ratio: int, tuned: bool = False) -> str:
    mean = stats.mean(points(found, metric, ratio, tuned))
    return "–" if mean is None else size_tables.shown(mean)


def _memory(found: list[Result], metric: str) -> str:
    """`14.6 x 256`: vectors of a held-out text of the metric's set, mean, and bytes of each."""
    prefix = metric.partition("/")[0]
    names = ("passages", "vectors", "bytes", "text_bytes_per_memory_byte")
    said = set()
    for r in found:
        held = [r.metrics.get(f"{prefix}/{name}") or 0 for name in names]
        if all(held):
            texts, vectors, size, per_byte = held
            said.add(f"{vectors / texts:.3g} x {size / per_byte / vectors:.4g}")
    return ", ".join(sorted(said)) or "–"


def _bounds(results: Results) -> str:
    """What the numbers must be read beside, so that predictable text does not flatter."""
    parts = []
    for h in headlines(results.cfg):
        floor = floor_of(results, h.metric)
        if floor is not None:
            parts.append(f"{h.label} {floor:.4g}")
    said = f"Without memory (the floor): {', '.join(parts)}. " if parts else ""
    own = sorted({r.job.setup.line for r in results.rows if own_decoder(r)})
    if own:
        said += (
            f"Left out, here and in plots: {', '.join(own)}, trained with the decoder: each "
            "run has a floor of its own (floor columns of results.csv). "
        )
    bits = next((r.metrics.get("ordinary/passage_bits") for r in results.rows), None)
    said += f"A passage holds {bits:.1f} bits on average, exactly. " if bits is not None else ""
    heads = [h.metric for h in endpoints(results.cfg)]
    count = max((r.sums[m].shape[1] for r in results.rows for m in heads if m in r.sums), default=0)
    among = (
        f"and for the two endpoints the passages ({count}, one draw for all runs)"
        if count
        else "but not passages (records of the same ones are not there for every run)"
    )
    return said + (
        "n: trained models averaged in a row. Mean ± half of its 95% interval, where there are "
        "three base seeds or runs: from draws of base seeds, or of runs where there are under "
        f"three base seeds, of training seeds inside them, {among}."
    )


def _trends(results: Results) -> Table:
    ratios = sorted({r.job.setup.ratio for r in results.rows})
    rows = []
    for h in headlines(results.cfg):
        row = [h.label]
        for ratio in ratios:
            trend = stats.trend(
                points(results.rows, h.metric, ratio), grid.sizes(results.cfg, ratio)
            )
            row.append(compare_runs.cell(trend))
        rows.append(row)
    return Table(["metric", *(f"{r}x" for r in ratios)], rows)


def _trend_note(said: Verdict) -> str:
    words = "; ".join(f"{v.ratio}x: {v.word} ({v.detail})" for v in said.ratios)
    return (
        "Spearman's rank correlation with the number of parameters inside a replicate (a base "
        "seed x training seed), averaged; in brackets one-sided permutation p-values, unadjusted "
        "and, but for the two metrics of the verdict, exploratory. Bigger but less faithful: "
        f"{words}."
    )
