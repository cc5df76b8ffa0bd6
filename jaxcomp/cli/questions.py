"""`jaxcomp eval --task=NAME`: from flags to the request of an evaluation."""

from __future__ import annotations

from typing import Any

from jaxcomp.cli.common import Flags
from jaxcomp.cli.inference import here, tell
from jaxcomp.config import Config, ConfigError
from jaxcomp.evals import evaluation
from jaxcomp.evals.evaluation import Request
from jaxcomp.runtime import paths, plugins
from jaxcomp.training.manifest import find_manifest

_PLACES = ("compressor", "decoder")  # of the base models of --run; in the other form fields


def ask(flags: Flags) -> int:
    """Run the evaluation that --task names."""
    import_plugins(flags)
    one = evaluation.find(flags.task)
    for name in evaluation.OPTIONS:
        if getattr(flags, name) is not None and name not in one.options:
            raise ConfigError(f"--{name} does not go with --task={flags.task}")
    runs = moved_runs(flags)
    for name in one.needs if runs else ():
        if getattr(flags, name) is None:
            raise ConfigError(
                f"--task={flags.task} needs --{name}=FILE (fields: docs/how-to/ask-questions.md)"
            )
    found = one(
        Request(
            flags.task,
            runs,
            tell,
            data=here(flags.data) if flags.data else None,
            limit=flags.limit,
            length=flags.length,
            given_out=here(flags.out) if flags.out else None,
            filter=flags.filter,
            select=flags.select,
            budgets=flags.budgets,
            scorer=flags.scorer,
            export=here(flags.export) if flags.export else None,
            ratio=flags.ratio or 0,
            batch=flags.batch or Request.batch,
        )
    )
    if found is not None:
        print(found.text, flush=True)
        tell(
            f"written: {found.out}"
            if found.made
            else f"nothing to do: the result is in {found.out} already"
        )
        if flags.select:
            from jaxcomp.analysis.kept_tokens import write

            tell(f"figure: {write(found.out)}")
    return 0


def import_plugins(flags: Flags) -> None:
    """Import what --plugins names beside --run, and the plugins of a run that has the task from
    them. Raises ConfigError that names the file."""
    if not flags.run:
        return
    given = [text for name, text in flags.overrides if name == "plugins"]
    flags.overrides = [pair for pair in flags.overrides if pair[0] != "plugins"]
    for name in (part for text in given for part in text.split(",")):
        plugins.load_plugins(Config(plugins=(plugins.absolute(name),)))
    if flags.task and not evaluation.known(flags.task):
        for place in runs_of(flags):
            find_manifest(paths.path(place))


def places_of(flags: Flags) -> dict[str, Any]:
    """Where the base models of --run are, if they have moved. Raises ConfigError for any other
    field."""
    alone(flags, _PLACES)
    return dict(flags.overrides)


def moved_runs(flags: Flags) -> list[tuple[str, dict[str, str]]]:
    """The folders that --run names, each with where its base models are, if they have moved: one
    folder for all runs, or one for each. Raises ConfigError for any other number."""
    runs = runs_of(flags)
    given = {name: folders.split(",") for name, folders in places_of(flags).items()} if runs else {}
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


def runs_of(flags: Flags) -> list[str]:
    """The folders that --run names."""
    return [place for place in (flags.run or "").split(",") if place]


def alone(flags: Flags, places: tuple[str, ...]) -> None:
    """Raises ConfigError for what --run knows itself."""
    other = [name for name in ("config", "workdir") if getattr(flags, name)]
    other += [name for name, _ in flags.overrides if name not in places]
    if other:
        raise ConfigError(
            f"--{other[0]} does not go with --run, which knows its own config; see "
            "jaxcomp eval --help"
        )
