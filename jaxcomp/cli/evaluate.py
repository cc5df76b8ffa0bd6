"""`jaxcomp eval`: evaluate a finished run, its checkpoints, or one task."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxcomp.cli import common
from jaxcomp.cli.common import Command, Flags
from jaxcomp.cli.inference import here, tell
from jaxcomp.cli.overrides import number
from jaxcomp.cli.questions import ask, import_plugins, moved_runs, places_of, runs_of
from jaxcomp.config import Config, ConfigError, config_hash, to_dict
from jaxcomp.evals import evaluation, versions
from jaxcomp.evals.evaluation import RESULTS
from jaxcomp.runtime import compiled, distributed, paths, strict_json
from jaxcomp.training.identity import of_training
from jaxcomp.training.manifest import SUMMARY, Manifest, check_same, open_manifest


def _eval_flags(parser: argparse.ArgumentParser) -> None:
    common.common_flags(parser)
    add = parser.add_argument
    add(
        "--run",
        metavar="DIR[,DIR]",
        help="a finished run, which needs no --config; with --task also an exported folder; with "
        "--checkpoints and --task=rate also several",
    )
    add(
        "--all",
        action="store_true",
        help="minimal pairs too (--task=drift on the held-out text), at every checkpoint measured",
    )
    add(
        "--checkpoints",
        choices=("all",),
        help="measure every saved checkpoint, and compare several runs at equal loss",
    )
    add(
        "--task",
        metavar="NAME",
        help=f"ask this instead: {', '.join(evaluation.shipped())}, or one of your own plugins "
        "(docs/how-to/extend.md)",
    )
    add(
        "--data",
        metavar="FILE",
        help="the task's items, .jsonl[.gz] or .parquet (schemas: docs/how-to/ask-questions.md)",
    )
    add(
        "--limit",
        type=number(1),
        metavar="N",
        help="only the first N items, or passages of each held-out set (default: all), or items of "
        "each task of --task=ruler (default: 500)",
    )
    add(
        "--length",
        type=number(1),
        metavar="N",
        help="with --task=ruler: most tokens of a context, in the compressor's tokens (4096)",
    )
    add(
        "--filter",
        metavar="RULE[,RULE]",
        help="count only some of the items: max_tokens=N, stated, answerable, known "
        "(python -m jaxcomp.analysis.metrics_page)",
    )
    add(
        "--select",
        metavar="NAME[,NAME]",
        help="with --task=qa or overwriting: answer also from parts of the text: sage, sage-raw, "
        "sage-baseline, lead, random, bm25, attention-sentences (docs/how-to/ask-questions.md)",
    )
    add(
        "--budgets",
        metavar="B[,B]",
        help="with --select: how many tokens are kept: as many as the memory has vectors, or "
        "shares of the text (memory,0.05,0.1,0.2,0.4)",
    )
    add(
        "--scorer",
        metavar="DIR",
        help="with --select=sage: the language model that scores tokens (default: the decoder)",
    )
    add(
        "--export",
        metavar="FILE",
        help="with --task=drift: write prompts that ask a language model for questions about the "
        "passages, and measure nothing (docs/how-to/measure-drift.md)",
    )
    add(
        "--out",
        metavar="FILE",
        help="a .json for the counts and a record an item (answers and likelihoods, not the "
        "texts); default: DIR/tasks/<task>-<name of the data>.json. With --checkpoints and "
        "--task=rate: the folder of the page",
    )
    add(
        "--ratio",
        type=number(1),
        metavar="N",
        help="one of those it was trained at, in place of memory.ratio "
        "(docs/how-to/train-in-stages.md); without --task writes eval-rN.json and "
        "passages-rN.jsonl",
    )
    add("--batch", type=number(1), metavar="N", help="with --task: items at once (32)")


def evaluate(flags: Flags) -> int:
    """What survived, or what a task finds."""
    if flags.task:
        distributed.refuse_several("eval --task")
        for name in ("all", "checkpoints"):
            if getattr(flags, name):
                raise ConfigError(f"--{name} does not go with --task={flags.task}")
        return ask(flags)
    import_plugins(flags)
    given = [n for n in evaluation.OPTIONS if n != "ratio" and getattr(flags, n) is not None]
    if given and (given != ["out"] or not flags.checkpoints):
        name = next((n for n in given if n != "out"), "out")
        takers = [one.name for one in evaluation.every() if name in one.options]
        raise ConfigError(f"--{name} goes with --task={'|'.join(takers)}")
    if flags.checkpoints:
        distributed.refuse_several("eval --checkpoints")
        if flags.ratio is not None:
            raise ConfigError("--ratio does not go with --checkpoints, which are of memory.ratio")
        return along(flags)
    if flags.all:
        distributed.refuse_several("eval --all")
    return held_out(flags)


def held_out(flags: Flags) -> int:
    """One finished run on held-out text; prints what is measured already."""
    from jaxcomp.sweep import jobs
    from jaxcomp.sweep.store import write_text
    from jaxcomp.training.ratio_schedule import at_ratio, suffix_at

    moved = places_of(flags) if flags.run else {}
    cfg, workdir, made = _run(flags)
    ratio = flags.ratio or 0
    at_ratio(cfg, ratio)  # raises before any work
    common.together(flags, cfg)
    paths.check(workdir, write=True)
    suffix = suffix_at(cfg, ratio)
    file, lines = workdir / f"eval{suffix}.json", workdir / f"passages{suffix}.jsonl"
    about = _about(cfg, workdir, made)

    def keep(metrics: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps({"about": about, "metrics": metrics}, indent=1, sort_keys=True) + "\n"
        distributed.by_lead(lambda: write_text(file, text))
        return metrics

    kept = metrics = distributed.by_lead(lambda: _kept(file, lines, about))
    if metrics is None:
        compiled.keep()
        began = time.perf_counter()
        found, passages = jobs.measure(cfg, workdir, ratio, **moved)
        tell(_cost(len(passages), time.perf_counter() - began))
        metrics = keep(jobs.finite(found))  # before the pairs, which may be stopped
    if flags.all and not any(name.startswith("pairs/") for name in metrics):
        metrics = keep(metrics | jobs.finite(_drift(workdir, None, ratio, **moved)))
    _print_headlines(cfg, metrics)
    print(f"all {len(metrics)} metrics: {file}; one line a passage: {lines.name}", flush=True)
    if metrics is kept:
        tell(f"nothing to do: {file} is of this run and of these definitions already")
    return 0


def _about(cfg: Config, workdir: Path, made: Manifest) -> dict[str, Any] | None:
    """What decides the metrics of a finished run; None without one."""
    if not (workdir / SUMMARY).is_file():
        return None
    return {
        "config": made.config_hash,
        "eval": to_dict(cfg.eval),
        "definitions": [versions.EVALUATION, versions.DRIFT],
        "run": config_hash(_read(workdir / SUMMARY)),
    }


def _kept(file: Path, lines: Path, about: dict[str, Any] | None) -> dict[str, Any] | None:
    """The metrics of `about` where they are measured already."""
    if about is None or not (file.is_file() and lines.is_file()):
        return None
    found = _read(file)
    return found.get("metrics") if found.get("about") == about else None


def _read(file: Path) -> dict[str, Any]:
    return strict_json.read(file, dict, ConfigError, "delete it and run the same command")


def _print_headlines(cfg: Config, metrics: dict[str, Any]) -> None:
    from jaxcomp.evals.metrics import headlines

    for head in headlines(cfg):
        value = metrics.get(head.metric)
        shown = "not measurable" if value is None else f"{value:.4f}"
        print(f"{head.label:>26}  {shown:>14}  {head.metric}")
    for name, count in metrics.items():
        if count and name.endswith("left_out") and (name.count("/") == 1 or "/all/" in name):
            print(f"{'left out, too long':>26}  {count:>14}  {name}")


def _cost(passages: int, seconds: float) -> str:
    each = seconds / max(1, passages)
    return f"{passages:,} passages in {seconds:.1f} s: {each:.3g} s a passage, compiling included"


def along(flags: Flags) -> int:
    """Every saved checkpoint of one run or of several."""
    from jaxcomp.analysis.checkpoints_page import write
    from jaxcomp.evals.checkpoints import follow

    if not runs_of(flags):
        raise ConfigError("--checkpoints=all needs --run=DIR[,DIR] of finished runs")
    moved = moved_runs(flags)
    _comparable(moved)
    compiled.keep()
    runs = [
        follow(place, more=partial(_drift, **at) if flags.all else None, say=tell, **at)
        for place, at in moved
    ]
    folder = here(flags.out) if flags.out else runs[0].place / RESULTS
    page = write(runs, folder)
    print((folder / "checkpoints.md").read_text(), flush=True)
    if not any(run.made for run in runs):
        tell("nothing was measured: every checkpoint has its row already")
    tell(f"written: {page}")
    return 0


def _comparable(runs: Sequence[tuple[str, dict[str, str]]]) -> None:
    """Raises ConfigError for runs of other text, and for one run given twice."""
    from jaxcomp.analysis.equal_loss import differing
    from jaxcomp.inference.load import open_run

    places = [place for place, _ in runs]
    cfgs = [open_run(paths.path(place), **moved)[0] for place, moved in runs]
    kinds = {(cfg.data.source, cfg.data.segment) for cfg in cfgs}
    if len(kinds) > 1:
        raise ConfigError(
            f"--run: runs of different text or segments ({sorted(kinds)}); expected runs that were "
            "measured on the same held-out text"
        )
    for (one, a), (two, b) in itertools.combinations(zip(places, cfgs, strict=True), 2):
        same = all(getattr(a, n) == getattr(b, n) for n in ("compressor", "base_seed", "seed"))
        if same and not differing([a, b]):
            raise ConfigError(
                f"--run: {one} and {two} are one run twice: compressor {a.compressor}, base_seed "
                f"{a.base_seed}, seed {a.seed}, and nothing else differs; expected each run once"
            )


def _drift(place: Path, step: int | None, ratio: int = 0, **moved: Any) -> dict[str, Any]:
    """Of all minimal pairs of the held-out text: the metrics page, "Drift on minimal pairs". Where
    none can be asked, the reason is said and every value is None: the rest was measured."""
    from jaxcomp.evals.pairs.edit_rules import DIMENSIONS
    from jaxcomp.evals.qa.items import NothingToAsk
    from jaxcomp.evals.tasks import drift
    from jaxcomp.inference import load

    compiled.keep()
    found: dict[str, Any] = {}
    try:
        pair = load(place, step=step, ratio=ratio, **moved)
        passages = drift.passages_of_run(place, **moved)
        found = drift.run(pair, passages, say=tell).result["dimensions"]
    except NothingToAsk as error:
        tell(f"minimal pairs: not measurable: {error}")
    return {
        f"pairs/{dimension}/{name}": found[dimension][name]["rate"] if found else None
        for dimension in found or (*DIMENSIONS, "all")
        for name in ("memory", "no_memory", "pair_accuracy")
    }


# --- which run ---------------------------------------------------------------------------------


def _run(flags: Flags) -> tuple[Config, Path, Manifest]:
    """Its config, its folder, and what it is."""
    if flags.run:
        place = paths.path(flags.run)
        made = open_manifest(place)
        return made.config, place, made
    cfg = common.config_of(flags)
    common.needs_compressor(cfg, "eval")
    place, _ = common.run_folders(flags, cfg)
    made = open_manifest(place)
    start = made.parent.config_hash if made.parent else ""
    check_same(place, made, of_training(cfg, start))
    return cfg, place, made


COMMANDS = (
    Command(
        "eval",
        "measure what survived in one trained pair, or ask it questions",
        "jaxcomp eval --run=runs/one",
        "Rebuilds held-out text with the run in --run=DIR, or with that of `jaxcomp train` with\n"
        "the same flags, and writes eval.json and passages.jsonl beside it. --all: minimal pairs\n"
        "too; --checkpoints=all: every saved checkpoint (docs/how-to/follow-checkpoints.md).\n\n"
        "With --run=DIR --task=NAME --data=FILE, asks questions about passages: from nothing,\n"
        "from the full text, from its memory and from the text rebuilt from that. overwriting: an\n"
        "answer was replaced, so is it the passage's or the world's that comes? qa: exact match\n"
        "and F1 of SQuAD, LongBench and MRQA files. ruler (--task=ruler --length=4096, no file):\n"
        "are needles found in generated texts (docs/how-to/run-ruler.md)? drift: is a text\n"
        "preferred to a counterfactual edit of it (docs/how-to/measure-drift.md)? rate: the\n"
        "same memories in fewer bits. bounds: the run's memory between none and the best.\n"
        "A stopped task goes on where it stopped; what is finished is printed and not measured\n"
        "again. If the base models of --run have moved, --compressor=DIR and\n"
        "--decoder=DIR say where they are; for several runs one folder, or one for each: DIR,DIR.\n"
        "Definitions: python -m jaxcomp.analysis.metrics_page.",
        _eval_flags,
        evaluate,
        processes="all",
    ),
)
