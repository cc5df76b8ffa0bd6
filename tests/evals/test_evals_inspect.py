import random
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any, cast

import numpy as np
import pytest
from conftest import mesh_of

from jaxcomp.cli import overrides
from jaxcomp.config import Config, DataConfig
from jaxcomp.data.batches import Example
from jaxcomp.data.world import World
from jaxcomp.evals import attribution, inspect, inspect_page
from jaxcomp.evals.attribution import REBUILT, SOURCE
from jaxcomp.evals.tracing import Said, Trace
from jaxcomp.inference.load import load
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor

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


@pytest.fixture(scope="module")
def world_run(tmp_path_factory, one_device):
    """A run of no step: it is finished at once, with the base models as they are."""
    folder = tmp_path_factory.mktemp("world")
    fields = {"train.optim.steps": "0", "data.val_passages": "2", "memory.ratio": "16"}
    fields["compressor"] = "llama/24"
    compressor.train(overrides.load("configs/tiny.py", list(fields.items())), folder)
    return folder


def traced(i: int, rng: random.Random) -> Trace:
    """A hostile text of which some words came back, as tracing.trace accounts for it."""
    before = [rng.choice((*HOSTILE, "plain words", "and marks.")) for _ in range(40)]
    after = [text if rng.random() < 0.7 else rng.choice(HOSTILE) for text in before]
    texts = " ".join(before), " ".join(after)
    words = [attribution.words(text) for text in texts]
    source, rebuilt = ([w.text for w in found] for found in words)
    links = attribution.align(source, rebuilt)
    preferred = attribution.contested(source, rebuilt, links)[::2]
    labels = attribution.attribute(source, rebuilt, links, preferred)
    said = [Said(1.0, -1.0, -2.0)] * len(rebuilt)
    example = Example(f"{HOSTILE[4]}{i}", texts[0], [], [1], [], None)
    vec_MD = np.zeros((1, 2))
    return Trace(example, texts[1], words[0], words[1], labels, said, 0.5, 0, vec_MD)


@pytest.fixture(scope="module")
def text_page():
    """Traces of a real text, the page's content, and the page."""
    rng = random.Random(0)
    traces = [traced(i, rng) for i in range(5)]
    cfg = Config(data=DataConfig(source="text", path="docs.jsonl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "_traces", lambda *args: traces)
        content = inspect._content(cfg, cast(Any, None), 5, {}, print)
    return traces, content, inspect_page.html_of(content)


@pytest.fixture(scope="module")
def world_page(world_run):
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "PROBE_PASSAGES", 55)
        found = inspect.inspect(world_run, limit=3, batch=20, say=said.append)
    return found, said


def test_the_page_holds_every_passage_once_a_set(world_page):
    found, said = world_page
    assert found.made
    text = found.path.read_text()
    rows = Rows(text).rows
    assert [int(attrs["data-number"]) for attrs, _ in rows] == list(range(6))
    keys = re.findall(r'<button data-by="(\w+)">', text)
    assert set(keys) == {"number", "loss", *inspect_page.LABELS}
    assert all(float(attrs[f"data-{key}"]) >= 0 for key in keys for attrs, _ in rows)
    assert any("counterfactual: rebuilding 55 passages" in line for line in said)
    assert any("linear probe: topic, 55 facts" in line for line in said)


@pytest.mark.parametrize("which", ["world_page", "text_page"])
def test_what_is_read_back_from_the_page_adds_up(which, request):
    """Labels counted in the marked words of each row are those that it is sorted by, and their sums
    those of the table at the top."""
    found = request.getfixturevalue(which)
    found, text = found[1:] if which == "text_page" else (found[0], found[0].path.read_text())
    rows = Rows(text).rows
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


def test_hostile_text_comes_out_as_it_was(text_page):
    traces, _, text = text_page
    parsed = Rows(text)
    assert len(parsed.rows) == len(traces) == 5
    for (_, (source, rebuilt)), trace in zip(parsed.rows, traces, strict=True):
        assert source[0] == trace.example.text
        assert rebuilt[0].rstrip("\n") == trace.rebuilt.rstrip("\n")
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
    def refused(message, place=tmp_path, **options):
        with pytest.raises(ValueError, match=message):
            inspect.inspect(place, **options)

    refused("limit is 0; expected at least 1", world_run, limit=0)
    refused(r"run\.json; expected the workdir of a run")
    (tmp_path / "run.json").write_text((world_run / "run.json").read_text())
    refused("run `jaxcomp train` first")
    (tmp_path / "jobs").mkdir()
    refused("is a sweep")
    (tmp_path / "jaxcomp.json").write_text("{}")
    refused("exported compressor, which knows no held-out text")
    refused("is a folder", world_run, out=tmp_path)
    mine = tmp_path / "notes.html"
    mine.write_text("<p>mine")
    refused("is no page of `jaxcomp inspect`", world_run, out=mine)
    assert mine.read_text() == "<p>mine"


def test_a_page_says_what_it_is_of():
    about = {"run": '"><script>', "limit": 3}
    content = inspect_page.Content("a <b> title", about, {})
    text = inspect_page.html_of(content)
    assert inspect_page.about_of(text.encode()) == about
    assert "a &lt;b&gt; title" in text
    assert inspect_page.about_of(b"<html>") is None
    assert Rows(text).tags["script"] == 1


def test_facts_are_laid_beside_their_own_words(world_run):
    """On texts that came back whole, all are kept and copied; where the value's word alone did not,
    that one is found."""
    cfg = inspect._sized(inspect._config(world_run), 4, 20)
    traces = inspect._traces(cfg, load(world_run, batch=20), "counterfactual", lambda _: None)
    facts = [s for t in traces for s in t.example.passage.facts]
    asked = [s for s in facts if s.kind not in ("relation", "order", "modifier", "polarity")]

    def found(rebuilt, is_lost):
        made = []
        for trace in traces:
            spans = [(s.start, s.end) for s in trace.example.passage.facts] if is_lost else []
            words = [(w.start, w.end) for w in trace.source_words]
            source = tuple("lost" if span in spans else "copied" for span in words)
            labels = trace.labels._replace(source=source)
            made.append(trace._replace(rebuilt=rebuilt(trace), labels=labels))
        return inspect.value_words(World(cfg.world), made)

    whole = found(lambda trace: trace.example.text, False)
    assert whole == {"preserved": {"copied": len(asked)}}
    assert found(lambda trace: "", True) == {"omitted": {"lost": len(asked)}}
