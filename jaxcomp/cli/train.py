"""`jaxcomp pretrain` and `train`."""

from __future__ import annotations

import argparse
import json

from jaxcomp.cli.common import (
    FAILED,
    Command,
    Flags,
    check_writable,
    common_flags,
    config_of,
    needs_compressor,
    parallel_flags,
    run_folders,
    say,
    together,
    workdir_of,
    workers_of,
)
from jaxcomp.runtime import compiled, distributed


def _train_flags(parser: argparse.ArgumentParser) -> None:
    common_flags(parser)
    parser.add_argument(
        "--profile",
        default="",
        metavar="FIRST:LAST",
        help="trace the steps FIRST to LAST - 1, counted from 0, into WORKDIR/profile (TensorBoard "
        "and Perfetto read it)",
    )


def pretrain(flags: Flags) -> int:
    """Base models and the decoder of a config, made in the workdir."""
    from jaxcomp.sweep import grid, jobs, runner
    from jaxcomp.sweep.store import Ledger
    from jaxcomp.sweep.tasks import Results

    # "decoder" stands where a compressor is named, but is no size of a family.
    only_decoder = ("compressor", "decoder") in flags.overrides
    flags.overrides = [o for o in flags.overrides if o != ("compressor", "decoder")]
    cfg = config_of(flags)
    check_writable(flags)
    workdir = workdir_of(flags, cfg)
    work = jobs.PretrainWork(flags.typed)
    together(flags, cfg)
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
    with runner.hired(work, workdir, workers_of(flags, cfg), len(todo)) as hands:
        say(jobs.check_data(grid.expand(cfg)[0].config, workdir))
        failed = runner.run_tasks(todo, results, hands, say)
    return FAILED if failed else 0


def train(flags: Flags) -> int:
    """One compressor."""
    from jaxcomp.training import compressor, profiling

    cfg = config_of(flags)
    needs_compressor(cfg, "train")
    profile = profiling.window(flags.profile, cfg.train.optim.steps)
    together(flags, cfg)
    check_writable(flags)
    workdir, root = run_folders(flags, cfg)
    compiled.keep()
    summary = compressor.train(cfg, workdir, root=root, command=flags.typed, profile=profile)
    print(json.dumps(summary, indent=1))
    print(f"next: jaxcomp eval with the same flags; the run is in {workdir}")
    return 0


COMMANDS = (
    Command(
        "pretrain",
        "make base language models and the decoder",
        "Pretrains the language models a config starts from, into WORKDIR/bases and "
        "WORKDIR/decoders:\nall bases of the grid and the decoder, or one with "
        "--compressor=FAMILY/SIZE [--base_seed=N],\nor the decoder alone with "
        "--compressor=decoder. Finished ones are left as they are.",
        parallel_flags,
        pretrain,
        processes="all",
    ),
    Command(
        "train",
        "train one compressor against the frozen decoder",
        "Trains --compressor=FAMILY/SIZE at --memory.ratio. A killed run is resumed by the same\n"
        "command; SIGTERM ends it after its step, saved. Several processes train one together:\n"
        "docs/how-to/run-several-processes.md.",
        _train_flags,
        train,
        processes="all",
    ),
)
