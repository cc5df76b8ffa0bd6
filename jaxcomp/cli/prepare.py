"""`jaxcomp prepare`: tokenise the text of a config once, with all cores."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcomp.cli.common import Command, Flags, common_flags, config_of, workdir_of
from jaxcomp.cli.overrides import integer
from jaxcomp.config import Config, ConfigError
from jaxcomp.data.sources import source_of

if TYPE_CHECKING:
    from jaxcomp.data.parallel import Set


def _flags(parser: argparse.ArgumentParser) -> None:
    common_flags(parser)
    parser.add_argument(
        "--workers", type=integer, default=0, metavar="N", help="processes (default: one a core)"
    )


def prepare(flags: Flags) -> int:
    """The training text of a config, for its tokenizers and lengths."""
    from jaxcomp.data import parallel

    cfg = config_of(flags)
    if flags.workers < 0:
        raise ConfigError(f"--workers={flags.workers}: expected at least 0 (0: one a core)")
    if source_of(cfg).facts:
        print(f"nothing to prepare: data.source = {cfg.data.source!r} is drawn, not read")
        return 0
    sets = list(_sets(cfg, workdir_of(flags, cfg)))
    for blocks in parallel.prepare(sets, flags.workers or os.cpu_count() or 1):
        print(f"{blocks.folder}: {len(blocks)} blocks")
    return 0


def _sets(cfg: Config, workdir: Path) -> Iterator[Set]:
    """What the runs of a config read: examples for each pair of tokenizers, and documents for each
    model that is still to be pretrained."""
    from jaxcomp.data.batches import tokenizer_folder
    from jaxcomp.data.objectives import OBJECTIVES
    from jaxcomp.data.parallel import Set
    from jaxcomp.sweep import grid
    from jaxcomp.training import identity, pretrained

    for one in [cfg] if cfg.compressor else [job.config for job in grid.expand(cfg)]:
        size = identity.split_name(one.compressor)
        base = pretrained.find_base(one, *size, one.base_seed, workdir)
        decoder = pretrained.find_decoder(one, workdir)
        comp, dec = (str(folder or tokenizer_folder(one)) for folder in (base, decoder))
        if base is None:
            yield Set("lm", one, comp, comp)
        if decoder is None:  # it is pretrained, and adapted with a compressor of its own
            yield Set("lm", one, dec, dec)
            yield Set("examples", one, dec, dec)
        asks = OBJECTIVES[one.train.objective].targets == "question"
        yield Set("answers" if asks else "examples", one, comp, dec)


COMMANDS = (
    Command(
        "prepare",
        "tokenise a large text once, before training",
        "Reads the text of a config, cuts and tokenises it with all cores, and keeps the result "
        "in\n$JAXCOMP_CACHE (~/.cache/jaxcomp), where train, pretrain and sweep find it. Killed, "
        "the same\ncommand goes on. Small files and the controlled world need no preparation.",
        _flags,
        prepare,
        processes="one",
    ),
)
