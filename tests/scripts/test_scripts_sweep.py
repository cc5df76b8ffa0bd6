"""sweep.sh against stubs: one part of the sweep on each slice, whatever state the slices are in."""

import os
import signal

import pytest
from conftest import HANGS_S
from scripts_stub import Cloud, wait_for

START = (
    *("sweep.sh", "start", "--names=a,b,c", "--type=v5e:4x4", "--on-demand", "--zone=z"),
    *("--config=configs/paper.py:ratio=16", "--workdir=gs://bucket/my runs/paper"),
)


@pytest.fixture
def cloud(tmp_path):
    one = Cloud.make(tmp_path)
    yield one
    one.close()


def of(cloud, name, *words):
    return [c for c in cloud.calls(*words) if name in c or f"{name}:jaxcomp.tgz" in c]


def test_what_is_missing_is_made_and_each_slice_gets_its_part(cloud):
    cloud.ready("a")
    cloud.resource("b", "PROVISIONING", "ACTIVE")
    done = cloud.run(*START, "--", "--sweep.ratios=4,16")
    assert not of(cloud, "a", "create")
    assert not of(cloud, "a", "worker.sh install")
    assert not of(cloud, "b", "create")
    assert of(cloud, "b", "worker.sh install")
    assert of(cloud, "c", "create")
    for i, name in enumerate("abc"):
        wait_for(lambda n=name: cloud.jobs(n))
        config, workdir, shard, more = cloud.jobs(name)[0][1:]
        assert config == "--config=configs/paper.py:ratio=16"
        assert workdir == "--workdir=gs://bucket/my runs/paper"
        assert (shard, more) == (f"--shard={i}/3", "--sweep.ratios=4,16")
        assert f"[{name}] worker" in done.out


def test_started_again_it_leaves_what_runs_alone(cloud):
    cloud.world(runs=["hang"])
    for name in "abc":
        cloud.ready(name)
    cloud.run(*START)
    cloud.run(*START)
    assert [len(of(cloud, n, "worker.sh start")) for n in "abc"] == [1, 1, 1]


def test_one_lost_slice_does_not_hold_up_the_others(cloud):
    cloud.ready("a")
    cloud.resource("b", "SUSPENDED")
    cloud.ready("c")
    done = cloud.run(*START, code=1)
    wait_for(lambda: cloud.jobs("a") and cloud.jobs("c"))
    assert "b is SUSPENDED" in done.out
    assert "tpu.sh stop --name=b --zone=z --delete" in done.out
    assert not cloud.calls("delete")


def test_an_active_slice_does_not_wait_for_one_in_the_queue(cloud):
    cloud.resource("a", "WAITING_FOR_RESOURCES")
    cloud.ready("b")
    cloud.ready("c")
    process = cloud.popen(*START)
    wait_for(lambda: cloud.jobs("b") and cloud.jobs("c"))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 130
    assert "sweep.sh stop --delete" in err
    assert set(cloud.world()["resources"]) == {"a", "b", "c"}


def test_stop_ends_all_and_gives_them_back(cloud):
    cloud.world(runs=["hang"])
    for name in "ab":
        cloud.ready(name)
        cloud.run("tpu.sh", "run", f"--name={name}", "--", "jaxcomp", "sweep")
    wait_for(lambda: cloud.jobs("a") and cloud.jobs("b"))
    done = cloud.run("sweep.sh", "stop", "--names=a,b", "--delete")
    assert done.out.count("stopped, exit code 143") == 2
    assert cloud.world()["resources"] == {}
