"""What of paths.py needs no bucket; the rest is in the test_runtime_storage files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcomp.config import ConfigError
from jaxcomp.runtime import paths


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://bucket/x", "expected a folder of this machine, or gs://bucket/folder"),
        ("gs://", "expected a folder of this machine, or gs://bucket/folder"),
        ("gs:/bucket/x", "two slashes"),
        (Path("gs://bucket/x"), "two slashes"),  # what pathlib makes of it
    ],
)
def test_a_place_that_is_neither_here_nor_in_a_bucket_is_refused(place, message):
    with pytest.raises(ConfigError, match=message):
        paths.path(place)


def test_local_paths_stay_pathlib_and_import_nothing():
    code = (
        "import sys; from pathlib import Path; from jaxcomp.runtime import paths\n"
        "assert type(paths.path('a/b')) is type(Path())\n"
        "assert not {'etils', 'gcsfs', 'tensorstore', 'jax'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_without_the_extra_gs_is_one_sentence_that_names_it():
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'gcsfs' else find(n, *a)\n"
        "import sys; from jaxcomp.cli.main import main\n"
        "sys.exit(main(['report', '--workdir=gs://bucket/x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "extra `gcs`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "new" / "a.json"
    paths.write_bytes(file, b"one")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        paths.write_bytes(file, b"two")
    assert file.read_bytes() == b"one"
    assert os.listdir(file.parent) == ["a.json"]


@pytest.mark.parametrize(
    ("place", "start", "found"),
    [
        ("gs://b/sweep", "gs://b/sweep/jobs/one", "../.."),
        ("gs://b/x", "gs://b/x", "."),
        ("gs://b", "gs://b/x", ".."),
        ("gs://b/other", "gs://c/x", "gs://b/other"),
        ("runs/x", "runs/x/jobs/one", "../.."),
    ],
)
def test_join_undoes_relative(place, start, found):
    assert paths.relative(place, start) == found
    if "://" in start:
        assert str(paths.join(paths.path(start), found)) == place
    else:
        assert os.path.normpath(paths.join(Path(start), found)) == place


def test_between_here_and_a_bucket_the_way_is_absolute(tmp_path):
    assert paths.relative(tmp_path, "gs://b/x") == str(tmp_path)
    assert paths.join(paths.path("gs://b/x"), str(tmp_path)) == tmp_path
    assert paths.relative("gs://b/x", tmp_path) == "gs://b/x"
    assert str(paths.join(tmp_path, "gs://b/x")) == "gs://b/x"


def test_an_appended_local_file_is_there_line_by_line(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text("old\nlater\n")
    grown = paths.AppendFile(file, "old\n")
    grown.write("new\n")
    assert file.read_text() == "old\nnew\n"
    grown.close()
    with_more = paths.AppendFile(file)
    with_more.write("more\n")
    with_more.close()
    assert file.read_text() == "old\nnew\nmore\n"
