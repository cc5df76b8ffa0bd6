"""Damaged files of a sweep: each is read as it is, or refused in one sentence that names it."""

import copy
import json
import random
import shutil

import pytest
import sweep_stub

from jaxcomp.analysis import charts
from jaxcomp.analysis.report import report
from jaxcomp.cli import main, overrides
from jaxcomp.sweep import grid
from jaxcomp.sweep.store import Ledger

ODD = (
    None, True, 0, -1, 3, 1.5, 1e308, -1e308, float("nan"), float("inf"), 10**30, 10**400,
    "", "done", "a/b", "\ud800", "5", [], [1], [1, 2, 3], [[]], ["x", None], {}, {"a": {}},
)  # fmt: skip
CASES = 300
METRICS = ("ordinary/loss", "counterfactual/nonfavourite/all/preserved")


def places(tree, at=()):
    """Every place in a tree, as the keys that lead there."""
    yield at
    if isinstance(tree, dict | list):
        inside = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in inside:
            yield from places(value, (*at, key))


def damaged(valid, seed):
    """The JSON of `valid` with one or two places replaced, removed or added, or its text cut."""
    rng = random.Random(seed)
    tree = {"": copy.deepcopy(valid)}
    for _ in range(rng.choice((1, 1, 2))):
        *way, last = rng.choice([p for p in places(tree) if p])
        node = tree
        for key in way:
            node = node[key]
        kind = rng.random()
        if kind < 0.2 and way:
            del node[last]
        elif kind < 0.3 and isinstance(node, dict):
            node[rng.choice(("\ud800", "hash", "x"))] = copy.deepcopy(rng.choice(ODD))
        else:
            node[last] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(tree.get("", [])).encode()
    kind = rng.random()
    if kind < 0.05:
        text = text[: rng.randrange(len(text) + 1)]
    elif kind < 0.1:
        at = rng.randrange(len(text) + 1)
        odd = rng.choice((b"\xff", b"\x00", b'"', b"[" * 100_000, b"9" * 5000, b"\n\n"))
        text = text[:at] + odd + text[at:]
    return text


def read_or_refused(do, name):
    """Returns whether it was refused."""
    try:
        do()
    except Exception as error:
        message = main.expected(error)
        if message is None:
            raise
        assert name in message
        assert len(message.splitlines()) == 1
        return True
    return False


@pytest.fixture
def done(tmp_path):
    """A finished sweep of stand-in jobs, with records of passages."""
    cfg = sweep_stub.config()
    ledger = Ledger(tmp_path)
    ledger.open(cfg)
    for job in grid.expand(cfg):
        value = job.setup.ratio / (8 + job.base_seed) + len(job.setup.size)
        metrics = {"params": 1000 * grid.model(job.config).hidden_size, "params_body": 10}
        metrics |= {"val_loss": value, METRICS[0]: value, METRICS[1]: 0.5, "left_out": None}
        row = {"metrics": metrics, "intervals": {METRICS[0]: [value - 1, value + 1]}}
        ledger.write(job, "done", timings={"train_s": 1.5}, **row)
        folder = tmp_path / "jobs" / job.id
        folder.mkdir(parents=True)
        lines = [json.dumps(r | {"loss": value}) for r in RECORDS]
        (folder / "passages.jsonl").write_text("".join(line + "\n" for line in lines))
    return cfg, tmp_path


RECORDS = [
    {"id": i, "set": name, "loss": 0.0, "targets": 3, "counts": counts}
    for i in range(3)
    for name, counts in (
        ("ordinary", {}),
        ("counterfactual", {"nonfavourite/all/preserved": 2, "nonfavourite/all/omitted": 2}),
    )
]


@pytest.mark.slow
def test_damaged_rows_of_a_ledger(done, monkeypatch):
    cfg, workdir = done
    monkeypatch.setattr(charts, "png", lambda *_: b"")  # of seconds, and no file's
    monkeypatch.setattr(charts, "pdf", lambda *_: b"")
    job = grid.expand(cfg)[0].id
    path = workdir / "ledger" / f"{job}.json"
    valid = json.loads(path.read_text())
    failed = {k: v for k, v in valid.items() if k not in ("metrics", "intervals", "timings")}
    refused = 0
    for seed in range(CASES):
        base = valid if seed % 4 else failed | {"status": "failed", "error": "no memory"}
        path.write_bytes(damaged(base, seed))
        refused += read_or_refused(lambda: report(cfg, workdir), f"ledger/{job}.json")
    assert CASES / 4 < refused < CASES
    other = workdir / "other"

    def reuse():
        sweep_stub.run(cfg, other, reuse=[workdir], work=Nothing())

    for seed in range(CASES):
        path.write_bytes(damaged(valid, seed))
        if read_or_refused(reuse, f"ledger/{job}.json"):
            assert not other.exists()
        shutil.rmtree(other, ignore_errors=True)


class Nothing(sweep_stub.StubWork):
    def tasks(self, jobs, workdir):
        return []


@pytest.mark.slow
def test_damaged_records_of_passages(done, monkeypatch):
    cfg, workdir = done
    monkeypatch.setattr(charts, "png", lambda *_: b"")
    monkeypatch.setattr(charts, "pdf", lambda *_: b"")
    path = workdir / "jobs" / grid.expand(cfg)[0].id / "passages.jsonl"
    lines = path.read_bytes().splitlines()
    refused = 0
    for seed in range(CASES):
        odd = damaged(json.loads(lines[seed % 6]), seed)
        path.write_bytes(b"\n".join([*lines[: seed % 6], odd, *lines[seed % 6 + 1 :], b""]))
        refused += read_or_refused(lambda: report(cfg, workdir), "passages.jsonl")
    assert refused > CASES / 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("[]", "holds a list [...], expected an object {...}"),
        ({"metrics": None}, "metrics = null, expected an object"),
        ({"metrics": {}}, "metrics.params = null, expected a number"),
        ({"intervals": {"a": [1]}}, "intervals.a = [1], expected two finite numbers"),
        ({"timings": {"train_s": "1"}}, 'timings.train_s = "1", expected a finite number'),
        ({"hash": 3}, "hash = 3, expected text"),
        ({"status": "\ud800"}, "half a surrogate pair"),
        ({"status": "begun"}, 'status = "begun", expected done or failed'),
        ({"status": "failed"}, "error = null, expected text"),
    ],
)
def test_a_damaged_row_is_one_sentence(done, change, says):
    cfg, workdir = done
    path = workdir / "ledger" / f"{grid.expand(cfg)[0].id}.json"
    whole = change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change)
    path.write_text(whole)
    with pytest.raises(overrides.ConfigError) as error:
        report(cfg, workdir)
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)
    assert str(error.value).endswith("; delete it and run the sweep again")
    path.unlink()
    assert report(cfg, workdir).missing == (path.stem,)
