"""`vanishing_sweep.py CONFIG WORKDIR`: `jaxcomp sweep` whose first job's checkpoints vanish while
they are written: somebody cleans up, or a shared disk goes stale."""

import os
import shutil
import sys
from pathlib import Path

from sweep_command import command

from jaxcomp.cli import overrides
from jaxcomp.sweep import hosts, jobs


class Work(jobs.SweepWork):
    def run(self, task, workdir, say):
        hosts._FAILED_ALONE_S = 3.0  # pyright: ignore[reportPrivateUsage]
        rename = os.rename

        def vanishing(source, target, **kw):
            if f"{task.id}/checkpoints" in os.fspath(source):
                shutil.rmtree(source)
            rename(source, target, **kw)

        if task.config.seed == 0:
            os.rename = vanishing
        try:
            return super().run(task, workdir, say)
        finally:
            os.rename = rename


if __name__ == "__main__":
    command(overrides.load(sys.argv[1]), Work(), Path(sys.argv[2]), workers=1)
