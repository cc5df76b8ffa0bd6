"""Weights of a bucket on this machine: copied once, whole, by one process."""

import subprocess
import sys
import time

import numpy as np
import pytest
from fake_gcs import bucket, server
from safetensors.numpy import save

from jaxcomp.models.hub import folder_of
from jaxcomp.runtime import mirror
from jaxcomp.runtime.errors import StorageError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "cache"))


def model(name, size=50_000):
    place = bucket(name) + "/m/qwen"
    weights = {"w": np.random.default_rng(0).standard_normal(size).astype(np.float32)}
    server().put(name, "m/qwen/config.json", b"{}")
    server().put(name, "m/qwen/model.safetensors", save(weights))
    server().put(name, "m/qwen/pytorch_model.bin", b"not read")
    server().put(name, "m/qwen/original/config.json", b"not read")
    return place, save(weights)


def downloads(name):
    return [p for m, p, _ in server().requests if p.startswith(f"/download/storage/v1/b/{name}/")]


def test_a_folder_is_copied_once_and_again_when_it_changes(capsys):
    place, weights = model("once")
    folder = folder_of(place)
    assert (folder / "model.safetensors").read_bytes() == weights
    wanted = [".lock", ".whole", "config.json", "model.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == wanted
    assert "0.00 of 0.00 GB" in capsys.readouterr().err
    before = len(downloads("once"))
    assert folder_of(place + "/") == folder
    assert len(downloads("once")) == before
    server().put("once", "m/qwen/config.json", b'{"a": 1}')
    assert folder_of(place) != folder
    assert (folder_of(place) / "config.json").read_bytes() == b'{"a": 1}'


def test_a_stopped_copy_goes_on_in_the_middle_of_a_file(monkeypatch):
    monkeypatch.setattr(mirror, "_AT_ONCE", 40_000)
    place, weights = model("resume")
    real, left = mirror._Progress.add, [2]

    def stop(self, size):
        real(self, size)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mirror._Progress, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            folder_of(place)
    before = len(server().requests)
    folder = folder_of(place)
    assert (folder / "model.safetensors").read_bytes() == weights
    asked = [p for m, p, _ in server().requests[before:] if "/download/" in p]
    assert 0 < len(asked) < len(weights) / 40_000  # config.json and the first pieces were there


def test_what_arrived_damaged_is_not_used():
    place, weights = model("damaged")
    found = mirror._listed(place, ["*.safetensors", "config.json"])
    target = mirror.cache_dir() / "weights" / "x"
    target.mkdir(parents=True)
    part = target / "model.safetensors.part"
    part.write_bytes(b"other bytes" + weights[11:100])
    progress = mirror._Progress("x", 1, 0)
    with pytest.raises(StorageError, match="arrived damaged"):
        mirror._fetch(next(r for r in found if "model" in r.name), target, progress)
    assert not part.exists()


@pytest.mark.parametrize("kept", ["nothing", "half", None])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_the_cache_that_was_damaged_since_is_copied_anew(name, kept, capsys):
    place, _ = model("later")
    file = folder_of(place) / name
    whole = file.read_bytes()
    before = len(downloads("later"))
    capsys.readouterr()
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(whole[: len(whole) // 2] if kept == "half" else b"")
    assert folder_of(place) == file.parent
    assert file.read_bytes() == whole
    assert len(downloads("later")) == before + 1  # no other file
    said = f"{file}: this file of the cache is damaged; it is copied anew"
    assert (said in capsys.readouterr().err) == (kept is not None)


def test_other_bytes_in_a_file_of_the_cache_are_found(monkeypatch):
    place, weights = model("flipped")
    file = folder_of(place) / "model.safetensors"
    other = weights[:-1] + bytes([weights[-1] ^ 1])
    file.write_bytes(other)
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "_AT_ONCE", 1000)  # a large one is known by its size alone
        assert folder_of(place) == file.parent
        assert file.read_bytes() == other
    folder_of(place)
    assert file.read_bytes() == weights


def test_two_processes_of_a_machine_copy_once():
    place, _ = model("shared", size=200_000)
    server().slow["download/storage/v1/b/shared"] = 1.0
    code = f"from jaxcomp.models.hub import folder_of; print(folder_of({place!r}))"
    done = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    start = time.monotonic()
    said = [p.communicate() for p in done]
    server().slow.clear()
    assert [p.returncode for p in done] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert len(downloads("shared")) == 2, time.monotonic() - start  # config.json and the weights


def test_no_such_folder_and_no_permission():
    with pytest.raises(StorageError, match=r"holds none of config\.json"):
        folder_of(bucket("empty") + "/m")
    with pytest.raises(StorageError, match="there is no bucket nowhere"):
        folder_of("gs://nowhere/m")
    place, _ = model("secret")
    server().forbidden.add("secret")
    with pytest.raises(StorageError, match="no permission in the bucket secret"):
        folder_of(place)
    server().forbidden.clear()


def test_a_disk_that_is_too_small_is_said_before_copying(monkeypatch):
    place, _ = model("big")
    monkeypatch.setattr(mirror, "_SPARE", 1 << 60)
    with pytest.raises(StorageError, match="do not fit on the disk"):
        folder_of(place)
    assert not downloads("big")
