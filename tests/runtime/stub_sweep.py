"""`stub_sweep.py WORKDIR`: `jaxcomp sweep` with jobs that only sleep, or loop until stopped."""

import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
from sweep import sweep_stub

from jaxcomp.cli import main
from jaxcomp.runtime import distributed, preemption
from jaxcomp.sweep import runner

CFG = sweep_stub.config(base_seeds=(0,))


class Work(sweep_stub.StubWork):
    """Files in the workdir say what happens: "alone-JOB" fails on one process alone, "loop" makes
    jobs of steps."""

    def run(self, task, workdir, say):
        if (workdir / f"alone-{task.id}").exists() and not distributed.is_lead():
            raise ValueError("only here")
        if task.what == "job" and (workdir / "loop").exists():
            self.loop(task, workdir, say)
        return super().run(task, workdir, say)

    def loop(self, task, workdir, say):
        made = jax.process_index() if distributed.count() > 1 else 0
        with preemption.steps() as brake:
            for step in range(6000):
                time.sleep(0.01 + 0.005 * made)
                say(f"step {step}", 0.1)
                if step == 20:  # by now the two are some steps apart
                    (workdir / f"looping-{task.id}-{made}").touch()
                if brake.reached():
                    break
            (workdir / f"saved-{task.id}-{made}").write_text(str(step))
            if brake.reached():
                raise preemption.Terminated


def sweep(workdir):
    """Runs the sweep; the exit code of the command."""
    signal.signal(signal.SIGTERM, preemption.on_sigterm)
    try:
        distributed.start(sys.argv[1:])
        summary = runner.run(CFG, workdir, work=Work(), workers=2)
        print(summary)
        distributed.finish()
        return len(summary.failed)
    except preemption.Terminated:
        distributed.leave(143, "it was told to stop")
        return 143
    except Exception as error:
        return main._failed(error)


if __name__ == "__main__":
    sys.exit(sweep(Path(sys.argv[1])))
