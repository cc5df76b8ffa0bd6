"""`vanishing_sweep.py CONFIG WORKDIR`: `jaxcomp sweep` whose first job's checkpoints vanish while
they are written: somebody cleans up, or a shared disk goes stale."""

import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from jaxcomp import cli, distributed, settings, stopping
from jaxcomp.sweep import hosts, jobs, runner
from jaxcomp.train import checkpoint


def remove(folder):
    """What is half written, again and again."""
    while True:
        for place in folder.glob("*tmp*/*"):
            shutil.rmtree(place.parent, ignore_errors=True)
        time.sleep(0.001)


class Work(jobs.SweepWork):
    def run(self, task, workdir, say):
        hosts._FAILED_ALONE_S = 3.0  # pyright: ignore[reportPrivateUsage]
        save = checkpoint.Checkpoints.save

        def vanishing(self, step, state, data):
            if distributed.is_lead():
                threading.Thread(target=remove, args=(self.directory,), daemon=True).start()
            save(self, step, state, data)

        if task.config.seed == 0:
            checkpoint.Checkpoints.save = vanishing
        try:
            return super().run(task, workdir, say)
        finally:
            checkpoint.Checkpoints.save = save


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
