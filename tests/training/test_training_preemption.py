"""SIGTERM ends a run after its step, saved; time is accounted for; a few steps can be traced."""

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import training_models as tiny
from conftest import mesh_of

from jaxcomp.config import ConfigError
from jaxcomp.runtime import preemption
from jaxcomp.runtime.preemption import Terminated, on_sigterm
from jaxcomp.training import loop, profiling
from jaxcomp.training.checkpoint import Checkpoints
from jaxcomp.training.loop import fit
from jaxcomp.training.metrics import PARTS


@pytest.fixture
def sigterm(monkeypatch):
    """The handler of the command line; a fresh brake, as every process has one."""
    monkeypatch.setattr(preemption, "_brake", preemption.Brake())
    before = signal.signal(signal.SIGTERM, on_sigterm)
    yield
    signal.signal(signal.SIGTERM, before)


def told():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)  # a handler runs when the interpreter next comes to it


def told_at(draw):
    """Batches that send this process a SIGTERM with the draw of that number."""
    return lambda: tiny.Batches({draw: told})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(tiny.run(), folder, mesh_of((1, 1, 1)))


@pytest.mark.parametrize("at", [2, 3, 6])
def test_sigterm_then_the_same_command_is_a_run_never_stopped(whole, mesh, tmp_path, sigterm, at):
    """Between two checkpoints, at one, and in the last step."""
    folder, fitted = whole
    with pytest.raises(Terminated):
        fit(tiny.run(make_batches=told_at(at)), tmp_path, mesh)
    saved = Checkpoints(tmp_path, tiny.run().manifest.config_hash, keep=2)
    assert saved.latest == at
    saved.close()
    preemption._brake.asked = False  # of the process that is gone
    resumed = fit(tiny.run(), tmp_path, mesh)
    assert resumed.numbers == fitted.numbers
    for name, value in fitted.trained.items():
        np.testing.assert_array_equal(resumed.trained[name], value, err_msg=name)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_a_second_sigterm_ends_at_once(mesh, tmp_path, sigterm):
    def told_twice():
        batches: Any = tiny.Batches({2: told})
        # The state is wanted by the save that the first one brings.
        batches.get_state = told
        return batches

    with pytest.raises(Terminated):
        fit(tiny.run(make_batches=told_twice), tmp_path, mesh)
    saved = Checkpoints(tmp_path, tiny.run().manifest.config_hash, keep=2)
    assert saved.latest is None
    saved.close()


def test_outside_of_steps_sigterm_ends_at_once(sigterm):
    with pytest.raises(Terminated):
        told()


def test_training_goes_on_while_a_checkpoint_is_written(mesh, tmp_path, monkeypatch):
    """The last act of writing step 4, to rename it, is held back until two steps are begun. The
    save before it is the run's first, which is waited for."""
    there, before = [], loop._Watch.draw

    def drawn(self, batches, mesh):
        there.append((tmp_path / "checkpoints" / "4").exists())
        return before(self, batches, mesh)

    def held_back(rename):
        def late(*args, **kwargs):
            end = time.monotonic() + 5
            behind = threading.current_thread() is not threading.main_thread()
            while behind and 4 <= len(there) < 6 and time.monotonic() < end:
                time.sleep(0.01)
            return rename(*args, **kwargs)

        return late

    monkeypatch.setattr(loop._Watch, "draw", drawn)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, held_back(getattr(os, name)))
    fit(tiny.run(save=2), tmp_path, mesh)
    assert there[:6] == [False] * 6
    assert (tmp_path / "checkpoints" / "4").exists()


# --- time ---------------------------------------------------------------------------------------


def test_the_parts_of_the_time_add_up(mesh, tmp_path):
    """With an optimiser of its own: a step that this process compiled for another test takes less
    than the millisecond that is counted."""
    fit(tiny.run(replace(tiny.OPTIM, b2=0.9123)), tmp_path, mesh)
    timings = json.loads((tmp_path / "timings.json").read_text())
    parts, total = timings["breakdown"], timings["seconds"]["total"]
    assert tuple(sorted(parts)) == tuple(sorted(PARTS))
    assert sum(part["seconds"] for part in parts.values()) == pytest.approx(total, abs=2e-3)
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1, abs=1e-3)
    assert all(part["seconds"] >= 0 for part in parts.values())
    assert parts["compile"]["seconds"] > 0
    assert parts["checkpoint"]["seconds"] > 0


# --- profile ------------------------------------------------------------------------------------


def traces(workdir):
    return list((workdir / "profile" / "process-0").rglob("*.xplane.pb"))


def test_a_window_is_traced_also_when_the_run_is_resumed_within_it(mesh, tmp_path, sigterm):
    window = profiling.window("1:4", 6)
    with pytest.raises(Terminated):
        fit(tiny.run(make_batches=told_at(3)), tmp_path, mesh, profile=window)
    assert len(traces(tmp_path)) == 1
    preemption._brake.asked = False
    fit(tiny.run(), tmp_path, mesh, profile=window)
    found = traces(tmp_path)
    assert len(found) == 2
    text = b"".join(trace.read_bytes() for trace in found)
    for scope in ("compressor", "connector", "decoder", "cross_entropy|loss", "optimizer"):
        assert re.search(rf"train_step\)[\w()/]*[(/]({scope})[)/]".encode(), text), scope


def test_past_the_window_nothing_is_traced(mesh, tmp_path, capfd, sigterm):
    with pytest.raises(Terminated):
        fit(tiny.run(make_batches=told_at(3)), tmp_path, mesh)
    preemption._brake.asked = False
    fit(tiny.run(), tmp_path, mesh, profile=profiling.Window(1, 3))
    assert not traces(tmp_path)
    assert "nothing is traced: the run is at step 3 already" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["10", "a:b", "3:3", "5:7", "-1:2"])
def test_bad_windows_are_named(text):
    with pytest.raises(ConfigError, match=f"--profile={text}: expected"):
        profiling.window(text, 6)
    assert profiling.window("", 6) is None
    assert profiling.window("0:6", 6) == (0, 6)
