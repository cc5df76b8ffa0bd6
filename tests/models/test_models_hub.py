"""Hub ids become folders; what the hub refuses is one clear error. Nothing is downloaded here."""

import socket

import huggingface_hub
import pytest
from huggingface_hub import errors

from jaxcomp.models import hub
from jaxcomp.runtime import network


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "a/b@main", "a/b@refs/pr/1"])
def test_ids(name, tmp_path, monkeypatch):
    asked = []

    def download(repo, revision, allow_patterns, **_):
        asked.append((repo, revision))
        assert not any(p.endswith((".bin", ".py", ".pt", ".pkl")) for p in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert hub.is_id(name)
    assert hub.folder_of(name) == tmp_path
    assert asked == [(name.split("@")[0], name.partition("@")[2] or None)]


@pytest.mark.parametrize("name", ["folder", "./a/b", "../lama", "/a/b", "a/b/c", "~/lama", "é/a"])
def test_folders_are_no_ids(name):
    assert not hub.is_id(name)
    assert not str(hub.folder_of(name)).startswith("~")


def test_a_folder_that_exists_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert not hub.is_id("a/b")
    assert str(hub.folder_of("a/b")) == "a/b"


class Response:
    """As much of an HTTP response as huggingface_hub's errors look at."""

    status_code, request, text = 404, None, ""

    def __init__(self):
        self.headers = {}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError, "is gated: accept its licence"),
        (errors.RepositoryNotFoundError, "no such model or revision"),
        (errors.RevisionNotFoundError, "no such model or revision"),
        (errors.LocalEntryNotFoundError, r"cannot be downloaded \(planted\)"),
        (errors.HFValidationError, r"no such folder, and no hub id \(planted"),
        (ConnectionError, r"cannot be downloaded \(planted\)"),
    ],
)
def test_refusals_are_named(monkeypatch, error, words):
    monkeypatch.setattr(hub.network, "reachable", lambda url: True)

    def refused(*args, **kw):
        hub_error = issubclass(error, errors.HfHubHTTPError)
        raise error("planted", response=Response()) if hub_error else error("planted\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(hub.HubError, match=words) as found:
        hub.folder_of("owner/name")
    assert "\n" not in str(found.value)


def test_no_network_is_said_at_once(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert network.reachable(server)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(hub.HubError, match=f"{server} does not answer.*give a folder"):
        hub.folder_of("owner/name")
