"""The runner's plumbing, with stand-in jobs that take milliseconds and never touch JAX."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sweep_stub
from conftest import HANGS_S
from sweep.sweep_stub import config, workers_of

from jaxcomp.analysis.tables import lr_grid_csv, results_csv
from jaxcomp.config import Config, ConfigError
from jaxcomp.runtime import errors, paths
from jaxcomp.runtime.live import Line
from jaxcomp.sweep import grid, progress, runner, worker
from jaxcomp.sweep.collect import collect
from jaxcomp.sweep.progress import Progress, Running
from jaxcomp.sweep.store import DONE, Ledger
from jaxcomp.sweep.tasks import Task


def go(cfg, workdir, seconds=0.0, **kw):
    summary, said = sweep_stub.run(cfg, workdir, seconds, **kw)
    return summary, csv(cfg, workdir), said


def csv(cfg, workdir):
    return results_csv(collect(cfg, Ledger(workdir)))


def ran(workdir):
    return (workdir / "ran.txt").read_text().split()


def test_bases_first_then_every_job_once_then_nothing(tmp_path):
    cfg = config()
    summary, made, said = go(cfg, tmp_path)
    assert summary == runner.Summary(8, 0, ())
    order = ran(tmp_path)
    assert len(order) == len(set(order)) == 12
    for job in grid.expand(cfg):
        assert order.index(job.base) < order.index(job.id)
    assert "[8/8]" in said
    assert "log of toy-s-r4-b0-s0" in (tmp_path / "jobs/toy-s-r4-b0-s0/log.txt").read_text()
    again = go(cfg, tmp_path)
    assert again[:2] == (runner.Summary(0, 8, ()), made)
    assert ran(tmp_path) == order


def test_csv_is_the_same_for_any_number_of_workers(tmp_path):
    one = go(config(), tmp_path / "a", workers=1)[1]
    assert go(config(), tmp_path / "b", workers=2)[1] == one
    for i in range(3):
        go(config(), tmp_path / "c", shard=(i, 3))
    assert csv(config(), tmp_path / "c") == one


@pytest.mark.parametrize("kind", ["fail", "die"])
def test_one_failure_stops_no_other_and_is_retried(tmp_path, kind):
    bad = "toy-s-r4-b0-s0"
    (tmp_path / f"trouble-{bad}").write_text(kind)
    summary, made, _ = go(config(), tmp_path)
    assert summary.ran == 7
    message = dict(summary.failed)[bad]
    assert ("planted failure" if kind == "fail" else "SIGKILL") in message
    assert "second line" not in message
    assert dict(collect(config(), Ledger(tmp_path)).failed)[bad] == message
    assert "toy,s,4,0," not in made
    (tmp_path / f"trouble-{bad}").unlink()
    assert go(config(), tmp_path)[0] == runner.Summary(1, 7, ())
    clean = go(config(), tmp_path.with_name(tmp_path.name + "-clean"))[1]
    assert csv(config(), tmp_path) == clean


class Prepared(sweep_stub.StubWork):
    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def prepare(self):
        self.mark.touch()

    def check(self, jobs, workdir):
        wait_for(self.mark.exists)
        return super().check(jobs, workdir)


def test_workers_load_what_they_need_while_the_data_are_looked_at(tmp_path):
    work = Prepared(tmp_path / "prepared")
    assert go(config(), tmp_path / "w", work=work)[0] == runner.Summary(8, 0, ())


def test_a_failed_base_fails_only_its_jobs(tmp_path):
    (tmp_path / "trouble-toy-s-b0").write_text("fail")
    summary, _, _ = go(config(), tmp_path)
    assert {i for i, _ in summary.failed} == {"toy-s-r4-b0-s0", "toy-s-r16-b0-s0"}
    assert all("base model toy-s-b0 failed: ValueError: planted" in m for _, m in summary.failed)
    assert summary.ran == 6


def test_a_full_disk_stops_with_one_error_and_keeps_what_is_done(tmp_path, capfd):
    (tmp_path / "trouble-toy-m-r16-b1-s0").write_text("full")
    with pytest.raises(OSError, match="No space left on device"):
        go(config(), tmp_path, workers=1)
    assert capfd.readouterr().err == ""  # no traceback beside it
    (tmp_path / "trouble-toy-m-r16-b1-s0").unlink()
    before = len(list((tmp_path / "ledger").glob("*.json")))
    assert go(config(), tmp_path)[0] == runner.Summary(8 - before, before, ())


@pytest.mark.parametrize("kind", ["", "fail"])
def test_a_log_that_its_bucket_does_not_take_is_no_error_of_its_own(tmp_path, monkeypatch, kind):
    class Unreachable(paths.AppendFile):
        def close(self):
            super().close()
            raise errors.StorageError("no answer")

    job = grid.expand(config())[0]
    (tmp_path / f"trouble-{job.id}").write_text(kind)
    monkeypatch.setattr(paths, "AppendFile", Unreachable)
    task = Task(job.id, "job", job.config, job=job)
    word, content = worker.logged(sweep_stub.StubWork(), tmp_path, task, lambda text, share: None)
    if kind:
        assert (word, content) == ("failed", "ValueError: planted failure")
    else:
        assert (word, content["note"]) == ("done", "fine")


def test_the_preparation_of_data_is_told_with_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "EVERY_S", 0.1)
    (tmp_path / "trouble-toy-s-b0").write_text("prepare")
    said = go(config(), tmp_path)[2]
    told = r"3 of 10 lines \(30%\), \d s, [\d.]+ a second, about \d s left;"
    assert re.search(rf"toy-s-b0 0% reading a\.jsonl: {told}", said)


def start(workdir, seconds, extra=""):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import sweep_stub as t; from pathlib import Path
t.run(t.config(), Path({str(workdir)!r}), {seconds}{extra})
"""
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=HANGS_S):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def finished(workdir):
    return len(list((workdir / "ledger").glob("*.json")))


@pytest.mark.parametrize("who", ["worker", "parent", "both"])
def test_kill_9_then_the_same_command_gives_the_same_csv(tmp_path, who):
    clean = go(config(), tmp_path / "clean")[1]
    process = start(tmp_path / "a", 0.3)
    wait_for(lambda: finished(tmp_path / "a") >= 2)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    if who != "worker":
        process.kill()
    if who != "parent":
        os.kill(workers[0], signal.SIGKILL)
    process.communicate(timeout=HANGS_S)
    rows = [Ledger(tmp_path / "a").row(job) for job in grid.expand(config())]
    failed = [row["error"] for row in rows if row and row["status"] == "failed"]
    done = sum(row is not None for row in rows) - len(failed)
    if who == "worker":  # it costs one job, which the command names; the others go on
        assert process.returncode == 0
        assert (done, len(failed)) == (7, 1)
        assert "its process died (SIGKILL: out of memory?)" in failed[0]
    else:
        assert 2 <= done < 8
        assert not failed
    summary, made, _ = go(config(), tmp_path / "a")
    assert summary.before == done
    assert made == clean


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    process = start(tmp_path, 2.0)
    wait_for(lambda: (tmp_path / "ran.txt").exists())
    process.kill()
    process.communicate()
    time.sleep(2.5)
    assert not list(tmp_path.glob("made-*"))


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_two_commands_in_one_folder_share_the_work(tmp_path, shard):
    """The same command twice, or shards that overlap: each task is still run once."""
    process = start(tmp_path, 0.2)
    wait_for(lambda: (tmp_path / "ran.txt").exists())
    go(config(), tmp_path, 0.2, shard=shard)
    process.communicate(timeout=HANGS_S)
    assert process.returncode == 0
    order = ran(tmp_path)
    assert sorted(order) == sorted(set(order))
    assert len(order) == 12


def test_a_workdir_of_another_config_is_refused(tmp_path):
    go(config(), tmp_path)
    with pytest.raises(ConfigError, match=r"sweep\.ratios\b.*\[4, 16\].*\[4\].*--workdir"):
        go(config(ratios=(4,)), tmp_path)
    go(config(workers=1), tmp_path)  # where it runs makes no difference


def test_a_plugin_whose_column_would_be_lost_is_named(tmp_path):
    cfg = config()
    ledger = Ledger(tmp_path)
    ledger.open(dataclasses.replace(cfg, plugins=("/there/mine.py",)))
    job = grid.expand(cfg)[0]
    ledger.write(job, DONE, metrics={"params": 9, "ordinary/loss": 1.5, "val_loss": 1.0})
    ledger.check(cfg)  # it declared nothing
    ledger.write(job, DONE, metrics={"params": 9, "ordinary/mine": 1.5})
    with pytest.raises(ConfigError, match=r"/there/mine\.py.* column ordinary/mine;"):
        ledger.check(cfg)
    with pytest.raises(ConfigError, match=r"ordinary/mine"):
        go(cfg, tmp_path)
    ledger.check(dataclasses.replace(cfg, plugins=("/elsewhere/mine.py",)))


def test_a_sweep_of_no_steps_is_refused_before_anything_is_written(tmp_path):
    cfg = config()
    optim = dataclasses.replace(cfg.train.optim, steps=0)
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, optim=optim))
    with pytest.raises(ConfigError, match=r"train\.optim\.steps = 0: .*at least 1 step"):
        go(cfg, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_the_resource_tracker_does_not_warn_of_what_ended_workers_leave(tmp_path):
    process = start(tmp_path, 5.0)
    wait_for(lambda: (tmp_path / "ran.txt").exists())
    found = []
    for children in Path(f"/proc/{process.pid}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"resource_tracker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(Path(f"/proc/{child}/environ").read_bytes())
    process.kill()
    process.communicate()
    assert len(found) == 1
    assert b"ignore::UserWarning:multiprocessing.resource_tracker" in found[0]


def test_reuse_takes_equal_jobs_only(tmp_path):
    go(config(), tmp_path / "a")
    wider = config(ratios=(4, 16, 64))
    summary, _, said = go(wider, tmp_path / "b", reuse=[tmp_path / "a"])
    # Without ratios of its own the decoder is adapted at the sweep's, so nothing is the same.
    assert "reused 0" in said
    assert summary.ran == 12
    summary, made, said = go(config(), tmp_path / "c", reuse=[tmp_path / "a", tmp_path / "b"])
    assert "reused 8" in said
    assert summary == runner.Summary(0, 8, ())
    assert made == csv(config(), tmp_path / "a")
    with pytest.raises(ConfigError, match="holds no ledger"):
        go(config(), tmp_path / "e", reuse=[tmp_path / "nothing"])
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no ledger"):
        go(config(), tmp_path / "e", reuse=[tmp_path])
    assert not (tmp_path / "e").exists()


def test_rate_grid_jobs_make_the_tuned_column(tmp_path):
    cfg = config(lr_grid=(0.5, 1.0, 2.0), base_seeds=(0,))
    text = go(cfg, tmp_path)[1].splitlines()
    rows = [dict(zip(text[0].split(","), line.split(","), strict=True)) for line in text[1:]]
    assert len(rows) == 4
    # The stub's validation loss is lowest nearest 1.5e-3: 1e-3 and 2e-3 tie, the smaller wins.
    assert {r["ratio"]: r["tuned_lr"] for r in rows} == {"4": "", "16": "0.001"}
    assert len(lr_grid_csv(collect(cfg, Ledger(tmp_path))).splitlines()) == 1 + 2 + 2 * 3


def test_what_a_killed_process_left_is_no_speed():
    tasks = [Task(name, "job", Config()) for name in "ab"]
    progress = Progress(tasks, print, Line("a sweep"))
    progress.began = time.monotonic() - 100
    running = Running(tasks[0]).after("resumed", 0.5).after("trained on", 0.75)
    # A quarter of one of two equal tasks in 100 s; 1.25 tasks are left.
    assert progress.left([running]) == "about 8m20s left"
    assert progress.left([running._replace(found=0.75)]) == "time left unknown yet"
