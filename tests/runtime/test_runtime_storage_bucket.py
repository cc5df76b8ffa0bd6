"""Paths, errors and growing files against a server on localhost that speaks Cloud Storage's API."""

import os
import pickle
import socket

import pytest
from fake_gcs import bucket, server

from jaxcomp.config import ConfigError
from jaxcomp.runtime import gs, paths
from jaxcomp.runtime.errors import StorageError
from jaxcomp.runtime.paths import AppendFile, MirroredFolder
from jaxcomp.training.manifest import claim, write_json


def test_a_path_does_what_a_local_one_does(tmp_path):
    for root in (paths.path(bucket("paths") + "/x"), tmp_path):
        (root / "a" / "b").mkdir(parents=True, exist_ok=True)
        assert (root / "a").is_dir()
        assert not (root / "a").is_file()
        assert not (root / "z").exists()
        paths.write_bytes(root / "a" / "b" / "f.txt", "é\n".encode())
        paths.write_bytes(root / "a" / "g.txt", b"")
        assert (root / "a" / "b" / "f.txt").read_text() == "é\n"
        assert paths.size(root / "a" / "b" / "f.txt") == 3
        assert sorted(p.name for p in (root / "a").iterdir()) == ["b", "g.txt"]
        assert [p.name for p in (root / "a").glob("*/*.txt")] == ["f.txt"]
        assert [p.name for p in sorted(root.glob("a/*.txt"))] == ["g.txt"]
        (root / "a" / "g.txt").unlink()
        (root / "a" / "g.txt").unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            (root / "a" / "g.txt").read_text()
        paths.rmtree(root / "a")
        assert not (root / "a").exists()
    assert server().keys("paths") == []


def test_a_path_keeps_its_two_slashes():
    place = paths.path("gs://b/x") / "y"
    assert str(place) == os.fspath(place) == "gs://b/x/y"
    assert pickle.loads(pickle.dumps(place)) == place  # on its way to a worker
    assert type(pickle.loads(pickle.dumps(place))) is gs.GsPath
    assert str(place.absolute()) == "gs://b/x/y"
    assert (place.name, str(place.parent)) == ("y", "gs://b/x")


def test_what_another_machine_wrote_is_seen_at_once():
    place = paths.path(bucket("fresh") + "/x")
    assert not (place / "a").exists()
    assert list(place.glob("*")) == []
    server().put("fresh", "x/a", b"1")
    assert (place / "a").is_file()
    assert [p.name for p in place.iterdir()] == ["a"]
    server().put("fresh", "x/b", b"1")
    del server().buckets["fresh"]["x/a"]
    assert [p.name for p in place.iterdir()] == ["b"]
    assert not (place / "a").exists()


def test_probe_leaves_nothing_and_says_what_is_wrong():
    paths.check_writable(bucket("open") + "/runs/x")
    assert server().keys("open") == []
    with pytest.raises(StorageError, match="there is no bucket absent-bucket"):
        paths.check_writable("gs://absent-bucket/x")
    bucket("closed")
    server().forbidden.add("closed")
    for act in (
        paths.check_writable,
        paths.check_readable,
        lambda p: paths.path(p).exists(),
        lambda p: paths.path(p).read_text(),
        lambda p: paths.write_bytes(p, b""),
        gs.read_record,
    ):
        with pytest.raises(
            StorageError, match=r"no permission in the bucket closed for .*objectAdmin"
        ):
            act("gs://closed/x")


def test_no_network_is_said_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    with pytest.raises(StorageError, match=r"no answer from .*check this machine's network"):
        paths.check_writable("gs://any/x")


def test_a_server_that_stumbles_is_asked_again():
    place = paths.path(bucket("shaky") + "/x")
    server().broken["shaky/o"] = 1
    paths.write_bytes(place / "a", b"1")
    assert server().broken["shaky/o"] == 0
    assert (place / "a").read_bytes() == b"1"


def test_a_workdir_of_another_config_is_refused_in_a_bucket_too():
    workdir = paths.path(bucket("identity") + "/x")
    claim(workdir, {"seed": 0})
    claim(workdir, {"seed": 0})
    with pytest.raises(ConfigError, match="made by another config: seed was 0, now 1"):
        claim(workdir, {"seed": 1})
    server().forbidden.add("identity")
    with pytest.raises(StorageError, match="no permission"):
        write_json(workdir / "summary.json", {})
    server().forbidden.clear()


def test_a_growing_file_is_uploaded_by_sync_and_goes_on_after_a_kill():
    place = paths.path(bucket("grow") + "/m.jsonl")
    first = AppendFile(place, "")
    first.write("1\n")
    assert not place.exists()
    first.sync()
    first.write("2\n")
    assert place.read_text() == "1\n"
    first._file.close()  # killed: the rest is lost
    second = AppendFile(place)
    second.write("2\n")
    os.write(second.fileno(), b"3\n")
    second.close()
    assert place.read_text() == "1\n2\n3\n"
    assert not second.local.exists()


def test_sync_uploads_only_what_changed(tmp_path):
    place = bucket("events") + "/board"
    folder = MirroredFolder(place)
    (folder.local / "run").mkdir()
    (folder.local / "run" / "a").write_text("one")
    folder.sync()
    before = len(server().requests)
    folder.sync()
    assert len(server().requests) == before
    (folder.local / "run" / "a").write_text("longer")
    folder.close()
    assert paths.path(place + "/run/a").read_text() == "longer"
    assert not folder.local.exists()
    here = MirroredFolder(tmp_path)
    assert here.local == tmp_path
    here.close()
    assert tmp_path.is_dir()
