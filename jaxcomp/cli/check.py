"""`jaxcomp check`: one batch of a run, and checks of it, before the run starts."""

from __future__ import annotations

from jaxcomp.cli.common import (
    FAILED,
    Command,
    Flags,
    common_flags,
    config_of,
    needs_compressor,
    run_folders,
    say,
)


def check(flags: Flags) -> int:
    """Show one batch and run every check."""
    from jaxcomp.evals.preview import main

    cfg = main.chosen(config_of(flags))
    needs_compressor(cfg, "check")
    workdir, root = run_folders(flags, cfg)
    failed = main.check(cfg, workdir, root=root, out=say)
    print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return FAILED if failed else 0


COMMANDS = (
    Command(
        "check",
        "look at one batch before a long run",
        "Prints a text and its segments, where everything stands, what attends to what, what "
        "carries\nloss, the parameters and the first loss; then checks for bugs that have spoilt "
        "such runs.\nExits with 1 where a check fails. --compressor=FAMILY/SIZE (default: the "
        "first). Writes nothing.",
        common_flags,
        check,
        processes="one",
    ),
)
