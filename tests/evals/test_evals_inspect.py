import dataclasses
import json
import random
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from conftest import mesh_of

from jaxcomp.cli import overrides
from jaxcomp.config import ConfigError
from jaxcomp.data.world import World
from jaxcomp.evals import inspect, inspect_page
from jaxcomp.evals.attribution import REBUILT, SOURCE
from jaxcomp.inference.load import load
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor
from jaxcomp.training.manifest import CheckpointError
from jaxcomp.training.pretrain import pretrain_base

HOSTILE = (
    '<script>alert("1")</script>', "</td></tr></table>", "&lt;b&gt; &amp; &#x27;", "<!-- x",
    "'\"><img src=x onerror=alert(2)>", "\u202etxet\u202c", "\u00e9\U0001f600\u2028", "]]>",
)  # fmt: skip
KINDS = {label[0]: label for label in (*SOURCE, *REBUILT)}


class Rows(HTMLParser):
    """The passages of a page, read back: of each its attributes, and of its two texts the
    characters and the classes of its words."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.tags = [], Counter()
        self.inside = self.shown = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        found = dict(attrs)
        if tag == "tr" and "data-number" in found:
            self.rows.append((found, []))
        if tag == "td" and self.rows:
            self.shown = found.get("class") == "t"
            if self.shown:
                self.rows[-1][1].append(["", []])
        if tag == "b" and self.shown:
            assert set(found) <= {"class", "title"}
            self.rows[-1][1][-1][1].append((found["class"] or "").split())

    def handle_endtag(self, tag):
        self.shown = self.shown and tag != "td"

    def handle_data(self, data):
        if self.shown:
            self.rows[-1][1][-1][0] += data


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """Towers of 24 do not need eight."""
    with use_mesh(mesh_of((1, 1, 1))):
        yield


def config(name, *fields):
    """Of a run of no step: it is finished at once, with the base models as they are."""
    more = [("train.optim.steps", "0"), ("data.val_passages", "2"), ("memory.ratio", "16")]
    return overrides.load(name, [*fields, *more])


@pytest.fixture(scope="module")
def world_run(tmp_path_factory, one_device):
    folder = tmp_path_factory.mktemp("world")
    compressor.train(config("configs/tiny.py", ("compressor", "llama/24")), folder)
    return folder


@pytest.fixture(scope="module")
def text_run(tmp_path_factory, one_device):
    folder, rng = tmp_path_factory.mktemp("text"), random.Random(0)
    lines = []
    for i in range(40):
        # Words of its own: wording shared with training text is not held out.
        said = [f"{''.join(rng.choices('bcdfglmn', k=6))} {rng.choice(HOSTILE)}" for _ in range(40)]
        lines.append(json.dumps({"id": f"{HOSTILE[4]}{i}", "text": " ".join(said)}))
    file = folder / "docs.jsonl"
    file.write_text("\n".join(lines))
    cfg = config(
        f"configs/text.py:path={file}", ("compressor", "llama/32"), ("data.vocab_size", "320"),
        ("data.target", "90"), ("pretrain.optim.steps", "0"),
    )  # fmt: skip
    base = str(pretrain_base(cfg, "llama", "32", 0, folder))
    cfg = dataclasses.replace(cfg, folders={"llama/32": base, "decoder": base})
    compressor.train(cfg, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def world_page(world_run):
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "PROBE_PASSAGES", 55)
        found = inspect.inspect(world_run, limit=3, batch=20, say=said.append)
    return found, said


@pytest.fixture(scope="module")
def text_page(text_run):
    return inspect.inspect(text_run, limit=5, batch=5)


def test_the_page_holds_every_passage_once_a_set(world_page):
    found, said = world_page
    assert found.made
    rows = Rows(found.path.read_text()).rows
    assert [int(attrs["data-number"]) for attrs, _ in rows] == list(range(6))
    assert any("counterfactual: rebuilding 55 passages" in line for line in said)
    assert any("linear probe: topic, 55 slots" in line for line in said)


@pytest.mark.parametrize("which", ["world_page", "text_page"])
def test_what_is_read_back_from_the_page_adds_up(which, request):
    """Labels counted in the marked words of each row are those that it is sorted by, and their sums
    those of the table at the top."""
    found = request.getfixturevalue(which)
    found = found if which == "text_page" else found[0]
    rows = Rows(found.path.read_text()).rows
    total = Counter()
    for attrs, (source, rebuilt) in rows:
        words = Counter(f"source/{KINDS[names[0]]}" for names in source[1])
        words.update(f"rebuilt/{KINDS[names[0]]}" for names in rebuilt[1])
        for label in SOURCE:
            assert int(attrs[f"data-{label}"]) == words[f"source/{label}"]
        assert int(attrs["data-invented"]) == words["rebuilt/invented"]
        words["departure/all"] = sum("d" in names for names in rebuilt[1])
        total.update(words)
    said = Counter()
    for counts in found.counts.values():
        said.update(counts)
    assert {k: v for k, v in said.items() if v and (k in total)} == +total
    assert said["source/all"] > 50


def test_hostile_text_comes_out_as_it_was(text_run, text_page):
    text = text_page.path.read_text()
    parsed = Rows(text)
    cfg = inspect._sized(inspect._config(text_run), 5, 5)
    pair = load(text_run, batch=5)
    traces = inspect._traces(cfg, pair, "test", lambda _: None)
    assert len(parsed.rows) == len(traces) == 5
    for (_, (source, rebuilt)), trace in zip(parsed.rows, traces, strict=True):
        assert source[0] == trace.example.text
        assert rebuilt[0].rstrip("\n") == trace.rebuilt.replace("\0", "\ufffd").rstrip("\n")
    assert any("<script>" in t.example.text for t in traces)
    assert parsed.tags["script"] == 1
    assert not {"img", "iframe", "object", "link"} & set(parsed.tags)
    assert not re.search(r"(src|href)=(?!x onerror)", text.replace("&#39;", "'"))
    assert "default-src &#39;none&#39;" in text


def test_rerun_has_nothing_to_do_and_another_page_is_made(world_run, world_page, monkeypatch):
    path, before, said = world_page[0].path, world_page[0].path.read_bytes(), []
    again = inspect.inspect(world_run, limit=3, say=said.append)
    assert (again.made, again.path) == (False, path)
    assert said[0].startswith("nothing to do")
    assert path.read_bytes() == before
    monkeypatch.setattr(inspect_page, "VERSION", inspect_page.VERSION + 1)
    assert not inspect._is_there(path, inspect._about(path.parent, 3))
    monkeypatch.undo()
    assert not inspect._is_there(path, inspect._about(path.parent, 4))
    assert inspect._is_there(path, inspect._about(path.parent, 3))


def test_folders_that_are_no_run_and_files_that_are_no_page(tmp_path, world_run):
    with pytest.raises(ConfigError, match="limit is 0; expected at least 1"):
        inspect.inspect(world_run, limit=0)
    with pytest.raises(ValueError, match=r"run\.json; expected the workdir of a run"):
        inspect.inspect(tmp_path)
    (tmp_path / "run.json").write_text((world_run / "run.json").read_text())
    with pytest.raises(CheckpointError, match="run `jaxcomp train` first"):
        inspect.inspect(tmp_path)
    (tmp_path / "jobs").mkdir()
    with pytest.raises(ConfigError, match="is a sweep"):
        inspect.inspect(tmp_path)
    (tmp_path / "jaxcomp.json").write_text("{}")
    with pytest.raises(ConfigError, match="exported compressor, which knows no held-out text"):
        inspect.inspect(tmp_path)
    with pytest.raises(ConfigError, match="is a folder"):
        inspect.inspect(world_run, out=tmp_path)
    mine = tmp_path / "notes.html"
    mine.write_text("<p>mine")
    with pytest.raises(ConfigError, match="is no page of `jaxcomp inspect`"):
        inspect.inspect(world_run, out=mine)
    assert mine.read_text() == "<p>mine"


def test_every_button_sorts_by_something_that_every_row_has(world_page):
    text = world_page[0].path.read_text()
    keys = re.findall(r'<button data-by="(\w+)">', text)
    assert set(keys) == {"number", "loss", *inspect_page.LABELS}
    for attrs, _ in Rows(text).rows:
        assert all(float(attrs[f"data-{key}"]) >= 0 for key in keys)


def test_a_page_says_what_it_is_of():
    about = {"run": '"><script>', "limit": 3}
    content = inspect_page.Content("a <b> title", about, {})
    text = inspect_page.html_of(content)
    assert inspect_page.about_of(text.encode()) == about
    assert "a &lt;b&gt; title" in text
    assert inspect_page.about_of(b"<html>") is None
    assert Rows(text).tags["script"] == 1


def test_slots_are_laid_beside_their_own_words(world_run):
    """On texts that came back whole, all are kept and copied; where the value's word alone did not,
    that one is found."""
    cfg = inspect._sized(inspect._config(world_run), 4, 20)
    traces = inspect._traces(cfg, load(world_run, batch=20), "counterfactual", lambda _: None)
    whole = [t._replace(rebuilt=t.example.text, labels=_labels(t, ())) for t in traces]
    found = inspect.value_words(World(cfg.world), whole)
    assert list(found) == ["preserved"]
    slots = [s for t in traces for s in t.example.passage.slots]
    asked = [s for s in slots if s.kind not in ("relation", "order", "modifier", "polarity")]
    assert found["preserved"] == {"copied": len(asked)}
    lost = [
        t._replace(
            rebuilt="", labels=_labels(t, [(s.start, s.end) for s in t.example.passage.slots])
        )
        for t in traces
    ]
    assert inspect.value_words(World(cfg.world), lost) == {"omitted": {"lost": len(asked)}}


def _labels(trace, lost):
    source = ["lost" if (w.start, w.end) in lost else "copied" for w in trace.source_words]
    return trace.labels._replace(source=tuple(source))
