"""compress, reconstruct, ask and export as they are typed."""

import dataclasses
import io
import json
import sys
from types import SimpleNamespace

import pytest
from inference.inference_runs import ONE, texts, trained, trained_pair

import jaxcomp
from jaxcomp.cli import main
from jaxcomp.runtime.sharding import use_mesh


@pytest.fixture(scope="module")
def run():
    with use_mesh(ONE):
        yield trained()


def typed(capsys, *argv):
    code = main.main([str(a) for a in argv])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_text_goes_through_a_file_and_back(run, tmp_path, capsys, monkeypatch):
    raw = io.BytesIO(texts()[0].encode() + b"\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=raw))
    out = tmp_path / "m.safetensors"
    code, said, told = typed(capsys, "compress", "--run", run, "--out", out)
    assert (code, said) == (0, "")
    assert "1 texts in 1 file(s)" in told
    pair = trained_pair()
    memory = jaxcomp.Memory.load(out)
    code, said, _ = typed(capsys, "reconstruct", "--run", run, out)
    assert (code, said) == (0, pair.reconstruct(memory)[0] + "\n")
    code, said, _ = typed(capsys, "ask", "--run", run, out, "--question=Who", "--max_new=4")
    assert (code, said) == (0, pair.ask(memory, "Who", max_new=4)[0] + "\n")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "a.jsonl: no text in 1 file"),
        ("a.txt", b"caf\xe9", "a.txt: not UTF-8 at line 1, byte 3 (0xe9); convert it"),
        ("a.txt", b"a\x00", "a.txt: '\\x00' at character 1 of"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_sentence(run, tmp_path, capsys, name, content, said):
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    code, printed, told = typed(capsys, "compress", "--run", run, "--out", out, tmp_path / name)
    assert (code, printed, told.count("\n")) == (2, "", 1)
    assert said in told
    assert not out.exists()


def test_memories_that_cannot_be_read_are_one_sentence(run, tmp_path, capsys):
    ours = trained_pair().compress(["The fox", "The goat"])
    ours.save(tmp_path / "a.safetensors")
    foreign = dataclasses.replace(ours, decoder="0" * 12)
    foreign.save(tmp_path / "b.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(whole[: len(whole) // 2])
    for names, said in (
        ("b", "this pair has"),
        ("c", f"c.safetensors ({len(whole) // 2} bytes) is not a whole safetensors file"),
        # Before anything of the first is printed.
        ("ab", "b.safetensors is for (decoder, ratio, segment) = ('000000000000'"),
        ("ac", "is not a whole safetensors file"),
    ):
        files = [tmp_path / f"{name}.safetensors" for name in names]
        for command in (["reconstruct"], ["ask", "--question=Who"]):
            code, printed, told = typed(capsys, *command, "--run", run, *files)
            assert (code, printed, told.count("\n")) == (2, "", 1)
            assert said in told


def test_questions_that_are_none(run, tmp_path, capsys, monkeypatch):
    trained_pair().compress("").save(tmp_path / "m.safetensors")
    for raw, said in ((b" \n\n", "no question; expected"), (b"\xff", "standard input: not UTF")):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
        code, out, told = typed(capsys, "ask", "--run", run, tmp_path / "m.safetensors")
        assert (code, out, told.count("\n")) == (2, "", 1)
        assert said in told


def test_several_texts_are_printed_as_json_lines(run, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i, text in enumerate(texts()[:3]):
        (tmp_path / "in" / f"{i}.txt").write_text(text)
    args = ("compress", "--run", run, "--out", tmp_path / "out", "--part", 2, tmp_path / "in")
    assert typed(capsys, *args)[0] == 0
    assert "nothing to do: 3 texts" in typed(capsys, *args)[2]
    code, said, _ = typed(capsys, "reconstruct", "--run", run, tmp_path / "out", "--max_new=8")
    rows = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert [row["id"].rpartition("/")[2] for row in rows] == ["0.txt", "1.txt", "2.txt"]
    assert all(row["text"] for row in rows)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["compress", "--out=m.safetensors"], "--run"),
        (["compress", "--run=nowhere", "--out=m.safetensors"], "holds neither"),
        (
            ["compress", "--run=nowhere", "--out=m", "--part=0"],
            "--part: '0': expected a whole number of at least 1",
        ),
        (["compress", "--run=x", "--out=m", "--memory.ratio=4"], "no flag of compress"),
        (["compress", "--run=nowhere", "--out=m", "--dtype=int8"], "invalid choice: 'int8'"),
        (["compress", "--run=nowhere", "--out=m", "a.txt"], "a.txt: no such file or folder"),
        (["reconstruct", "--run=nowhere", "m.safetensors"], "m.safetensors: no such file"),
        (["ask", "--run=nowhere", "m.safetensors", "--question=a"], "no such file"),
        (
            ["reconstruct", "--run=x", "m", "--batch=0"],
            "--batch: '0': expected a whole number of at least 1",
        ),
        (
            ["ask", "--run=x", "m", "--max_new=-1"],
            "--max_new: '-1': expected a whole number of at least 0",
        ),
        (["export", "--run=nowhere", "--out=e"], "nowhere"),
        (["export", "--run=x", "--out=e", "--question=a"], "goes with --prompt_embeds"),
    ],
)
def test_a_mistake_is_one_sentence(argv, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a")))
    code, out, told = typed(capsys, *argv)
    assert (code, out) == (2, "")
    assert said in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())
