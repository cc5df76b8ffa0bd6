"""Validation and test sets that cannot be read are refused before step 0, not after the last."""

import json
import random

import pytest

from jaxcomp.cli.main import main
from jaxcomp.config import DataConfig
from jaxcomp.data.loading import load
from jaxcomp.data.splits import split_documents
from jaxcomp.training.pretrained import ASSETS


def write(file, words):
    rng = random.Random(0)
    letters = "abcdefghiklmnoprstuw"
    rows = [" ".join("".join(rng.choices(letters, k=5)) for _ in range(words)) for _ in range(300)]
    lines = [{"id": f"x{i}y", "text": text} for i, text in enumerate(rows)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def odd(file, which):
    """A character without a token in one document of a held-out set."""
    lines = write(file, 60)
    split = split_documents(load(DataConfig(source="text", path=str(file))))
    wanted = next(iter(split[which])).id
    for line in lines:
        if line["id"] == wanted:
            line["text"] = f"caf\u00e9 {line['text']}"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: write(file, 8), "no example of 'val' fits data.segment = 64"),
        (lambda file: odd(file, "val"), "'\u00e9' at character 3 of"),
        (lambda file: odd(file, "test"), "'\u00e9' at character 3 of"),
    ],
)
def test_train_looks_at_what_it_will_be_measured_on_first(tmp_path, capsys, make, message):
    file = tmp_path / "a.jsonl"
    make(file)
    asked = [
        "train", "--config=configs/tiny.py", "--compressor=llama/24", "--train.optim.steps=2",
        "--data.source=text", f"--data.path={file}", "--data.target=80",
        f"--folders.decoder={ASSETS / 'decoders' / 'decoder-s0'}",
        f"--folders.llama/24={ASSETS / 'bases' / 'llama-24-s0'}",
        f"--workdir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert main(asked) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_renamed_file_is_said_to_be_one(tmp_path, capsys):
    asked = [
        "train", "--config=configs/tiny.py", "--compressor=llama/24", "--train.optim.steps=1",
        "--data.source=text", "--data.target=80",
        f"--folders.decoder={ASSETS / 'decoders' / 'decoder-s0'}",
        f"--folders.llama/24={ASSETS / 'bases' / 'llama-24-s0'}",
        f"--workdir={tmp_path / 'run'}",
    ]  # fmt: skip
    write(tmp_path / "a.jsonl", 60)
    assert main([*asked, f"--data.path={tmp_path / 'a.jsonl'}"]) == 0
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    assert main([*asked, f"--data.path={tmp_path / 'b.jsonl'}"]) == 2
    said = capsys.readouterr().err
    assert "data.path was ['a.jsonl:" in said
    assert "now ['b.jsonl:" in said
    (tmp_path / "other").mkdir()
    (tmp_path / "b.jsonl").rename(tmp_path / "other" / "a.jsonl")
    assert main([*asked, f"--data.path={tmp_path / 'other' / 'a.jsonl'}"]) == 0
