"""Runs and sweeps with their workdir in a bucket: killed, resumed, and equal to local ones."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest
import run_child
import run_stub
from conftest import HANGS_S, mesh_of
from fake_gcs import bucket, server

import jaxcomp
from jaxcomp.analysis.report import report
from jaxcomp.analysis.tables import current
from jaxcomp.cli.main import main
from jaxcomp.data import batches
from jaxcomp.evals.bootstrap import finite
from jaxcomp.runtime import paths
from jaxcomp.sweep.store import DONE, Ledger
from jaxcomp.training import manifest, pretrained
from jaxcomp.training.manifest import write_json

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def wait_for(condition, seconds=HANGS_S):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_sweep_killed_and_resumed_in_a_bucket_equals_a_local_one(tmp_path):
    workdir = bucket("sweep") + "/runs/x"
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import run_stub; from jaxcomp.runtime import paths
run_stub.run(paths.path({workdir!r}), 1.5)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    wait_for(lambda: server().keys("sweep", "runs/x/ledger/"))
    process.kill()
    process.communicate()
    done = {Path(key).stem for key in server().keys("sweep", "runs/x/ledger/")}
    kept = len(done)
    assert 1 <= kept < 4
    place = paths.path(workdir)
    assert run_stub.run(place) == (4 - kept, kept, ())
    assert run_stub.run(place) == (0, 4, ())
    report(run_stub.config(), place)
    assert current(run_stub.config(), place)
    run_stub.run(tmp_path)
    report(run_stub.config(), tmp_path)
    for name in ("results.csv", "report.html", "report.md"):
        here = (tmp_path / "report" / name).read_bytes()
        assert (place / "report" / name).read_bytes() == here
    # Killed between a row and the release of its claim, a job is done and its claim asks nobody.
    claims = {Path(key).stem for key in server().keys("sweep", "runs/x/claims/")}
    assert claims <= done
    logs = [k for k in server().keys("sweep", "runs/x/jobs/") if k.endswith("log.txt")]
    assert len(logs) == 4
    assert not Path("gs:").exists()  # what a path becomes that loses a slash


def test_a_real_job_killed_and_resumed_in_a_bucket_equals_a_local_one(tmp_path):
    workdir = bucket("job") + "/x"
    jobs = "x/jobs/llama-24-r16-b0-s0"
    child = subprocess.Popen(
        [sys.executable, str(HERE / "run_child.py"), workdir], stderr=subprocess.PIPE
    )
    # The second checkpoint is whole when the commit file is there.
    wait_for(
        lambda: (
            child.poll() is not None
            or server().keys("job", f"{jobs}/checkpoints/4/commit_success.txt")
        )
    )
    child.kill()
    said = child.communicate()[1].decode()
    assert not server().keys("job", f"{jobs}/summary.json"), said
    assert server().keys("job", f"{jobs}/checkpoints/"), said
    config: Any = jax.config
    before = config.jax_compilation_cache_dir
    try:
        cfg, found = run_child.run(workdir)
        _, local = run_child.run(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    for at, done in ((paths.path(workdir), found), (tmp_path, local)):
        ledger = Ledger(at)
        ledger.open(cfg)
        for job, result in done:
            ledger.write(job, DONE, metrics=finite(result["metrics"]))
        report(cfg, at)
    folder = paths.path(workdir) / "jobs" / "llama-24-r16-b0-s0"
    ours = tmp_path / "jobs" / "llama-24-r16-b0-s0"
    for name in ("metrics.jsonl", "summary.json", "passages.jsonl", "run.json", "settings.json"):
        assert (folder / name).read_bytes() == (ours / name).read_bytes(), name
    one, two = (at / "report" / "results.csv" for at in (paths.path(workdir), tmp_path))
    assert one.read_bytes() == two.read_bytes()
    assert len(one.read_text().splitlines()) == 2
    steps = {p.name for p in (folder / "checkpoints").iterdir()} - {"metadata"}
    assert steps == {p.name for p in (ours / "checkpoints").iterdir()} - {"metadata"} == {"6"}
    assert list((folder / "tensorboard").iterdir())
    assert not Path("gs:").exists()
    # Used from where it lives.
    texts = ["At the garden they talked about love."]
    answers = [
        jaxcomp.load(str(place), mesh=mesh_of((1, 1, 1))).compress(texts).vec_ND
        for place in (folder, ours)
    ]
    assert (answers[0] == answers[1]).all()


def test_a_base_made_for_a_bucket_is_whole_where_its_card_is(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path))
    folder = paths.path(bucket("bases") + "/x/bases/llama-24-s0")
    for text in ("one", "two"):
        part = pretrained.making(folder)
        part.mkdir(parents=True)
        (part / "config.json").write_text(text)
        (part / "model.safetensors").write_bytes(text.encode())
        write_json(part / manifest.CARD, {"config_hash": text})
        pretrained.publish(part, folder)
        assert not part.exists()
        here = pretrained.readable(folder)
        assert (here / "config.json").read_text() == text
        assert json.loads((here / manifest.CARD).read_text()) == {"config_hash": text}
        written = server().buckets["bases"]
        assert max(written, key=lambda k: written[k].generation).endswith("/card.json")


@pytest.mark.parametrize("command", ["sweep", "train", "pretrain", "report", "eval"])
def test_a_bucket_that_cannot_be_used_is_one_line_before_any_work(command, capsys, monkeypatch):
    server()  # buckets are asked for there, whichever test ran before
    monkeypatch.setattr(batches, "eval_examples", None)
    one = ["--compressor=llama/24"] if command in ("train", "eval") else []
    asked = [command, "--config=configs/tiny.py", *one]
    assert main([*asked, "--workdir=gs://absent/x"]) == 2
    said = capsys.readouterr().err
    assert "there is no bucket absent" in said
    assert said.count("\n") == 1
    bucket("locked")
    server().forbidden.add("locked")
    assert main([*asked, "--workdir=gs://locked/x"]) == 2
    assert "no permission in the bucket locked" in capsys.readouterr().err
    server().forbidden.clear()
