"""Hundreds of damaged files of each kind: a value or one sentence."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import damaged, raw, written

from jaxcomp.cli.main import expected
from jaxcomp.config import DataConfig
from jaxcomp.data import qa
from jaxcomp.data.loading import load
from jaxcomp.data.splits import split_documents
from jaxcomp.data.tokenizer import load_tokenizer, train_tokenizer, world_tokenizer
from jaxcomp.evals.qa import readers

CASES = 300
ROWS = [
    {
        "id": f"a-{i}",
        "source": "s",
        "title": f"t{i // 4}",
        "text": f"Some words of text, {i}.",
        "question": f"What is {i}?",
        "context": f"Number {i} is {i + 1}.",
        "answers": {"text": [f"{i + 1}"]},
    }
    for i in range(40)
]


def lines(rows):
    return b"".join(written(row) + b"\n" for row in rows) if isinstance(rows, list) else b"5\n"


def table(rows):
    """Parquet of the rows, where their columns can be; else of text."""
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    out = pa.BufferOutputStream()
    try:
        pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=15)
    except Exception:  # several types in one column, or one that no file holds
        names = sorted({name for row in rows for name in row})
        made = pa.table({name: [str(row.get(name)) for row in rows] for name in names})
        pq.write_table(made, out := pa.BufferOutputStream())
    return out.getvalue().to_pybytes()


def content_of(rng, kind):
    if kind == "parquet":
        return damaged(rng, ROWS, table)
    if kind == "jsonl.gz" and rng.random() < 0.3:  # damage to the packed bytes
        return raw(rng, gzip.compress(lines(ROWS), mtime=0))
    content = damaged(rng, ROWS, lines)
    return gzip.compress(content, mtime=0) if kind == "jsonl.gz" else content


def documents(file):
    docs = load(DataConfig(source="text", path=str(file)))
    assert all(isinstance(field, str) and field.encode() is not None for d in docs for field in d)
    split_documents(docs)


def items(file):
    for item in readers.read(file, task="qa"):
        assert all(text.encode() is not None for text in (item.id, item.question, item.context))


READERS = {"documents": documents, "questions": lambda file: qa.load(str(file)), "items": items}


def refusals(read, cases=CASES):
    """How many of the cases are refused, each in one sentence."""
    refused = 0
    for seed in range(cases):
        try:
            read(random.Random(seed))
        except Exception as error:
            message = expected(error)
            if message is None:
                raise
            assert len(message) < 3000, message
            refused += 1
    assert cases // 10 < refused < cases  # some of either: the damage is neither none nor total


@pytest.mark.slow
@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_a_damaged_file_is_a_value_or_one_sentence(tmp_path, kind, what):
    def read(rng):
        file = tmp_path / f"a.{kind}"
        file.write_bytes(content_of(rng, kind))
        READERS[what](file)

    refusals(read)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "world"])
def test_a_damaged_tokenizer_works_or_is_refused_in_one_sentence(tmp_path, kind):
    if kind == "bpe":
        train_tokenizer(["Some words of text"], 300, tmp_path)
    else:
        world_tokenizer(["Some", "words", "of", "text", "."], tmp_path)
    names = ("tokenizer.json", "tokenizer_config.json")
    valid = {name: (tmp_path / name).read_text() for name in names}

    def read(rng):
        for name, text in valid.items():
            (tmp_path / name).write_text(text)
        name = rng.choice(names)
        (tmp_path / name).write_bytes(damaged(rng, json.loads(valid[name])))
        tok = load_tokenizer(tmp_path)
        tok.decode(tok.encode("Some words."))
        tok.respell(["text of words"])
        tok.encode_exactly(["Some text"])

    refusals(read)
