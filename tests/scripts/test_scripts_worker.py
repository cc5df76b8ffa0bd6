"""worker.sh, run as it is on a worker."""

import os
import signal
import subprocess

import pytest
from conftest import HANGS_S
from scripts_stub import SCRIPTS, Cloud, wait_for


class Worker:
    def __init__(self, cloud):
        cloud.ready("x")
        self.cloud = cloud
        self.home = cloud.home("x")
        self.job = self.home / ".jaxcomp-job"

    def __call__(self, *args, code=0, **more):
        about = {
            "HOME": str(self.home),
            "WORKER_HOST": "w-0",
            "WORKER_NODE": "x",
            "WORKER_INDEX": "0",
        }
        done = subprocess.run(
            ["bash", str(self.home / "jaxcomp/tpu_scripts/worker.sh"), *args],
            env=self.cloud.env(**about | more),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=HANGS_S,
        )
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout + done.stderr

    def state(self):
        return self("status").split()[2:5]

    def pid(self):
        return int(wait_for(lambda: (self.job / "pid").exists() and (self.job / "pid").read_text()))

    def ends(self):
        wait_for(lambda: self.state()[0] != "running")


@pytest.fixture
def worker(tmp_path):
    cloud = Cloud.make(tmp_path)
    yield Worker(cloud)
    cloud.close()


def test_states_of_a_job(worker):
    assert worker.state() == ["none", "-", "-"]
    worker("start", "--attempt=a", "--", "sh", "-c", "echo hello; exit 7")
    worker.ends()
    assert worker.state() == ["finished", "7", "a"]
    assert worker("status").endswith("| hello\n")
    worker("start", "--attempt=b", "--", "sleep", "60")
    assert worker.state() == ["running", "-", "b"]


def test_a_progress_bar_counts_as_its_last_state(worker):
    worker("start", "--attempt=a", "--", "printf", r"one\n 10%%\r 20%%\r  \n")
    worker.ends()
    assert worker("status").endswith("|  20%\n")


def test_sigterm_reaches_the_job_once_and_it_may_take_its_time(worker):
    save = 'trap "echo got; /bin/sleep 0.3; echo saved; exit 143" TERM; '
    save += "while :; do /bin/sleep 0.05; done"
    worker("start", "--attempt=a", "--", "bash", "-c", save)
    worker.pid()
    assert "stopped, exit code 143" in worker("stop")
    log = (worker.job / "log").read_text()
    assert log.count("got\n") == 1
    assert "saved" in log
    assert worker.state()[0] == "finished"


def test_stop_with_mark_is_told_from_an_end_of_its_own(worker):
    worker("start", "--attempt=a", "--", "sh", "-c", "exec /bin/sleep 60")
    worker.pid()
    worker("stop", "--mark")
    assert worker.state()[0] == "stopped"
    worker("start", "--attempt=b", "--", "true")
    worker.ends()
    worker("stop", "--mark")
    assert worker.state() == ["finished", "0", "b"]


def test_a_job_that_will_not_end_is_killed_with_its_children(worker):
    deaf = "trap '' TERM; /bin/sleep 61 & wait; /bin/sleep 61"
    worker("start", "--attempt=a", "--", "bash", "-c", deaf)
    group = (worker.pid() and worker.job / "group").read_text()
    assert "killed after 2 s" in worker("stop", "--grace=2")
    wait_for(lambda: subprocess.run(["pgrep", "-g", group], capture_output=True).returncode)
    assert worker.state() == ["finished", "137", "a"]


def test_killed_from_outside_is_no_exit(worker):
    worker("start", "--attempt=a", "--", "/bin/sleep", "60")
    worker.pid()
    os.killpg(int((worker.job / "group").read_text()), signal.SIGKILL)
    worker.ends()
    assert worker.state()[0] == "died"


def test_a_reboot_is_told_from_a_kill(worker):
    worker("start", "--attempt=a", "--", "/bin/sleep", "60")
    worker.pid()
    os.killpg(int((worker.job / "group").read_text()), signal.SIGKILL)
    (worker.job / "boot").write_text("another boot\n")
    worker.ends()
    assert worker.state()[0] == "rebooted"


def test_the_lock_outlives_the_keeper_and_not_the_job(worker):
    """As long as anything of the job lives, the devices are taken."""
    worker("start", "--attempt=a", "--", "/bin/sleep", "60")
    pid = worker.pid()
    os.kill(int((worker.job / "group").read_text()), signal.SIGKILL)
    assert worker.state()[0] == "running"
    worker("start", "--attempt=b", "--", "true", code=3)
    os.kill(pid, signal.SIGKILL)
    worker.ends()
    worker("start", "--attempt=b", "--", "true")


def test_many_looks_do_not_keep_a_job_from_starting(worker):
    script = str(worker.home / "jaxcomp/tpu_scripts/worker.sh")
    loop = f"for i in $(seq 40); do bash {script} status >/dev/null; done"
    env = worker.cloud.env(HOME=str(worker.home))
    looks = subprocess.Popen(["bash", "-c", loop], env=env)
    for i in range(5):
        worker("start", f"--attempt={i}", "--", "true")
        worker.ends()
    looks.kill()
    looks.wait()


def test_a_worker_that_is_not_set_up_says_so(worker):
    (worker.home / "jaxcomp/.venv/jaxcomp-ready").unlink()
    assert worker.state()[0] == "unset"
    assert "run tpu.sh setup" in worker("start", "--attempt=a", "--", "true", code=4)


def test_stop_of_another_attempt_leaves_this_one(worker):
    worker("start", "--attempt=a", "--", "/bin/sleep", "60")
    worker("stop", "--attempt=b")
    assert worker.state()[0] == "running"


def test_the_check_is_python(worker):
    text = (SCRIPTS / "worker.sh").read_text()
    code = text.split("<<'PY'\n")[1].split("\nPY\n")[0]
    compile(code, "check", "exec")
