"""What needs no bucket; the rest is in test_runtime_bucket.py."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxcomp.config import ConfigError
from jaxcomp.runtime import paths
from jaxcomp.runtime.errors import StorageError


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
        "import sys; from jaxcomp.cli.main import main\n"
        "sys.modules['gcsfs'] = None\n"
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
        ("gs://b/other", "gs://c/x", "../../b/other"),
        ("/runs/x", "/runs/x/jobs/one", "../.."),
        ("/runs/x", "gs://b/x", "/runs/x"),
        ("gs://b/x", "/runs/x", "gs://b/x"),
    ],
)
def test_join_undoes_relative(place, start, found):
    assert paths.relative(place, start) == found
    joined = str(paths.join(paths.path(start), found))
    assert (joined if "://" in joined else os.path.normpath(joined)) == place


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


@pytest.fixture
def refuses(monkeypatch):
    """Cloud Storage as it answers an account of another project, or one without a login."""

    class Answer(http.server.BaseHTTPRequestHandler):
        status = 403

        def do_GET(self):
            error = {"error": {"code": self.status, "message": "me@example.com may not"}}
            self.send_response(self.status)
            self.end_headers()
            self.wfile.write(json.dumps(error).encode())

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    yield Answer
    server.shutdown()
    server.server_close()


def test_a_bucket_that_refuses_this_account_is_one_error(refuses):
    acts = {
        "check": paths.check,
        "exists": lambda p: paths.path(p).exists(),
        "read_text": lambda p: paths.path(p).read_text(),
        "write_bytes": lambda p: paths.write_bytes(p, b""),
    }
    for name, act in acts.items():
        with pytest.raises(
            StorageError, match=r"no permission in the bucket closed; .*objectAdmin.*me@example"
        ):
            pytest.fail(f"{name} gave {act('gs://closed/x')}")
    refuses.status = 401
    with pytest.raises(StorageError, match="application-default login"):
        paths.check("gs://closed/x", write=True)


def test_no_network_is_one_error(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    with pytest.raises(StorageError, match="check this machine's network"):
        paths.check("gs://any/x", write=True)


def test_scratch_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = tmp_path / "jaxcomp-of-something-else"
    other.mkdir()
    code = "from jaxcomp.runtime import paths; print(paths.scratch(), flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    theirs = Path(process.stdout.readline().strip())
    mine = paths.scratch()
    assert {theirs, mine, other} == set(tmp_path.iterdir())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = paths.scratch()
    assert {mine, again, other} == set(tmp_path.iterdir())
