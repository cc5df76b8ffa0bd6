"""tpu.sh against stubs: what it would call, in which order, in which state."""

import os
import signal

import pytest
from conftest import HANGS_S
from scripts_stub import Cloud, wait_for


@pytest.fixture
def cloud(tmp_path):
    one = Cloud.make(tmp_path, hosts=2)
    yield one
    one.close()


@pytest.fixture
def ready(cloud):
    """One slice of two workers, set up, with no job."""
    cloud.ready("x")
    return cloud


def test_create_asks_for_what_was_named(cloud):
    where = ["--zone=us-west4-a", "--project=p"]
    cloud.run("tpu.sh", "create", "--name=x", "--type=v5e:4x4", "--spot", *where)
    (call,) = cloud.calls()
    assert call[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "x"]
    assert set(call[6:]) == {
        "--node-id=x",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
        *where,
    }


@pytest.mark.parametrize(
    ("asked", "accelerator", "runtime"),
    [
        ("v5p:4x4x4", "v5p-128", "v2-alpha-tpuv5"),
        ("v6e:8x8", "v6e-64", "v2-alpha-tpuv6e"),
        ("v5litepod-8", "v5litepod-8", "v2-alpha-tpuv5-lite"),
    ],
)
def test_types_by_topology_and_by_name(cloud, asked, accelerator, runtime):
    cloud.run("tpu.sh", "create", "--name", "x", "--type", asked, "--on-demand", "--internal-ip")
    (call,) = cloud.calls()
    assert f"--accelerator-type={accelerator}" in call
    assert f"--runtime-version={runtime}" in call
    assert "--internal-ips" in call
    assert "--spot" not in call


def test_several_slices_are_one_request(cloud):
    more = ["--slices=3", "--network=n"]
    cloud.run("tpu.sh", "create", "--name=x", "--type=v6e:4x4", "--spot", *more)
    (call,) = cloud.calls()
    assert {"--node-count=3", "--node-prefix=x", "--network=n"} < set(call)
    assert not any(a.startswith("--node-id") for a in call)


def test_wait_ends_when_active(cloud):
    cloud.run("tpu.sh", "create", "--name=x", "--type=v5e:4x4", "--spot", "--wait", "--poll=7")
    assert cloud.verbs() == ["create", "describe", "describe", "describe"]
    assert cloud.slept() == ["7", "7"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_wait_ends_with_the_mend_when_it_is_lost(cloud, state):
    cloud.world(after_create=[["WAITING_FOR_RESOURCES", state]])
    done = cloud.run(
        "tpu.sh", "create", "--name=x", "--type=v5e:4x4", "--spot", "--wait", "--zone=z", code=1
    )
    last = done.err.splitlines()[-1]
    assert state in last
    assert "tpu.sh stop --name=x --zone=z --delete" in last


def test_a_lost_network_is_waited_out_and_not_taken_for_a_loss(cloud):
    lost = {
        "match": ["queued-resources", "describe"],
        "times": 3,
        "stderr": "ERROR: network unreachable",
    }
    cloud.world(fail=[lost])
    done = cloud.run("tpu.sh", "create", "--name=x", "--type=v5e:4x4", "--spot", "--wait")
    assert cloud.verbs() == ["create", *["describe"] * 6]
    assert "ABSENT" not in done.err


def test_interrupted_wait_says_that_the_request_stays(cloud):
    cloud.world(after_create=[["WAITING_FOR_RESOURCES"]])
    process = cloud.popen("tpu.sh", "create", "--name=x", "--type=v5e:4x4", "--spot", "--wait")
    wait_for(lambda: "describe" in cloud.verbs())
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 130
    assert "x stays in the queue" in err
    assert "tpu.sh stop --name=x --delete" in err


def test_setup_sends_the_code_installs_and_compares(cloud):
    cloud.resource("x")
    done = cloud.run("tpu.sh", "setup", "--name=x", "--commit=v1")
    steps = ["unpack", "install", "check", "ready"]
    assert cloud.verbs() == ["describe", "git", "scp", *[f"ssh {s}" for s in steps]]
    assert cloud.calls("archive")[0][-1] == "v1"
    assert "workers: 2, devices: 16, python=3.11.9" in done.err
    for worker in (0, 1):
        assert (cloud.home("x", worker) / "jaxcomp/pyproject.toml").exists()
    assert not list((cloud.root / "tmp").glob("*.tgz"))


def test_setup_clones_where_a_url_is_given(cloud):
    cloud.resource("x")
    cloud.run("tpu.sh", "setup", "--name=x", "--repo=https://host/a b.git", "--commit=v1")
    assert "scp" not in cloud.verbs()
    clones = cloud.calls("git", "clone", "jaxcomp.new")
    assert clones[-1][1:] == ["clone", "--quiet", "https://host/a b.git", "jaxcomp.new"]
    assert ["git", "-C", "jaxcomp.new", "checkout", "--quiet", "v1"] in cloud.calls()


def test_setup_again_keeps_the_environment(ready):
    marker = ready.home("x") / "jaxcomp/.venv/kept"
    marker.touch()
    stale = ready.home("x") / "jaxcomp/stale.py"
    stale.touch()
    ready.run("tpu.sh", "setup", "--name=x")
    assert marker.exists()
    assert not stale.exists()


def test_a_setup_that_fails_leaves_no_worker_marked_as_ready(ready):
    ready.world(versions={"t1v-n-x-w-1": "python=3.12.1"})
    ready.run("tpu.sh", "setup", "--name=x", code=1)
    assert ready.run("tpu.sh", "status", "--name=x").out.count("unset") == 2


def test_env_file_reaches_the_job_and_nobody_else(cloud):
    cloud.resource("x")
    secret = cloud.root / "my env"
    secret.write_text("HF_TOKEN='a b'\n")
    cloud.run("tpu.sh", "setup", "--name=x", f"--env-file={secret}")
    copy = cloud.home("x") / ".jaxcomp-env"
    assert copy.stat().st_mode & 0o077 == 0
    cloud.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "sweep")
    wait_for(lambda: "token=a b" in cloud.run("tpu.sh", "logs", "--name=x", "--worker=1").out)
    assert not cloud.calls("a b'")


@pytest.mark.parametrize(
    ("world", "words"),
    [
        ({"versions": {"t1v-n-x-w-1": "python=3.11.9,jax=0.9.0"}}, ["w-1", "jax=0.9.0"]),
        ({"devices": 8}, ["8 devices", "has 16"]),
    ],
)
def test_setup_refuses_workers_that_do_not_agree(cloud, world, words):
    cloud.world(**world)
    cloud.resource("x")
    done = cloud.run("tpu.sh", "setup", "--name=x", code=1)
    assert all(w in done.err.splitlines()[-1] for w in words)
    assert "ssh ready" not in cloud.verbs()
    done = cloud.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "sweep", code=1)
    assert "not set up" in done.err


@pytest.mark.parametrize("state", ["WAITING_FOR_RESOURCES", "SUSPENDED", "FAILED", None])
@pytest.mark.parametrize("verb", [("setup",), ("run", "--", "true"), ("logs",)])
def test_nothing_is_sent_to_a_slice_that_is_not_active(cloud, state, verb):
    if state:
        cloud.resource("x", state)
    done = cloud.run("tpu.sh", verb[0], "--name=x", *verb[1:], code=1)
    assert cloud.verbs() == ["describe"]
    assert (state or "no queued resource") in done.err


ODD = ["jaxcomp", "--a=b c", "it's", "$HOME", '"q"', "*", "two\nlines", "", "é", "a  b", "x;y"]


def test_every_argument_arrives_as_it_was_typed(ready):
    ready.run("tpu.sh", "run", "--name=x", "--", *ODD)
    for worker in (0, 1):
        wait_for(lambda w=worker: ready.jobs("x", w))
        assert ready.jobs("x", worker) == [ODD[1:]]


def test_a_job_outlives_its_starter_and_a_second_is_refused(ready):
    ready.world(runs=["hang"])
    ready.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "sweep")
    wait_for(lambda: ready.jobs("x", 1))
    before = len(ready.verbs())
    done = ready.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "other", code=1)
    assert "runs already on t1v-n-x-w-0" in done.err
    assert ready.verbs()[before:] == ["describe", "ssh status"]
    assert ready.jobs("x") == [["sweep"]]
    done = ready.run("tpu.sh", "setup", "--name=x", code=1)
    assert "a job runs here" in done.err


def test_the_same_attempt_starts_once(ready):
    """gcloud repeats a command whose connection broke."""
    ready.world(runs=["hang"])
    for _ in range(2):
        ready.run("tpu.sh", "run", "--name=x", "--attempt=a1", "--", "jaxcomp", "sweep")
    wait_for(lambda: ready.jobs("x", 1))
    assert [len(ready.jobs("x", w)) for w in (0, 1)] == [1, 1]


def test_a_start_that_fails_on_one_worker_is_undone_on_the_others(ready):
    ready.world(runs=["hang"])
    worker = ready.home("x", 1) / "jaxcomp/tpu_scripts/worker.sh"
    worker.write_text(worker.read_text().replace("do_start() {", "do_start() { return 5;"))
    done = ready.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "sweep", code=1)
    assert "not every worker of x started" in done.err
    assert ready.verbs()[-2:] == ["ssh start", "ssh stop"]
    status = ready.run("tpu.sh", "status", "--name=x").out
    assert "running" not in status


def test_status_shows_resource_nodes_and_jobs(ready):
    ready.world(runs=["hang"])
    assert " none" in ready.run("tpu.sh", "status", "--name=x").out
    ready.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "sweep")
    status = "tpu.sh", "status", "--name=x"
    wait_for(lambda: ready.run(*status).out.count("step 7") == 2)
    rows = ready.run(*status).out.splitlines()
    assert " ".join(rows[0].split()) == "queued resource x ACTIVE v5litepod-16 x 1"
    assert " ".join(rows[1].split()) == "node x READY HEALTHY"
    assert [r.split()[1:3] for r in rows[2:]] == [
        ["t1v-n-x-w-0", "running:"],
        ["t1v-n-x-w-1", "running:"],
    ]
    assert "step 7 loss 1.234" in rows[2]


def test_stop_lets_the_job_save_and_says_its_exit_code(ready):
    ready.world(runs=["hang"])
    ready.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "sweep")
    wait_for(lambda: ready.jobs("x", 1))
    done = ready.run("tpu.sh", "stop", "--name=x")
    assert done.out.count("stopped, exit code 143") == 2
    assert not ready.calls("delete")
    assert "costs money" in done.err
    assert "stopped with exit code 143" in ready.run("tpu.sh", "status", "--name=x").out


def test_stop_with_delete_gives_nodes_and_request_back(ready):
    ready.run("tpu.sh", "stop", "--name=x", "--delete")
    assert ready.verbs() == ["describe", "ssh stop", "node delete", "delete"]
    assert "--force" in ready.calls("queued-resources", "delete")[0]
    assert ready.world()["resources"] == {}
    assert "nothing to stop" in ready.run("tpu.sh", "stop", "--name=x", "--delete").err


def test_a_waiting_request_can_be_given_up(cloud):
    cloud.resource("x", "WAITING_FOR_RESOURCES")
    cloud.run("tpu.sh", "stop", "--name=x", "--delete")
    assert cloud.verbs() == ["describe", "node delete", "delete"]


def test_a_job_that_cannot_be_stopped_is_not_deleted_unless_forced(ready):
    deaf = {"match": ["ssh", "worker.sh stop"], "times": 2, "stderr": "ERROR: connection timed out"}
    ready.world(fail=[deaf])
    done = ready.run("tpu.sh", "stop", "--name=x", "--delete", code=1)
    assert "nothing was deleted" in done.err
    assert "x" in ready.world()["resources"]
    ready.run("tpu.sh", "stop", "--name=x", "--delete", "--force")
    assert ready.world()["resources"] == {}


def test_several_slices_are_served_together(cloud):
    cloud.resource("x", "ACTIVE", count=2)
    cloud.run("tpu.sh", "setup", "--name=x")
    for verb in ("scp", "ssh unpack", "ssh install", "ssh check", "ssh ready"):
        assert cloud.verbs().count(verb) == 2
    cloud.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "sweep")
    wait_for(lambda: all(cloud.jobs(n, w) for n in ("x-0", "x-1") for w in (0, 1)))
    cloud.run("tpu.sh", "logs", "--name=x", "--slice=1", "--worker=1", "--lines=3")
    assert {"x-1", "--worker=1"} < set(cloud.calls("worker.sh logs")[0])
    done = cloud.run("tpu.sh", "status", "--name=x", "--slices=3", code=2)
    assert "--slices=2" in done.err


def test_one_slice_of_several_that_fails_is_not_overlooked(cloud):
    cloud.resource("x", "ACTIVE", count=2)
    cloud.world(fail=[{"match": ["x-0:jaxcomp.tgz"], "times": 1, "stderr": "ERROR: timed out"}])
    done = cloud.run("tpu.sh", "setup", "--name=x", code=1)
    assert "could not be copied" in done.err
    assert "ssh unpack" not in cloud.verbs()


def test_logs_can_be_followed_until_ctrl_c(ready):
    ready.world(runs=["hang"])
    ready.run("tpu.sh", "run", "--name=x", "--", "jaxcomp", "sweep")
    process = ready.popen("tpu.sh", "logs", "--name=x", "--follow")
    assert process.stdout
    wait_for(lambda: "step 7" in process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 130
    assert "the job goes on" in err
    assert "running" in ready.run("tpu.sh", "status", "--name=x").out
