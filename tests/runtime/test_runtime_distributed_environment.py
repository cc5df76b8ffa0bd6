"""What the environment says of the processes of a run; nothing is started."""

import pytest

from jaxcomp.config import ConfigError
from jaxcomp.runtime import distributed

SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[03-04]", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip


@pytest.fixture
def env(monkeypatch):
    names = (distributed.ADDRESS, distributed.COUNT, distributed.INDEX)
    for name in (*names, *SLURM):
        monkeypatch.delenv(name, raising=False)

    def put(address=None, count=None, index=None, **more):
        given = dict(zip(names, (address, count, index), strict=True)) | more
        for name, value in given.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return put


def test_alone_there_is_nothing_to_start(env):
    assert distributed.found() == ("", 1)
    env(count="1")
    assert distributed.found() == ("", 1)
    distributed.start()
    assert distributed.is_lead()
    assert distributed.by_lead(lambda: {"a": 1}) == {"a": 1}
    distributed.barrier("x")


def test_processes_by_hand(env):
    env("10.0.0.2:8476", "4", "3")
    assert distributed.found() == ("JAXCOMP_PROCESSES", 4)
    with pytest.raises(ConfigError, match=r"jaxcomp check runs in one process.*one of 4"):
        distributed.refuse_several("check")


@pytest.mark.parametrize(
    ("given", "more", "words"),
    [
        (("h:1", "2", None), {}, "JAXCOMP_PROCESSES=2 without JAXCOMP_PROCESS"),
        (("h:1", None, None), {}, "without JAXCOMP_PROCESSES and JAXCOMP_PROCESS"),
        ((None, "2", "0"), {}, "without JAX_COORDINATOR_ADDRESS"),
        (("h", "2", "0"), {}, "JAX_COORDINATOR_ADDRESS=h: expected host:port"),
        (("h:99999", "2", "0"), {}, "expected host:port"),
        (("h:1", "two", "0"), {}, "JAXCOMP_PROCESSES=two: expected a whole number"),
        (("h:1", "2", "2"), {}, "JAXCOMP_PROCESS=2: expected 0 to 1"),
        (("h:1", "2", "0"), {distributed.START_S: "soon"}, "START_TIMEOUT=soon: expected a whole"),
        (("h:1", "2", "0"), {distributed.HEARTBEAT_S: "1"}, "HEARTBEAT_TIMEOUT=1: .* at least 5"),
    ],
)
def test_values_that_cannot_be_are_named(env, given, more, words):
    env(*given, **more)
    with pytest.raises(ConfigError, match=words):
        distributed.start()


def test_a_slurm_step(env):
    env(**SLURM)
    assert distributed.found() == ("SlurmCluster", 2)
    env(SLURM_NTASKS="1")
    assert distributed.found()[1] == 1
