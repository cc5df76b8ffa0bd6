"""Validation and test sets that cannot be read are refused before step 0, not after the last."""

import json
import random

import pytest

from jaxcomp.cli.main import main
from jaxcomp.config import DataConfig
from jaxcomp.data.loading import load
from jaxcomp.data.splits import split_documents
from jaxcomp.training.pretrained import ASSETS


def write(file, words, odd_in=""):
    """300 documents of random words; one of the held-out set `odd_in` has a character that no
    token stands for."""
    rng = random.Random(0)
    texts = [
        " ".join("".join(rng.choices("abcdefgh", k=5)) for _ in range(words)) for _ in "x" * 300
    ]
    lines = {f"x{i}y": text for i, text in enumerate(texts)}

    def put():
        rows = [json.dumps({"id": name, "text": text}) for name, text in lines.items()]
        file.write_text("\n".join(rows) + "\n")

    put()
    if odd_in:
        split = split_documents(load(DataConfig(source="text", path=str(file))))
        odd = next(iter(split[odd_in])).id
        lines[odd] = f"caf\u00e9 {lines[odd]}"
        put()


def train(file, workdir):
    return main([
        "train", "--config=configs/tiny.py", "--compressor=llama/24", "--train.optim.steps=1",
        "--data.source=text", f"--data.path={file}", "--data.target=80", f"--workdir={workdir}",
        f"--folders.decoder={ASSETS / 'decoders' / 'decoder-s0'}",
        f"--folders.llama/24={ASSETS / 'bases' / 'llama-24-s0'}",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("words", "odd_in", "message"),
    [
        (8, "", "no example of 'val' fits data.segment = 64"),
        (60, "val", "'\u00e9' at character 3 of"),
        (60, "test", "'\u00e9' at character 3 of"),
    ],
)
def test_train_looks_at_what_it_will_be_measured_on_first(tmp_path, capsys, words, odd_in, message):
    file = tmp_path / "a.jsonl"
    write(file, words, odd_in)
    assert train(file, tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
def test_a_renamed_file_is_said_to_be_one(tmp_path, capsys):
    write(tmp_path / "a.jsonl", 60)
    assert train(tmp_path / "a.jsonl", tmp_path / "run") == 0
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    assert train(tmp_path / "b.jsonl", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "data.path was ['a.jsonl:" in said
    assert "now ['b.jsonl:" in said
    (tmp_path / "other").mkdir()
    (tmp_path / "b.jsonl").rename(tmp_path / "other" / "a.jsonl")
    assert train(tmp_path / "other" / "a.jsonl", tmp_path / "run") == 0
