"""What `jaxcomp sweep` does around its work, for scripts that bring work of their own."""

import signal
import sys

from jaxcomp.cli import main
from jaxcomp.runtime import distributed, preemption
from jaxcomp.sweep import runner


def command(cfg, work, workdir, workers):
    """Runs the sweep and exits as the command does."""
    signal.signal(signal.SIGTERM, preemption.on_sigterm)
    try:
        distributed.start(sys.argv[1:])
        summary = runner.run(cfg, workdir, work=work, workers=workers)
        print(summary)
        distributed.finish()
        sys.exit(len(summary.failed))
    except preemption.Terminated:
        distributed.leave(143, "it was told to stop")
        sys.exit(143)
    except Exception as error:
        sys.exit(main._failed(error))
