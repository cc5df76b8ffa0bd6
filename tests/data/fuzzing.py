"""Seeded damage to small valid files, and what a reader may make of it: a value, or one sentence.

Run as a program it reads damaged files of one kind, within bounds of time and memory that a native
library cannot leave: `python fuzzing.py KIND FIRST LAST` prints the seed of each case before it.
"""

import contextlib
import copy
import faulthandler
import gzip
import json
import random
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

MOST_BYTES = 6 << 30  # of addresses, most of which the libraries reserve and never touch
CASE_S = 20.0
RAW = {  # what json.dumps cannot write, by the string that stands for it
    "@digits": "9" * 5000,
    "@deep": "[" * 100_000 + "]" * 100_000,
    "@deep dict": '{"a":' * 900 + "1" + "}" * 900,
    "@half": '"\\ud800"',
}
VALUES = (
    None, True, False, 0, -1, 2**31, 2**63, 10**299, 0.5, 1e308, float("nan"), float("inf"), "",
    " ", "x", "\0", "é" * 50, [], {}, [1], [None], [[]], {"": {}}, {"text": 1}, ["a", "b"], *RAW,
)  # fmt: skip
NAMES = ("id", "title", "", "x", "type")


def tree(rng, value, values=VALUES, names=NAMES):
    """`value` with one to three of its parts, at any depth, replaced by one of `values`, removed,
    added by one of `names`, repeated or, a whole number, made another."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        nodes = [value]
        for node in nodes:
            inside = node.values() if isinstance(node, dict) else node
            nodes += [x for x in inside if isinstance(x, dict | list) and x]
        node = rng.choice(nodes)
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys) if keys and rng.random() < 0.85 else None
        odd, kind = copy.deepcopy(rng.choice(values)), rng.random()
        if key is None:  # one more
            if isinstance(node, list):
                node.append(odd)
            else:
                node[rng.choice(names)] = odd
        elif kind < 0.15:
            del node[key]
        elif kind < 0.3:
            node[key] = copy.deepcopy(node[rng.choice(keys)])
        elif kind < 0.5 and isinstance(node[key], int):
            node[key] += rng.choice((-1, 1, 8, 1 << 20, 1 << 40))
        else:
            node[key] = odd
    return value


def written(value):
    """As JSON; what json.dumps cannot write stands for itself."""
    text = json.dumps(value, ensure_ascii=False)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def raw(rng, content):
    """`content` with some of its bytes changed, cut, repeated or removed."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, kind = rng.randrange(len(content) + 1), rng.random()
        if kind < 0.4 and at < len(content):
            content[at] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
        elif kind < 0.5:
            del content[at:]
        elif kind < 0.7:
            del content[at : at + rng.choice((1, 4, 100))]
        elif kind < 0.85:
            content[at:at] = content[at : at + 50]
        else:
            content[at:at] = rng.choice(
                (b"\n", b"\0" * 9, b"\xff\xff", b'"', b"{", b"\xed\xa0\x80")
            )
    return bytes(content)


def damaged(rng, value, bytes_of):
    """A valid file with damaged fields, or with damaged bytes, or both."""
    kind = rng.random()
    content = bytes_of(tree(rng, value) if kind < 0.7 else value)
    return raw(rng, content) if kind > 0.6 else content


def lines(rows):
    return b"".join(written(row) + b"\n" for row in rows) if isinstance(rows, list) else b"5\n"


DOCUMENTS = [
    {"id": f"a-{i}", "source": "s", "title": f"t{i // 4}", "text": f"Some words of text, {i}."}
    for i in range(40)
]
QUESTIONS = [
    {
        "id": str(i),
        "question": f"What is {i}?",
        "context": f"Number {i} is {i + 1}.",
        "answers": {"text": [f"{i + 1}"], "answer_start": [12]},
        "source": "s",
    }
    for i in range(20)
]
CONFLICTS = [
    {
        "id": f"c{i}",
        "question": f"Who is {i}?",
        "context": f"It is Ida {i}.",
        "context_answer": f"Ida {i}",
        "prior_answer": "Bob",
    }
    for i in range(5)
]
CHOICES = [
    {
        "question": "What?",
        "context": "It is ice.",
        "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
        "answerKey": "A",
    }
]


def table(rng, rows):
    """Parquet of the rows, where their columns can be; else of odd columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for row in rows if isinstance(row, dict)]
    try:
        made = pa.Table.from_pylist(rows)
        pq.write_table(made, pa.BufferOutputStream())
    except Exception:  # several types in one column, or one that no file holds
        names = sorted({name for row in rows for name in row})
        made = pa.table({k: [str(row.get(k)) for row in rows] for k in names})
    if rng.random() < 0.2 and made.num_columns:
        names = [rng.choice((*made.column_names, "text", "", "a.b", "\0")) for _ in made.columns]
        made = made.rename_columns(names)
    if rng.random() < 0.2 and made.num_columns:
        at, kinds = rng.randrange(made.num_columns), (pa.binary(), pa.large_string(), pa.int64())
        odd = (
            pa.timestamp("us", "Nowhere/Land"),
            pa.date32(),
            pa.dictionary(pa.int8(), pa.string()),
        )
        column = pa.nulls(made.num_rows, rng.choice((*kinds, *odd)))
        made = made.set_column(at, made.column_names[at], column)
    out = pa.BufferOutputStream()
    how = rng.choice(("none", "snappy", "zstd"))
    pq.write_table(made, out, compression=how, use_dictionary=rng.random() < 0.5, row_group_size=15)
    return out.getvalue().to_pybytes()


def documents(rng, folder, kind):
    from jaxcomp.config import DataConfig
    from jaxcomp.data.loading import load
    from jaxcomp.data.splits import split_documents

    file = folder / f"a.{kind}"
    file.write_bytes(file_of(rng, DOCUMENTS, kind))
    docs = load(DataConfig(source="text", path=str(file)))
    assert all(isinstance(field, str) and field.encode() is not None for d in docs for field in d)
    split_documents(docs)


def file_of(rng, rows, kind):
    if kind == "parquet":
        return damaged(rng, rows, lambda rows: table(rng, rows if isinstance(rows, list) else []))
    if kind == "jsonl.gz":
        # Damage to the packed bytes, or to what is packed.
        if rng.random() < 0.3:
            return raw(rng, gzip.compress(lines(rows), mtime=0))
        return gzip.compress(damaged(rng, rows, lines), mtime=0)
    return damaged(rng, rows, lines)


def questions(rng, folder, kind):
    from jaxcomp.data.qa import load

    file = folder / f"a.{kind}"
    file.write_bytes(file_of(rng, QUESTIONS, kind))
    load(str(file))


def items(rng, folder, kind):
    from jaxcomp.evals.qa.readers import read

    rows, task = rng.choice(
        ((QUESTIONS, "qa"), (CONFLICTS, "overwriting"), (CHOICES, "overwriting"))
    )
    file = folder / f"a.{kind}"
    file.write_bytes(file_of(rng, rows, kind))
    for item in read(file, task=task):
        assert all(text.encode() is not None for text in (item.id, item.question, item.context))


def tokenizer(rng, folder, kind):
    from jaxcomp.data.tokenizer import load_tokenizer, train_tokenizer, world_tokenizer

    valid = folder / kind
    if kind == "bpe":
        train_tokenizer(["Some words of text"], 300, valid)
    else:
        world_tokenizer(["Some", "words", "of", "text", "."], valid)
    name = rng.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json"))
    value = json.loads((valid / name).read_text())
    (valid / name).write_bytes(damaged(rng, value, written))
    tok = load_tokenizer(valid)
    assert isinstance(tok.vocab_size, int)
    ids = tok.encode("Some words.")
    tok.decode(ids)
    tok.respell(["text of words"])
    tok.encode_exactly(["Some text"])


KINDS = {
    "jsonl": (documents, "jsonl"),
    "jsonl.gz": (documents, "jsonl.gz"),
    "parquet": (documents, "parquet"),
    "questions jsonl": (questions, "jsonl"),
    "questions parquet": (questions, "parquet"),
    "items jsonl.gz": (items, "jsonl.gz"),
    "items parquet": (items, "parquet"),
    "tokenizer bpe": (tokenizer, "bpe"),
    "tokenizer world": (tokenizer, "world"),
}


def main(kind, first, last):
    import logging

    from jaxcomp.cli.main import expected

    warnings.simplefilter("error")
    logging.disable()
    faulthandler.enable()
    read, form = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ValueError):
        read(random.Random(0), Path(folder), form)  # what is imported is no case's time
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    refused = 0
    for seed in range(first, last):
        print(seed, end=" ", flush=True)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                read(random.Random(f"{kind} {seed}"), Path(folder), form)
            except Exception as error:
                message = expected(error)
                if message is None:
                    raise
                assert len(message) < 3000, message
                refused += 1
        assert time.perf_counter() - began < CASE_S, f"took {time.perf_counter() - began:.0f} s"
    print(f"\n{refused} refused")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
