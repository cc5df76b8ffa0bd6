"""Coming together and losing each other, without JAX: lines over localhost within one process."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from processes import free_port

from jaxcomp.config import ConfigError
from jaxcomp.runtime import cluster, distributed
from jaxcomp.runtime.channel import Channel, Lost, StartError, call_in, gather_all

HOSTS = ("alpha", "beta", "gamma")


def hello(process, processes=3, **changes):
    made = {
        "process": process,
        "processes": processes,
        "host": HOSTS[process],
        "versions": {"jax": "1.0"},
        "command": "jaxcomp train",
        "config": "abc",
        "time": time.time(),
    }
    return made | changes


def roll_call(hellos, timeout=10.0, count=3) -> list[Any]:
    """What each process of `hellos` gets: (lines, hellos), or the words of its StartError."""
    port = free_port()

    def one(mine):
        try:
            if mine["process"] == 0:
                names = ("", "", "gamma")[:count]
                return gather_all(port, mine, names, timeout, distributed.differs)
            return call_in(f"localhost:{port}", mine, timeout)
        except StartError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, hellos))


@pytest.fixture
def three():
    """The channels of three processes."""
    (lines, hellos), *rest = roll_call([hello(i) for i in range(3)])
    hosts = [h["host"] for h in hellos]
    made = [Channel(0, hosts, lines, 10.0)]
    made += [Channel(i, hosts, {0: line}, 10.0) for i, (line, _) in enumerate(rest, 1)]
    for channel in made:
        channel.open()
    yield made
    for channel in made:
        for line in channel.lines.values():
            line.close()


def at_once(channels, do):
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(do, channels))


def test_all_come_and_know_each_other():
    found = roll_call([hello(i) for i in (1, 2, 0)])
    for one in found:
        assert [h["host"] for h in one[1]] == list(HOSTS)
        for line in one[0].values() if isinstance(one[0], dict) else [one[0]]:
            line.close()


def test_who_is_missing_is_said_to_all_that_came():
    begin = time.monotonic()
    said = roll_call([hello(0), hello(1)], timeout=1.5)
    assert time.monotonic() - begin < 5
    assert said[0] == said[1]
    assert "process 2 (gamma) of 3 did not start within 1.5 s" in said[0]
    assert "process 0 (alpha), process 1 (beta) did" in said[0]


def test_without_process_0_the_address_is_said():
    (said,) = roll_call([hello(1)], timeout=1.0)
    assert said.startswith("process 1 (beta) did not reach process 0 at localhost:")
    assert "refused" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": {"jax": "2.0"}}, "(gamma) has jax 2.0, process 0 (alpha) 1.0; install"),
        ({"command": "jaxcomp eval"}, "(gamma) was started with `jaxcomp eval`, process 0"),
        ({"config": "xyz"}, "(gamma) reads the config as xyz, process 0 (alpha) as abc"),
        ({"time": time.time() - 3600}, "behind that of process 0 (alpha); set the clocks"),
        ({"processes": 4}, "(gamma) expects 4 processes, process 0 (alpha) 3"),
        ({"process": 1, "host": "delta"}, "both say that they are process 1; number the 3"),
    ],
)
def test_what_differs_is_one_error_on_every_process(changes, words):
    begin = time.monotonic()
    said = roll_call([hello(0), hello(1), hello(2) | changes])
    assert time.monotonic() - begin < 8
    assert [words in str(one) for one in said] == [True] * 3


def test_a_taken_port_is_an_error():
    with socket.create_server(("", free_port())) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=rf"cannot listen on port {port}"):
            gather_all(port, hello(0), HOSTS, 1.0, distributed.differs)


def test_a_stranger_on_the_port_does_no_harm():
    port = free_port()

    def stranger():
        for _ in range(100):
            try:
                with socket.create_connection(("localhost", port)) as sock:
                    sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return
            except OSError:
                time.sleep(0.02)

    thread = threading.Thread(target=stranger)
    thread.start()
    with ThreadPoolExecutor(2) as pool:
        lead = pool.submit(gather_all, port, hello(0, 2), ("", ""), 10.0, distributed.differs)
        thread.join()
        line, _ = pool.submit(call_in, f"localhost:{port}", hello(1, 2), 10.0).result()
    line.close()
    for line in lead.result()[0].values():
        line.close()


def test_gather_gives_every_value_to_all_in_order(three):
    for turn in range(3):
        found = at_once(three, lambda c, turn=turn: c.gather("x", [c.process, turn]))
        assert found == [[[i, turn] for i in range(3)]] * 3


def test_gather_that_is_too_late_is_lost(three):
    with pytest.raises(Lost, match=r"not every process came to 'x' within 0\.2 s"):
        three[1].gather("x", timeout=0.2)


def test_a_process_that_fails_tells_why(three):
    seen = []
    three[2].on_lost = lambda: seen.append(three[2].lost)
    three[1].fail("the disk is full")
    for i in (0, 2):
        with pytest.raises(Lost, match=r"process 1 \(beta\) ended: the disk is full"):
            three[i].gather("never", timeout=5.0)
    assert seen == ["process 1 (beta) ended: the disk is full"]


@pytest.mark.parametrize("dead", [0, 2])
def test_a_process_that_dies_is_named(three, dead):
    three[dead]._closing = True  # the threads of a dead process say nothing any more
    for line in three[dead].lines.values():
        line.close()
    alive = [c for c in three if c.process != dead]
    for one in alive:
        with pytest.raises(Lost, match=rf"process {dead} \({HOSTS[dead]}\) died"):
            one.gather("never", timeout=5.0)


def test_one_that_is_told_to_stop_stops_all_after_the_same_step(three):
    """Each is at another step; all wait until they have agreed on the one after the furthest."""
    agreed, done = {}, threading.Barrier(4)

    def stop(channel):
        agreed[channel.process] = 1 + max(channel.gather("stop", 10 + channel.process))
        done.wait(10)

    for channel in three:
        channel.on_stop = lambda channel=channel: stop(channel)
    three[2].stop()
    three[2].stop()
    done.wait(10)
    assert agreed == {0: 13, 1: 13, 2: 13}


def test_an_orderly_end_is_no_loss(three):
    at_once(three, Channel.close)
    assert [c.lost for c in three] == [None] * 3


# --- what the environment says ------------------------------------------------------------------


@pytest.fixture
def env(monkeypatch):
    for name in (cluster.ADDRESS, cluster.COUNT, cluster.INDEX, "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)

    def put(address=None, count=None, index=None):
        names = zip(
            (cluster.ADDRESS, cluster.COUNT, cluster.INDEX), (address, count, index), strict=True
        )
        for name, value in names:
            if value is not None:
                monkeypatch.setenv(name, value)

    return put


def test_alone_there_is_no_cluster(env):
    assert cluster.find_cluster() is None
    env(count="1")
    assert cluster.find_cluster() is None
    assert distributed.is_lead()
    assert distributed.gather("x", 3) == [3]
    assert distributed.by_lead(lambda: {"a": 1}) == {"a": 1}


def test_a_cluster_by_hand(env):
    env("10.0.0.2:8476", "4", "3")
    found = cluster.find_cluster()
    assert found is not None
    assert found[:4] == ("JAX_COORDINATOR_ADDRESS", "10.0.0.2:8476", 4, 3)
    with pytest.raises(ConfigError, match=r"jaxcomp check runs in one process.*one of 4"):
        distributed.refuse_several("check")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("h:1", "2", None), "JAXCOMP_PROCESSES=2 without JAXCOMP_PROCESS"),
        (("h:1", None, None), "without JAXCOMP_PROCESSES and JAXCOMP_PROCESS"),
        ((None, "2", "0"), "without JAX_COORDINATOR_ADDRESS"),
        (("h", "2", "0"), "JAX_COORDINATOR_ADDRESS=h: expected host:port"),
        (("h:99999", "2", "0"), "expected host:port"),
        (("h:1", "two", "0"), "JAXCOMP_PROCESSES=two: expected a whole number"),
        (("h:1", "2", "2"), "JAXCOMP_PROCESS=2: expected 0 to 1"),
    ],
)
def test_values_that_cannot_be_are_named(env, given, words):
    env(*given)
    with pytest.raises(ConfigError) as error:
        cluster.find_cluster()
    assert words in str(error.value)


def test_timeouts_are_checked(monkeypatch):
    monkeypatch.setenv(cluster.START_S, "soon")
    with pytest.raises(ConfigError, match="JAXCOMP_START_TIMEOUT=soon: expected a whole number"):
        cluster.start_timeout()
    monkeypatch.setenv(cluster.HEARTBEAT_S, "1")
    with pytest.raises(ConfigError, match=r"JAXCOMP_HEARTBEAT_TIMEOUT=1: .* at least 5"):
        cluster.heartbeat_timeout()


def test_a_slurm_step(env, monkeypatch):
    step = {
        "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[03-04]", "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2",
    }  # fmt: skip
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    found = cluster.find_cluster()
    assert found is not None
    assert found.address.startswith("node03:")
    assert (found.how, found.processes, found.process) == ("SLURM", 2, 1)
    assert found.local_devices is None
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "1")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    shared = cluster.find_cluster()
    assert shared is not None
    assert shared.local_devices == (1,)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert cluster.find_cluster() is None


def test_greetings_are_json():
    made = distributed._hello(
        cluster.Cluster("x", "h:1", 2, 1, ("", "")), ["train", "--a=b c"], "digest"
    )
    assert json.loads(json.dumps(made)) == made
    assert made["command"] == "jaxcomp train '--a=b c'"
    assert {"python", "jax", "jaxlib", "libtpu", "jaxcomp"} == made["versions"].keys()
