"""babysit.sh against stubs: what follows from each way in which a slice or a job can end."""

import os
import signal

import pytest
from conftest import HANGS_S
from scripts_stub import Cloud, wait_for

pytestmark = pytest.mark.slow

WHAT = ("--names=x", "--type=v5e:4x4", "--spot", "--max-failures=2")
JOB = ("--", "jaxcomp", "sweep", "--workdir=gs://b/a b")


@pytest.fixture
def cloud(tmp_path):
    one = Cloud.make(tmp_path, after_create=[["ACTIVE"]] * 9)
    yield one
    one.close()


def babysit(cloud, *more, code=0):
    return cloud.run("babysit.sh", *WHAT, *more, *JOB, code=code)


def starts(cloud):
    return len(cloud.calls("worker.sh start"))


def events(cloud):
    """The verbs that change something."""
    quiet = ("describe", "node describe", "ssh status", "git", "git -C")
    return [v for v in cloud.verbs() if v not in quiet]


SETUP = ["scp", "ssh unpack", "ssh install", "ssh check", "ssh ready"]


def test_from_nothing_to_a_finished_command(cloud):
    done = babysit(cloud, "--poll=9", "--zone=z")
    assert events(cloud) == ["create", *SETUP, "ssh start"]
    assert cloud.jobs("x") == [["sweep", "--workdir=gs://b/a b"]]
    # The commit of the start, whatever HEAD is when a new slice is set up.
    assert cloud.calls("archive")[0][-1] == "0123456789abcdef0123456789abcdef01234567"
    assert all("--zone=z" in c for c in cloud.calls("gcloud"))
    assert set(cloud.slept()) == {"9"}
    assert "has finished" in done.err
    assert "x stays and costs money" in done.err
    assert not list((cloud.root / "home").rglob("x.*"))


def test_a_finished_slice_can_be_given_back(cloud):
    babysit(cloud, "--delete-when-done")
    assert events(cloud)[-2:] == ["node delete", "delete"]
    assert cloud.world()["resources"] == {}


@pytest.mark.parametrize("loss", ["SUSPENDED", "PREEMPTED", "TERMINATED"])
def test_after_a_preemption_the_same_command_runs_on_a_new_slice(cloud, loss):
    """A state of the queued resource, or of its node while the resource still counts as active."""
    cloud.world(runs=[f"preempt {loss}"])
    cloud.ready("x")
    babysit(cloud, "--max-failures=0")
    again = ["node delete", "delete", "create", *SETUP, "ssh start"]
    assert events(cloud) == ["ssh start", *again]
    assert cloud.jobs("x") == [["sweep", "--workdir=gs://b/a b"]] * 2


def test_a_preemption_during_setup_is_no_failure(cloud):
    cloud.world(after_create=[["ACTIVE", "ACTIVE", "SUSPENDED"], ["ACTIVE"]])
    done = babysit(cloud, "--max-failures=0")
    assert "could not be copied" in done.err
    assert events(cloud).count("create") == 2


def test_a_request_that_keeps_failing_is_given_up(cloud):
    cloud.world(after_create=[["FAILED"]] * 9)
    done = babysit(cloud, "--backoff=5", code=1)
    assert "the request FAILED, 3 times in a row" in done.err
    assert [s for s in cloud.slept() if s != "60"] == ["5", "10"]


def test_a_refused_request_is_given_up(cloud):
    quota = {
        "match": ["create"],
        "times": 9,
        "stderr": "ERROR: Quota limit 'TPUV5s' has been exceeded",
    }
    cloud.world(fail=[quota])
    done = babysit(cloud, code=1)
    assert events(cloud) == ["create"] * 3
    assert "Quota limit" in done.err


def test_a_job_that_fails_by_itself_does_not_loop(cloud):
    cloud.world(runs=["fail 3"] * 9)
    cloud.ready("x")
    done = babysit(cloud, "--backoff=7", code=1)
    assert starts(cloud) == 3
    assert not cloud.calls("delete")
    assert [s for s in cloud.slept() if s != "60"] == ["7", "14"]
    log, _, last = done.err.rpartition("babysit.sh: ")
    assert "ValueError: the batch does not divide" in log
    assert "exit code 3" in last
    assert "x" in cloud.world()["resources"]


def test_a_job_that_fails_once_is_started_again(cloud):
    cloud.world(runs=["fail 1"])
    cloud.ready("x")
    babysit(cloud)
    assert starts(cloud) == 2


def test_workers_that_wait_for_a_dead_one_are_stopped_and_all_start_again(cloud):
    cloud.world(hosts=2, runs=["host0 1"])
    cloud.ready("x")
    babysit(cloud)
    assert events(cloud)[-3:] == ["ssh start", "ssh stop", "ssh start"]
    assert [len(cloud.jobs("x", w)) for w in (0, 1)] == [2, 2]


def test_a_sigterm_from_elsewhere_is_no_failure(cloud):
    cloud.world(runs=["fail 143"])
    cloud.ready("x")
    babysit(cloud, "--max-failures=0")
    assert starts(cloud) == 2


def test_a_job_stopped_by_hand_stays_stopped_until_it_is_babysat_again(cloud):
    cloud.world(runs=["hang"])
    cloud.ready("x")
    process = cloud.popen("babysit.sh", *WHAT, *JOB)
    wait_for(lambda: cloud.jobs("x"))
    cloud.run("tpu.sh", "stop", "--name=x")
    _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 1
    assert "stopped by tpu.sh stop" in err
    assert starts(cloud) == 1
    babysit(cloud)
    assert starts(cloud) == 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_babysitter_that_ends_leaves_the_job_and_takes_it_up_again(cloud, how):
    cloud.world(runs=["hang"])
    cloud.ready("x")
    process = cloud.popen("babysit.sh", *WHAT, *JOB)
    wait_for(lambda: cloud.jobs("x"))
    os.killpg(process.pid, how)
    _, err = process.communicate(timeout=HANGS_S)
    if how != signal.SIGKILL:
        assert process.returncode == 128 + how
        assert "go on and cost money" in err
    assert "running" in cloud.run("tpu.sh", "status", "--name=x").out
    # Its own count of starts would not start the job twice.
    second = cloud.popen("babysit.sh", *WHAT, *JOB)
    seen = len(cloud.verbs())
    wait_for(lambda: len(cloud.verbs()) > seen + 6)
    assert starts(cloud) == 1
    refused = babysit(cloud, code=1)
    assert "has a babysitter already" in refused.err
    group = cloud.home("x") / ".jaxcomp-job/pid"
    os.kill(int(group.read_text()), signal.SIGTERM)
    second.communicate(timeout=HANGS_S)
    assert second.returncode == 0
    assert starts(cloud) == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "call", ["queued-resources describe", "tpu-vm describe", "worker.sh status"]
)
def test_a_babysitter_that_ends_in_the_middle_of_a_look_says_so(cloud, call, how):
    """What gcloud says at a look goes to a file; the last words must not."""
    cloud.world(held=[call])
    cloud.ready("x")
    process = cloud.popen("babysit.sh", *WHAT, *JOB)
    wait_for(lambda: any(call in " ".join(words) for words in cloud.calls()))
    os.killpg(process.pid, how)
    _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 128 + how
    assert "go on and cost money" in err


def test_failures_are_remembered_over_a_restart(cloud):
    cloud.world(runs=["fail 1", "fail 1", "hang"])
    cloud.ready("x")
    process = cloud.popen("babysit.sh", *WHAT, *JOB)
    wait_for(lambda: len(cloud.jobs("x")) == 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    cloud.world(runs=["fail 1"] * 9)
    os.kill(int((cloud.home("x") / ".jaxcomp-job/pid").read_text()), signal.SIGKILL)
    babysit(cloud, code=1)
    assert starts(cloud) == 3


def test_another_command_for_the_same_slice_is_refused(cloud):
    cloud.world(runs=["hang"])
    cloud.ready("x")
    process = cloud.popen("babysit.sh", *WHAT, *JOB)
    wait_for(lambda: cloud.jobs("x"))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = cloud.run("babysit.sh", *WHAT, "--", "jaxcomp", "train", code=1)
    assert "another command: jaxcomp sweep --workdir='gs://b/a b'" in done.err


def test_what_ran_there_before_is_not_taken_for_this_command(cloud):
    cloud.ready("x")
    cloud.world(runs=["hang"])
    cloud.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "other")
    process = cloud.popen("babysit.sh", *WHAT, *JOB)
    wait_for(lambda: cloud.verbs().count("ssh status") > 3)
    assert starts(cloud) == 1
    cloud.run("tpu.sh", "stop", "--name=x")
    process.communicate(timeout=HANGS_S)
    assert process.returncode == 0
    assert [j[0] for j in cloud.jobs("x")] == ["other", "sweep"]


def test_a_lost_network_deletes_nothing(cloud):
    lost = [
        {
            "match": ["queued-resources", "describe"],
            "times": 3,
            "stderr": "ERROR: network unreachable",
        },
        {"match": ["worker.sh status"], "times": 2, "stderr": "ERROR: ssh timed out"},
    ]
    cloud.world(runs=["fail 143"], fail=lost)
    cloud.ready("x")
    done = babysit(cloud)
    assert not cloud.calls("delete")
    assert not cloud.calls("create")
    assert "network unreachable" in done.err


def test_one_command_a_name_with_its_place(cloud):
    done = cloud.run(
        *("babysit.sh", "--prefix=p", "--count=2", "--type=v6e:2x2", "--spot", "--"),
        *("jaxcomp", "sweep", "--shard={i}/{n}"),
    )
    for i in range(2):
        assert cloud.jobs(f"p-{i}") == [["sweep", f"--shard={i}/2"]]
        assert f"[p-{i}] p-{i}: the command has finished" in done.out


def test_one_that_gives_up_does_not_end_the_others(cloud):
    refused = {"match": ["--node-id=a"], "times": 9, "stderr": "ERROR: no quota"}
    cloud.world(fail=[refused])
    done = cloud.run(
        *("babysit.sh", "--names=a,b", "--type=v5e:4x4", "--spot", "--max-failures=0"), *JOB, code=1
    )
    assert "gave up on a" in done.out
    assert "b: the command has finished" in done.out
