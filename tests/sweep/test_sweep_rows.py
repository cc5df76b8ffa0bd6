"""Tables of finished jobs: nothing is lost in them, and what is damaged is refused."""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sweep.sweep_stub import config

from jaxcomp.cli import overrides
from jaxcomp.config import ConfigError
from jaxcomp.evals.metric import FORMER
from jaxcomp.sweep import grid, rows

COMMITTED = Path("docs/results/rows")
# Of the 413 JSON files from which the tables were made: one line a row, keys and lines sorted, with
# the names of metrics that they had.
DIGEST = "11d145f8b9557b3f50d73be0d41ad13fb93f637fb6b3feabcba284013a1e64da"


def row(**more):
    about = {"id": "a", "hash": "0a", "status": "done", "ratio": 4, "lr": 0.1}
    return about | {"metrics": {"params": 9, "x/loss": 0.1}, "intervals": {}} | more


ODD = [
    row(),
    row(metrics={"x/loss": None, "n": 3, "low": -0.0}, intervals={"x/loss": [0.1, 5e-324]}),
    row(metrics={"x/loss": 1, "n": 2.5, "low": 10**30}, intervals={"x/loss": [0, 0.5]}, lr=1),
    row(metrics={}, timings={"train_s": float("inf")}, ratio="4", reused_from="é/b", note=None),
    {
        "id": "b",
        "hash": "",
        "status": "failed",
        "error": "<a>\n",
        "more": {"x": [{}]},
        "flag": True,
    },
]


def text(found):
    """As a ledger's file holds it, with the order of keys."""
    return [json.dumps(one) for one in found]


def test_a_table_returns_the_rows_that_were_written(tmp_path):
    expected = [json.dumps(one, sort_keys=True) for one in ODD]
    for name in ("a", "b"):
        rows.write(ODD, tmp_path / name)
        assert text(rows.read(tmp_path / name)) == expected
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    rows.write([], tmp_path / "empty")
    assert rows.read(tmp_path / "empty") == []


def refusal(path):
    """Why a table is refused; empty where it is not."""
    try:
        rows.read(path)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_damaged_table_is_refused_in_one_sentence(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    rows.write(ODD, good)
    content, rng, refused = good.read_bytes(), random.Random(0), 0
    for _ in range(300):
        at = rng.randrange(len(content))
        cut = content[:at] if rng.random() < 0.1 else content[:at] + b"\xa5" + content[at + 1 :]
        bad.write_bytes(cut)
        message = refusal(bad)
        refused += bool(message)
        if message:
            assert message.startswith(f"{bad}: ")
            assert len(message.splitlines()) == 1
        else:
            assert text(rows.read(bad)) == text(rows.read(good))
    assert refused > 200


def test_another_table_and_another_version_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(ConfigError, match=r"a\.parquet: no table of finished jobs; expected rows"):
        rows.read(path)
    marks = {"jaxcomp_rows": "2", "sha256": ""}
    pq.write_table(pa.table({"id": ["a"]}).replace_schema_metadata(marks), path)
    with pytest.raises(ConfigError, match=r"a\.parquet: a table of version 2, expected 1"):
        rows.read(path)
    pq.write_table(
        pa.table({"id": ["a"]}).replace_schema_metadata(marks | {"jaxcomp_rows": "1"}), path
    )
    with pytest.raises(ConfigError, match=r"a\.parquet: damaged .*rest"):
        rows.read(path)


def test_a_value_that_no_row_may_hold_is_named(tmp_path):
    rows.write([row(), row(metrics={"x/loss": "low"})], tmp_path / "a.parquet")
    expected = r"a\.parquet: row 1: metrics\.x/loss = \"low\", expected a finite number"
    with pytest.raises(ConfigError, match=expected):
        rows.finished(grid.expand(config()), [tmp_path])


THEN = {now: then for then, now in FORMER.items()}


def named_then(column: str) -> str:
    return "/".join(THEN.get(part, part) for part in column.split("/"))


def as_it_was(one):
    """A row with the names of metrics before December 2026."""
    return one | {
        group: {named_then(name): value for name, value in one[group].items()}
        for group in ("metrics", "intervals")
        if group in one
    }


def test_rows_with_former_names_are_taken_over(tmp_path):
    """A workdir and a table of before December 2026 give what the committed table gives."""
    wanted = grid.expand(overrides.load("configs/tiny.py"))
    found = rows.finished(wanted, [COMMITTED / "tiny.parquet"])
    rows.write([as_it_was(one) for _, one in found], tmp_path / "tiny.parquet")
    (tmp_path / "old" / "ledger").mkdir(parents=True)
    for job, one in found:
        content = json.dumps(as_it_was(one) | {"reused_from": "old"})
        (tmp_path / "old" / "ledger" / f"{job.id}.json").write_text(content)
    assert "counterfactual/slots/all/kept" in as_it_was(found[0][1])["metrics"]
    for place in ("tiny.parquet", "old"):
        again = rows.finished(wanted, [tmp_path / place])
        numbers = {job.id: (one["metrics"], one.get("intervals")) for job, one in again}
        assert numbers == {job.id: (one["metrics"], one.get("intervals")) for job, one in found}


def test_the_committed_tables_hold_every_row():
    lines, counts = [], {}
    for name in ("recipes", "text", "tiny", "tiny_controls"):
        found = rows.read(COMMITTED / f"{name}.parquet")
        counts[name] = dict(Counter(one.pop("sweep") for one in found))
        lines += [json.dumps(as_it_was(one), sort_keys=True) for one in found]
    assert counts == {
        "recipes": {"recipes": 13, "recipes-text": 13},
        "text": {"text": 9},
        "tiny": {"full": 135, "reference-2": 81},
        "tiny_controls": {
            **dict.fromkeys(("bases-0.5", "bases-0.8", "bases-0.5-2", "text-0.8", "text-0.95"), 9),
            **dict.fromkeys(("text-0.8-2", "text-0.95-2", "split", "scrambled", "untrained"), 9),
            **dict.fromkeys(("decoder-qwen3", "decoder-small", "decoder-large", "same"), 18),
        },
    }
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == DIGEST


@pytest.mark.parametrize(
    ("name", "fields", "table", "jobs"),
    [
        ("tiny", [], "tiny", 15),
        ("tiny:full", [], "tiny", 135),
        ("tiny:full,reference=2", [("sweep.lr_grid", "[]")], "tiny", 81),
        ("recipes", [], "recipes", 12),
        ("paradox:bases=0.5", [], "tiny_controls", 9),
        ("paradox:bases=0.8,text=0.8,reference=2", [], "tiny_controls", 9),
        ("paradox", [], "tiny_controls", 9),
        ("controls:control=split", [], "tiny_controls", 9),
        ("controls:control=mismatch,text=untrained", [], "tiny_controls", 9),
        ("controls:control=decoder,decoder=qwen3", [], "tiny_controls", 18),
    ],
)
def test_committed_rows_are_those_of_the_configs(name, fields, table, jobs):
    file, mark, argument = name.partition(":")
    wanted = grid.expand(overrides.load(f"configs/{file}.py{mark}{argument}", fields))
    found = {job.id for job, _ in rows.finished(wanted, [COMMITTED / f"{table}.parquet"])}
    assert len(found) == len(wanted) == jobs
