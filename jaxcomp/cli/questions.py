"""What `jaxcomp eval --task=NAME` does: questions, minimal pairs, formats, of a trained pair.

A task is one function in TASKS, of the parsed flags, that returns an exit code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxcomp.cli.common import Flags
from jaxcomp.cli.inference import at_least, here, tell
from jaxcomp.config import ConfigError
from jaxcomp.runtime import paths

RESULTS = "tasks"  # the folder, in that of the pair, of what tasks found
_PLACES = ("compressor", "decoder")  # of the base models of --run; in the other form fields


def overwriting(flags: Flags) -> int:
    """Whose answer comes from a memory: the passage's or the world's."""
    from jaxcomp.evals.qa import overwriting as task

    return _questions(flags, task)


def qa(flags: Flags) -> int:
    """How many questions are answered right."""
    from jaxcomp.evals.qa import qa as task

    return _questions(flags, task)


def drift(flags: Flags) -> int:
    """Does a memory prefer its own text to a twin that says something else?"""
    from jaxcomp.evals.pairs import drift as task
    from jaxcomp.evals.qa import generated

    for name in ("filter", "select"):
        _no(name, flags)
    file = here(flags.data) if flags.data else None
    if file is not None and generated.are_questions(file):
        _no("export", flags)
        return _made_questions(flags, file)
    if file is not None:
        passages = task.read(file, flags.limit)
    else:
        if flags.limit is not None:
            at_least(flags, limit=1)
        passages = task.passages_of_run(_run_of(flags), flags.limit, **places_of(flags))
    if flags.export:
        target = here(flags.export)
        tell(f"{generated.export(passages, target)} prompts in {target} (docs/drift.md)")
        return 0
    out = out_of(flags, _stem(file) if file else "held-out")
    _told(task.table, task.run(pair_of(flags), passages, out, say=tell), out)
    return 0


def _made_questions(flags: Flags, file: Path) -> int:
    """A set of questions that a language model wrote about passages."""
    from jaxcomp.evals.qa import generated

    found = generated.read(file, flags.limit)
    tell(found.told())
    out = out_of(flags, _stem(file))
    made = generated.run(pair_of(flags), found.questions, out, say=tell)
    _told(generated.table, made, out)
    return 0


def rate(flags: Flags) -> int:
    """The same memories in fewer bits, of one run or of several."""
    from jaxcomp.analysis import rate_distortion

    for name in ("data", "limit", "filter", "select", "export", "batch"):
        _no(name, flags)
    runs, ratio = moved_runs(flags), flags.ratio or 0
    folder = here(flags.out) if flags.out else paths.path(runs[0][0]) / RESULTS
    found = [rate_distortion.measure(place, tell, ratio, **moved) for place, moved in runs]
    page = rate_distortion.write(found, folder)
    print(page.with_suffix(".md").read_text(), flush=True)
    if not any(one.made for one in found):
        tell("nothing was measured: every run holds its rate.json already")
    tell(f"written: {page}")
    return 0


def bounds(flags: Flags) -> int:
    """The run's compressor between no memory and the best there is, on its held-out text."""
    from jaxcomp.evals import baselines as task

    for name in ("data", "filter", "select", "export"):
        _no(name, flags)
    if flags.limit is not None:
        at_least(flags, limit=1)
    out = out_of(flags, "held-out")
    held = task.held_out(_run_of(flags), flags.limit, **places_of(flags))
    _told(task.table, task.run(pair_of(flags), held, out, say=tell), out)
    return 0


TASKS: dict[str, Callable[[Flags], int]] = {
    "overwriting": overwriting,
    "qa": qa,
    "drift": drift,
    "rate": rate,
    "bounds": bounds,
}


def _questions(flags: Flags, task: Any) -> int:
    """A task of items in a file: asks, prints the table."""
    from jaxcomp.evals.qa import filters, read, selection

    _no("export", flags)
    rules = filters.parse(flags.filter or "")
    also = selection.parse(flags.select)
    if not flags.data:
        raise ConfigError(f"--task={flags.task} needs --data=FILE (docs/using.md: its fields)")
    file = here(flags.data)
    out = out_of(flags, "-".join([_stem(file), *also]))
    items = read(file, flags.limit, task=flags.task)
    found = task.run(pair_of(flags), items, out, rules=rules, also=also, say=tell)
    _told(task.table, found, out)
    return 0


def pair_of(flags: Flags) -> Any:
    """The pair of --run. Raises what `jaxcomp.load` does, and ConfigError for any other field."""
    from jaxcomp.inference import load

    batch = 32 if flags.batch is None else flags.batch
    return load(_run_of(flags), ratio=flags.ratio or 0, batch=batch, **places_of(flags))


def places_of(flags: Flags) -> dict[str, Any]:
    """Where the base models of --run are, if they have moved. Raises ConfigError for any other
    field."""
    alone(flags, _PLACES)
    return dict(flags.overrides)


def moved_runs(flags: Flags) -> list[tuple[str, dict[str, str]]]:
    """The folders that --run names, each with where its base models are, if they have moved: one
    folder for all runs, or one for each. Raises ConfigError for any other number."""
    runs = runs_of(flags)
    given = {name: folders.split(",") for name, folders in places_of(flags).items()}
    for name, folders in given.items():
        if len(folders) not in (1, len(runs)):
            raise ConfigError(
                f"--{name} names {len(folders)} folders for {len(runs)} runs; expected one for all "
                "or one for each, in the order of --run"
            )
    return [
        (run, {name: folders[i % len(folders)] for name, folders in given.items()})
        for i, run in enumerate(runs)
    ]


def out_of(flags: Flags, about: str) -> Path:
    """--out, or RESULTS/<task>-<about>.json in the folder of the pair; `about` says of what."""
    if flags.batch is not None:
        at_least(flags, batch=1)
    if flags.out:
        out = here(flags.out)
        if out.is_dir():
            raise ConfigError(f"--out={out} is a folder; expected a file such as {out}/task.json")
        return out
    run = _run_of(flags)
    if paths.is_remote(run):
        raise ConfigError(f"--run={run} is in a bucket: give --out=FILE of this machine")
    return paths.path(run) / RESULTS / f"{flags.task}-{about}.json"


def runs_of(flags: Flags) -> list[str]:
    """The folders that --run names."""
    return [place for place in (flags.run or "").split(",") if place]


def _run_of(flags: Flags) -> str:
    places = runs_of(flags)
    if len(places) != 1:
        raise ConfigError(
            f"--task={flags.task} needs --run=DIR, one finished run or export; found {len(places)}"
        )
    return places[0]


def _no(name: str, flags: Flags) -> None:
    if getattr(flags, name) is not None:
        raise ConfigError(f"--{name} does not go with --task={flags.task}")


def _stem(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).stem


def _told(table: Callable[[dict[str, Any]], str], found: Any, out: Path) -> None:
    from jaxcomp.evals.qa.resumable import intact

    with intact(None if found.made else out):
        text = table(found.result)
    print(text, flush=True)
    tell(f"written: {out}" if found.made else f"nothing to do: the result is in {out} already")


def alone(flags: Flags, places: tuple[str, ...]) -> None:
    """Raises ConfigError for what --run knows itself."""
    other = [name for name in ("config", "workdir") if getattr(flags, name)]
    other += [name for name, _ in flags.overrides if name not in places]
    if other:
        raise ConfigError(
            f"--{other[0]} does not go with --run, which knows its own config; see "
            "jaxcomp eval --help"
        )
