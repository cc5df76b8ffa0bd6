"""Texts of files, folders and standard input; a stopped job goes on where it stopped."""

import gzip
import io
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from test_inference_memory import made

from jaxcomp.data.documents import DataError
from jaxcomp.data.tokenizer import TokenizerError, world_tokenizer
from jaxcomp.inference import MemoryFileError
from jaxcomp.inference.documents import STDIN, Text, compress, read
from jaxcomp.inference.memory import Memory


class Stub:
    """A pair whose memory of a text is as long as the text: what is asked of it is counted."""

    def __init__(self, compressor="c" * 12, stop_after=99):
        self.traits = SimpleNamespace(compressor=compressor, decoder="d" * 12, ratio=4)
        self.asked = []
        self.stop_after = stop_after

    def compress(self, texts, ids, seen=None):
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(list(ids))
        memory = made([[min(8, max(1, len(t)))] for t in texts])
        return Memory.join([Memory(**{**vars(memory), "ids": tuple(ids)})])


stub: Any = Stub


TEXTS = [Text(f"t{i}", "x" * i) for i in range(5)]


def stdin(raw) -> Any:
    return SimpleNamespace(buffer=io.BytesIO(raw))


def test_standard_input_is_one_text_without_its_last_newline():
    assert list(read([], stdin=stdin("Älter\r\nals\n\n".encode()))) == [Text("-", "Älter\r\nals\n")]
    assert list(read([STDIN], stdin=stdin(b""))) == [Text("-", "")]
    with pytest.raises(DataError, match="standard input: not UTF-8 at line 1, byte 1"):
        list(read([], stdin=stdin(b"a\xff")))


def test_a_txt_is_one_text_and_a_row_is_one(tmp_path):
    (tmp_path / "b").mkdir()
    long = "one\n\n" * 3000
    (tmp_path / "a.txt").write_text(long)
    (tmp_path / "b" / "r.jsonl.gz").write_bytes(
        gzip.compress(b"".join(json.dumps({"body": t, "id": t}).encode() + b"\n" for t in "pq"))
    )
    (tmp_path / "ignored.md").write_text("no")
    found = list(read([str(tmp_path)], field="body"))
    assert [t.text for t in found] == [long, "p", "q"]
    assert [t.id.removeprefix(str(tmp_path)) for t in found] == [
        "/a.txt", "/b/r.jsonl.gz:p", "/b/r.jsonl.gz:q",
    ]  # fmt: skip
    assert list(read([str(tmp_path / "a.txt")])) == found[:1]


def test_what_is_not_there_is_said_before_anything_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("c.txt", r"c\.txt: no such file or folder"),
        ("empty", r"empty: holds no \.jsonl"),
        ("a.md", r"a\.md: unsupported kind; expected one of \.jsonl"),
    ):
        with pytest.raises(DataError, match=said):  # not only when its turn comes
            read([str(tmp_path / "a.txt"), str(tmp_path / name)])


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.txt", b"", [("a.txt", "")]),
        ("a.txt", b"a\x00b", [("a.txt", "a\x00b")]),
        ("a.txt", b"caf\xe9 \xff", r"a\.txt: not UTF-8 at line 1, byte 3 \(0xe9\); convert it"),
        ("a.jsonl", b'{"text": ""}\n{"text": " "}\n', r"a\.jsonl: no text in 1 file"),
        # A row without text is none; the others keep their names.
        ("a.jsonl", b'{"text": ""}\n{"text": "b"}\n', [("a.jsonl:a-2", "b")]),
        ("a.jsonl", b'{"text": "a\\u0000"}\n', [("a.jsonl:a-1", "a\x00")]),
        ("a.jsonl", b'{"text": "b", "id": "\\ud800"}\n', "line 1: a string holds half a surrogate"),
        pytest.param(
            os.fsdecode(b"\xe9.txt"),
            b"a",
            [("\\udce9.txt", "a")],
            marks=pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes"),
        ),
    ],
)
def test_hostile_contents(tmp_path, monkeypatch, name, content, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    if isinstance(found, str):
        with pytest.raises(DataError, match=found):
            list(read([name]))
        return
    texts = list(read([name]))
    assert [tuple(text) for text in texts] == found
    compress(stub(), texts, tmp_path / "m.safetensors")
    assert Memory.load(tmp_path / "m.safetensors").ids == tuple(text.id for text in texts)


def test_a_text_that_a_tokenizer_refuses_is_named(tmp_path):
    tok = world_tokenizer(["word"], tmp_path / "t")

    class Refusing(Stub):
        comp_tok = dec_tok = tok

        def compress(self, texts, ids, seen=None):
            tok.encode_batch(texts)
            raise AssertionError("a text was compressed")

    refusing: Any = Refusing()
    texts = [Text("a.txt", "word"), Text("b.txt", "word \x00"), Text("c.txt", "word")]
    with pytest.raises(TokenizerError, match=r"^b\.txt: '\\x00' at character 5 of 'word"):
        compress(refusing, texts, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_what_was_done_before_a_stop_is_not_done_again(tmp_path):
    pair = stub(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        compress(pair, TEXTS, tmp_path, part=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["part-00000.safetensors"]
    again = stub()
    done = compress(again, TEXTS, tmp_path, part=2)
    assert again.asked == [["t2", "t3"], ["t4"]]
    assert (done.texts, done.before, len(done.files)) == (3, 2, 3)
    whole = Memory.join(Memory.load(f) for f in done.files)
    assert whole.ids == ("t0", "t1", "t2", "t3", "t4")
    third, one = stub(), tmp_path / "m.safetensors"
    assert compress(third, TEXTS, tmp_path, part=2)[:2] == (0, 5)
    assert not third.asked
    assert compress(third, TEXTS, one)[:2] == (5, 0)
    assert compress(third, TEXTS, one)[:2] == (0, 5)
    assert len(Memory.load(one)) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pair": stub("e" * 12)}, "another compressor"),
        ({"texts": [*TEXTS[:4], Text("t4", "y")]}, "another source"),
        ({"texts": TEXTS[:2]}, "more texts than these inputs"),
        ({"dtype": "bfloat16"}, "another dtype"),
    ],
)
def test_memories_of_something_else_are_left_alone(tmp_path, change, said):
    compress(stub(), TEXTS, tmp_path, part=2)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    given = {"pair": stub(), "texts": TEXTS} | change
    with pytest.raises(MemoryFileError, match=said):
        compress(given.pop("pair"), given.pop("texts"), tmp_path, part=2, **given)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
