"""`jaxcomp prepare`, `pretrain`, `check` and `train`: the commands that make one run."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcomp.cli import common
from jaxcomp.cli.common import FAILED, Command, Flags
from jaxcomp.cli.overrides import number
from jaxcomp.config import Config, ConfigError
from jaxcomp.data.sources import source_of
from jaxcomp.runtime import compiled, distributed

if TYPE_CHECKING:
    from jaxcomp.data.parallel import Set


def _prepare_flags(parser: argparse.ArgumentParser) -> None:
    common.common_flags(parser)
    parser.add_argument(
        "--workers", type=number(0), default=0, metavar="N", help="processes (default: one a core)"
    )


def _train_flags(parser: argparse.ArgumentParser) -> None:
    common.common_flags(parser)
    parser.add_argument(
        "--profile",
        default="",
        metavar="FIRST:LAST",
        help="trace the steps FIRST to LAST - 1, counted from 0, into WORKDIR/profile (TensorBoard "
        "and Perfetto read it)",
    )


def prepare(flags: Flags) -> int:
    from jaxcomp.data import parallel

    cfg = common.config_of(flags)
    if source_of(cfg).facts:
        print(f"nothing to prepare: data.source = {cfg.data.source!r} is drawn, not read")
        return 0
    sets = list(_sets(cfg, common.workdir_of(flags, cfg)))
    for blocks in parallel.prepare(sets, flags.workers or os.cpu_count() or 1):
        print(f"{blocks.folder}: {len(blocks)} blocks")
    return 0


def _sets(cfg: Config, workdir: Path) -> Iterator[Set]:
    """What the runs of a config read: examples for each pair of tokenizers, and documents for each
    model that is still to be pretrained."""
    from jaxcomp.data.batches import tokenizer_folder
    from jaxcomp.data.objectives import OBJECTIVES
    from jaxcomp.data.parallel import Set
    from jaxcomp.sweep import grid, jobs

    for one in [cfg] if cfg.compressor else [job.config for job in grid.expand(cfg)]:
        base, decoder = (jobs.found(what, one, workdir) for what in ("base", "decoder"))
        comp, dec = (str(folder or tokenizer_folder(one)) for folder in (base, decoder))
        if base is None:
            yield Set("lm", one, comp, comp)
        if decoder is None:  # it is pretrained, and adapted with a compressor of its own
            yield Set("lm", one, dec, dec)
            yield Set("examples", one, dec, dec)
        asks = OBJECTIVES[one.train.objective].targets == "question"
        yield Set("answers" if asks else "examples", one, comp, dec)


def pretrain(flags: Flags) -> int:
    from jaxcomp.sweep import grid, jobs, runner
    from jaxcomp.sweep.store import Ledger
    from jaxcomp.sweep.tasks import Results
    from jaxcomp.training import loggers

    # "decoder" stands where a compressor is named, but is no size of a family.
    only_decoder = ("compressor", "decoder") in flags.overrides
    flags.overrides = [o for o in flags.overrides if o != ("compressor", "decoder")]
    cfg = common.config_of(flags)
    loggers.check_all(cfg)
    common.check_writable(flags)
    workdir = common.workdir_of(flags, cfg)
    work = jobs.PretrainWork(flags.typed)
    common.together(flags, cfg)
    if cfg.compressor:
        tasks = [jobs.base_task(cfg)]
    else:
        tasks = [jobs.decoder_task(cfg)]
        if not only_decoder:
            every = {job.base: jobs.base_task(job.config) for job in grid.expand(cfg)}
            tasks += every.values()
    results = Results(work, workdir, Ledger(workdir))
    left = distributed.by_lead(lambda: [t.id for t in tasks if not results.has(t)])
    todo = [t for t in tasks if t.id in left]
    if not todo:
        print(f"nothing to do: {', '.join(t.id for t in tasks)} are in {workdir} already")
        return 0
    with runner.hired(work, workdir, common.workers_of(flags, cfg), len(todo)) as hands:
        common.say(jobs.check_data(grid.expand(cfg)[0].config, workdir))
        failed = runner.run_tasks(todo, results, hands, common.say)
    return FAILED if failed else 0


def check(flags: Flags) -> int:
    from jaxcomp.evals.preview import main

    cfg = main.chosen(common.config_of(flags))
    common.needs_compressor(cfg, "check")
    workdir, root = common.run_folders(flags, cfg)
    failed = main.check(cfg, workdir, root=root, out=common.say)
    print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return FAILED if failed else 0


def train(flags: Flags) -> int:
    from jaxcomp.sweep.store import SWEEP
    from jaxcomp.training import compressor, profiling

    cfg = common.config_of(flags)
    common.needs_compressor(cfg, "train")
    profile = profiling.window(flags.profile, cfg.train.optim.steps)
    common.together(flags, cfg)
    common.check_writable(flags)
    workdir, root = common.run_folders(flags, cfg)
    if (workdir / SWEEP).is_file():
        raise ConfigError(
            f"--workdir={flags.workdir} holds the sweep of {workdir / SWEEP}; expected a folder "
            "for this run alone, such as one that does not exist yet"
        )
    compiled.keep()
    summary = compressor.train(cfg, workdir, root=root, command=flags.typed, profile=profile)
    print(json.dumps(summary, indent=1))
    print(f"next: jaxcomp eval with the same flags; the run is in {workdir}")
    return 0


COMMANDS = (
    Command(
        "prepare",
        "tokenise a large text once, before training",
        "jaxcomp prepare --config=text --data.path=books.jsonl",
        "Reads the text of a config, cuts and tokenises it with all cores, and keeps the result "
        "in\n$JAXCOMP_CACHE (~/.cache/jaxcomp), where train, pretrain and sweep find it. Killed, "
        "the same\ncommand goes on. Small files and the controlled world need no preparation.",
        _prepare_flags,
        prepare,
        processes="one",
    ),
    Command(
        "pretrain",
        "make base language models and the decoder",
        "jaxcomp pretrain --config=tiny --compressor=llama/24 --workdir=runs/bases",
        "Pretrains the language models a config starts from, into WORKDIR/bases and "
        "WORKDIR/decoders:\nall bases of the grid and the decoder, or one with "
        "--compressor=FAMILY/SIZE [--base_seed=N],\nor the decoder alone with "
        "--compressor=decoder. Finished ones are left as they are.",
        common.parallel_flags,
        pretrain,
        processes="all",
    ),
    Command(
        "train",
        "train one compressor against the frozen decoder",
        "jaxcomp train --config=tiny --compressor=llama/24 --workdir=runs/one",
        "Trains --compressor=FAMILY/SIZE at --memory.ratio. A killed run is resumed by the same\n"
        "command; SIGTERM ends it after its step, saved. Several processes train one together:\n"
        "docs/how-to/run-several-processes.md.",
        _train_flags,
        train,
        processes="all",
    ),
    Command(
        "check",
        "check one batch before a long run",
        "jaxcomp check --config=tiny --compressor=llama/24",
        "Prints a text and its segments, where everything stands, what attends to what, what "
        "carries\nloss, the parameters and the first loss; then checks for bugs that have spoilt "
        "such runs.\nExits with 1 where a check fails. --compressor=FAMILY/SIZE (default: the "
        "first). Writes nothing.",
        common.common_flags,
        check,
        processes="one",
    ),
)
