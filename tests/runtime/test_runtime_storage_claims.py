"""Claims of jobs in a bucket, where only a conditional write decides between two machines."""

import json
import subprocess
import sys
import threading

import pytest
from fake_gcs import bucket, server

from jaxcomp.runtime import gs, paths
from jaxcomp.sweep import claims
from jaxcomp.sweep.claims import STALE_S, ClaimedError, Claims

ELSEWHERE = json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "boot": "b"}).encode()


def test_one_of_two_gets_it_and_leaving_releases():
    folder = paths.path(bucket("claims") + "/c")
    with Claims(folder) as mine, Claims(folder) as other:
        mine.acquire("a")
        assert not other.try_acquire("a")
        mine.release("a")
        assert other.try_acquire("a")
    assert server().keys("claims") == []


def test_of_many_at_once_exactly_one_wins():
    folder = paths.path(bucket("race") + "/c")
    server().slow["race"] = 0.05  # all have read "free" before the first one writes
    every = [Claims(folder) for _ in range(6)]
    won: list[int] = []
    start = threading.Barrier(len(every))

    def go(i: int) -> None:
        start.wait()
        if every[i].try_acquire("a"):
            won.append(i)

    threads = [threading.Thread(target=go, args=(i,)) for i in range(len(every))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    server().slow.clear()
    assert len(won) == 1


def test_another_machine_keeps_its_claim_while_its_heart_beats():
    folder = paths.path(bucket("lease") + "/c")
    server().put("lease", "c/a.lock", ELSEWHERE)
    server().skew = 5000.0  # whatever the machines' own clocks say
    try:
        server().put("lease", "c/a.lock", ELSEWHERE)
        with Claims(folder) as mine:
            with pytest.raises(ClaimedError, match="process 1 on elsewhere"):
                mine.acquire("a")
            server().age("lease", "c/a.lock", STALE_S - 20)
            with pytest.raises(ClaimedError):
                mine.acquire("a")
            server().age("lease", "c/a.lock", 40)
            mine.acquire("a")
    finally:
        server().skew = 0.0
    assert server().keys("lease") == []  # neither claims nor clocks are left


def test_the_heartbeat_keeps_a_claim_fresh_and_notices_its_loss(monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    folder = paths.path(bucket("beat") + "/c")
    with Claims(folder) as mine:
        mine.acquire("a")
        mine.acquire("b")
        was = gs.read_record(folder / "a.lock").generation
        server().broken["beat"] = 2  # the network stumbles; the next beats go through
        end = threading.Event()
        for _ in range(100):
            end.wait(0.05)
            if gs.read_record(folder / "a.lock").generation != was:
                break
        else:
            pytest.fail("the claim was not written again")
        server().put("beat", "c/b.lock", ELSEWHERE)  # we were suspended, another took it over
        for _ in range(100):
            end.wait(0.05)
            if "b" not in mine.held:
                break
        assert mine.held == {"a"}
    assert server().keys("beat") == ["c/b.lock"]  # not ours to release


def test_a_dead_process_of_this_machine_loses_its_claim():
    folder = bucket("dead") + "/c"
    code = f"""
import os
from jaxcomp.sweep.claims import Claims
c = Claims({folder!r}); c.acquire("a"); os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert server().keys("dead") == ["c/a.lock"]
    with Claims(paths.path(folder)) as mine:
        mine.acquire("a")


def test_a_write_whose_answer_was_lost_still_counts(monkeypatch):
    """The library tries again, and is then told that somebody was faster: itself."""
    folder = paths.path(bucket("lost") + "/c")
    real = gs.swap

    def twice(path, content, generation):
        real(path, content, generation)
        return real(path, content, generation)

    with Claims(folder) as mine:
        monkeypatch.setattr(gs, "swap", twice)
        mine.acquire("a")
        monkeypatch.undo()
        assert mine.held == {"a"}
    assert server().keys("lost") == []
