"""What `jaxcomp sweep` does around its work, for scripts that bring work of their own."""

import signal
import sys

from jaxcomp.cli import main
from jaxcomp.runtime import preemption
from jaxcomp.sweep import hosts, runner


def command(cfg, work, workdir, workers):
    """Runs the sweep and exits as the command does."""
    signal.signal(signal.SIGTERM, preemption.on_sigterm)
    try:
        sys.exit(_run(cfg, work, workdir, workers))
    except preemption.Terminated:
        sys.exit(143)
    except Exception as error:
        sys.exit(main._failed(error))


def _run(cfg, work, workdir, workers):
    with hosts.joined(sys.argv[1:], cfg, work, workdir, None) as team:
        if team.follows:
            return team.wait()
        summary = runner.run(cfg, workdir, work=work, workers=workers, team=team.worker)
    print(summary)
    return len(summary.failed)
