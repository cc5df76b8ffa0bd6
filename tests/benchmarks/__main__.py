"""Measure rates and ratios of this machine: `uv run python -m tests.benchmarks` (docs/bench.md)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jaxcomp.cli import overrides
from jaxcomp.cli.main import expected
from jaxcomp.config import ConfigError
from jaxcomp.runtime import paths
from tests.benchmarks import main as measurements
from tests.benchmarks.fixture import BenchError


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table; return the exit code."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        default="tiny",
        help="the config whose shapes are measured (default: tiny)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="WHAT[,WHAT]",
        help="step, data, memory, generate, reconstruct, probe, transformers, load",
    )
    parser.add_argument(
        "--run",
        metavar="DIR",
        help="with reconstruct and probe: measure this finished run, not an untrained pair",
    )
    flags, fields = parser.parse_known_args(argv)
    try:
        only = [name for name in flags.only.split(",") if name] or measurements.KINDS
        if flags.run and not {"reconstruct", "probe"} & set(only):
            raise ConfigError(
                f"--run={flags.run} goes with --only=reconstruct or probe; nothing else uses it"
            )
        cfg = overrides.load(flags.config, overrides.pairs(fields))
        run = paths.path(flags.run) if flags.run else None
        measurements.bench(cfg, only, trained=run)
    except Exception as error:
        message = str(error) if isinstance(error, BenchError) else expected(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":  # not in the processes that it starts
    sys.exit(main())
