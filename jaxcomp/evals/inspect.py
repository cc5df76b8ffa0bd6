"""`jaxcomp inspect`: rebuild held-out passages and attribute every word to its origin."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import Config, ConfigError, config_hash
from jaxcomp.data.eval_sets import eval_examples
from jaxcomp.data.sources import WORLD_SETS, source_of, world_of
from jaxcomp.data.world import World
from jaxcomp.evals import attribution, inspect_page, linear_probe, tracing
from jaxcomp.evals.metrics import facts
from jaxcomp.evals.tracing import Trace
from jaxcomp.inference.format import ABOUT
from jaxcomp.inference.load import load, open_run
from jaxcomp.inference.pair import Pair
from jaxcomp.runtime import live, paths
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training.manifest import SUMMARY, CheckpointError, read_json

PAGE = "inspect.html"
PROBED = "counterfactual"  # the set of the linear probe: half of its facts are off the favourite
PROBE_PASSAGES = 768

Say = Callable[[str], None]


class Inspected(NamedTuple):
    """The page, whether it was made now, and words by set and label (`attribution.counts`; empty
    where nothing was made)."""

    path: Path
    made: bool
    counts: dict[str, dict[str, int]]


def inspect(
    place: str | Path,
    *,
    limit: int = 64,
    batch: int = 32,
    out: str | Path = "",
    say: Say = lambda _: None,
    **moved: Any,
) -> Inspected:
    """Writes the page of the finished run in `place`; does nothing where it is there already.

    Args:
      place: the workdir of `jaxcomp train`, or a job's folder of a sweep.
      limit: passages of each set on the page (the linear probe reads PROBE_PASSAGES of its set).
      batch: most rows computed at once.
      out: the file; default: inspect.html in the run's folder.
      say: takes lines of progress.
      moved: where its base models are, as in `open_run`.

    Raises:
      ConfigError: a folder that is no run, a file that is no such page, a bad number.
    """
    for name, value in (("limit", limit), ("batch", batch)):
        if value < 1:
            raise ConfigError(f"--{name} is {value}; expected at least 1")
    folder = paths.path(place)
    cfg = _config(folder, **moved)
    target = paths.path(out) if out else folder / PAGE
    about = _about(folder, limit)
    if _is_there(target, about):
        say(f"nothing to do: {target} is of this run and of these definitions already")
        return Inspected(target, False, {})
    pair = load(folder, batch=batch, **moved)
    content = _content(_sized(cfg, limit, batch), pair, limit, about, say)
    text = inspect_page.html_of(content)
    paths.write_bytes(target, text.encode())
    say(f"{target}: {len(text.encode()) / 1e6:.1f} MB")
    return Inspected(target, True, content.counts)


def _config(folder: Path, **moved: Any) -> Config:
    if (folder / ABOUT).is_file():
        raise ConfigError(
            f"{folder} is an exported compressor, which knows no held-out text; expected --run to "
            "be the workdir of the run it was exported from"
        )
    if (folder / "jobs").is_dir():
        raise ConfigError(f"{folder} is a sweep; expected --run to be one of its jobs, jobs/JOB")
    cfg = open_run(folder, **moved)[0]
    if not (folder / SUMMARY).is_file():
        raise CheckpointError(f"{folder}: no finished run there; run `jaxcomp train` first")
    return cfg


def _about(folder: Path, limit: int) -> dict[str, Any]:
    """What decides the page's content."""
    return {
        "definitions": [attribution.VERSION, linear_probe.VERSION, inspect_page.VERSION],
        "limit": limit,
        "run": config_hash(read_json(folder / SUMMARY)),
    }


def _is_there(target: Path, about: dict[str, Any]) -> bool:
    """Is the page of `about` there? Raises ConfigError where something else is."""
    if target.is_dir():
        raise ConfigError(f"--out={target} is a folder; expected a file such as {target}/{PAGE}")
    if not target.is_file():
        return False
    found = inspect_page.about_of(target.read_bytes())
    if found is None:
        raise ConfigError(
            f"{target} is there already and is no page of `jaxcomp inspect`; choose another --out "
            "or remove it"
        )
    return found == about


def _sized(cfg: Config, passages: int, batch: int) -> Config:
    return dataclasses.replace(
        cfg,
        data=dataclasses.replace(cfg.data, eval_passages=passages),
        eval=dataclasses.replace(cfg.eval, batch=batch),
    )


def _content(
    cfg: Config, pair: Pair, limit: int, about: dict[str, Any], say: Say
) -> inspect_page.Content:
    title = f"Where it went: {cfg.name}, {cfg.compressor or 'no name'}, ratio {cfg.memory.ratio}"
    world = world_of(cfg)
    if not isinstance(world, World):
        if world is not None:
            say("no linear probe: it reads the kinds of facts of data.source=world only")
        found = {x: _traces(cfg, pair, x, say) for x in source_of(cfg).measured}
        return inspect_page.Content(title, about, found)
    more = _sized(cfg, max(limit, PROBE_PASSAGES), cfg.eval.batch)
    found = {x: _traces(more if x == PROBED else cfg, pair, x, say) for x in WORLD_SETS}
    asked, left_out = linear_probe.questions(cfg, pair.comp_tok, found[PROBED])
    readings = linear_probe.read_out(asked, cfg.seed, say)
    probed = inspect_page.Probed(PROBED, len(found[PROBED]), readings, left_out)
    table = value_words(world, found[PROBED])
    sets = {name: traces[:limit] for name, traces in found.items()}
    return inspect_page.Content(title, about, sets, probed, table)


def _traces(cfg: Config, pair: Pair, name: str, say: Say) -> list[Trace]:
    with use_mesh(pair.mesh):
        examples = eval_examples(cfg, name, pair.comp_tok, pair.dec_tok)
        say(f"{name}: rebuilding {len(examples)} passages")
        out = []
        with live.phase(name, len(examples), "passages") as row:
            for trace in tracing.trace(cfg, pair.model, examples, pair.dec_tok):
                out.append(trace)
                row.done = len(out)
        return out


def value_words(world: World, traces: Sequence[Trace]) -> dict[str, Counter[str]]:
    """Of the facts whose value is one word of their own (linear_probe.KINDS without polarity): by
    the fact's outcome, how the attribution labelled that word of the source.

    Two readings that know nothing of each other: the world's grammar and the alignment.
    """
    out: dict[str, Counter[str]] = {}
    for trace in traces:
        passage = trace.example.passage
        spans = [(word.start, word.end) for word in trace.source_words]
        labels = dict(zip(spans, trace.labels.source, strict=True))
        outcomes = facts.compare(world, passage, trace.rebuilt)
        for fact, fact_outcome in zip(passage.facts, outcomes, strict=True):
            if fact.kind in linear_probe.KINDS and fact.kind != "polarity":
                out.setdefault(fact_outcome.outcome, Counter())[labels[fact.start, fact.end]] += 1
    return out
