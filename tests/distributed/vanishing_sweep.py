"""`vanishing_sweep.py CONFIG WORKDIR`: `jaxcomp sweep` whose first job's checkpoints vanish while
they are written: somebody cleans up, or a shared disk goes stale."""

import os
import shutil
import signal
import sys
from pathlib import Path

from jaxcomp import cli, settings, stopping
from jaxcomp.sweep import hosts, jobs, runner


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


def main(config, workdir):
    cfg, work = settings.load(config), Work()
    with hosts.joined(sys.argv[1:], cfg, work, workdir, None) as team:
        if team.follows:
            return team.wait()
        summary = runner.run(cfg, workdir, work=work, workers=1, team=team.worker)
    print(summary)
    return len(summary.failed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stopping.on_sigterm)
    try:
        sys.exit(main(sys.argv[1], Path(sys.argv[2])))
    except Exception as error:
        sys.exit(cli._failed(error))
