"""Prepared sets, and text that is mapped in place of read into memory."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_configs import BATCH, assert_same, draw, text_config, write_prose

from jaxcomp.cli.main import main
from jaxcomp.config import DataConfig
from jaxcomp.data import blocks, corpus, loading, prepare
from jaxcomp.data.batches import data_tokenizer, lm_batches, train_batches
from jaxcomp.data.documents import DataError
from jaxcomp.data.splits import split_documents
from jaxcomp.data.stream import WindowIterator
from jaxcomp.data.world import World
from jaxcomp.runtime.cache import cache_dir

WORDS = [w for w in World().words() if w.isalpha()]


def texts(count):
    rng = np.random.default_rng(0)
    return [f"{' '.join(rng.choice(WORDS, 40 + n % 60))} {n}" for n in range(count)]


def write(folder, kind="parquet", count=600):
    """Three files of real words; every text is unique."""
    rows = [{"text": t, "id": f"w{i // 4}-{i}", "title": f"w{i // 4}"}
            for i, t in enumerate(texts(count))]  # fmt: skip
    for i in range(3):
        some = rows[i * count // 3 : (i + 1) * count // 3]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(some), folder / f"{i}.parquet", row_group_size=40)
        else:
            (folder / f"{i}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    return str(folder / f"*.{kind}")


@pytest.fixture(params=["parquet", "jsonl"])
def large(request, tmp_path, monkeypatch):
    """A path to text that is too large for memory, in a cache of its own."""
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "IN_MEMORY", 1000)
    monkeypatch.setattr(blocks, "SHARDS", 8)
    monkeypatch.setattr(corpus, "DOCUMENTS", 16)
    corpus._splits_of.cache_clear()
    yield write(tmp_path, request.param)
    corpus._splits_of.cache_clear()


# Mapped documents


def test_large_text_is_the_same_documents_and_splits(large, monkeypatch):
    data = DataConfig(source="text", path=large)
    mapped = loading.load(data)
    assert list((cache_dir() / "documents").glob("*.arrow"))
    splits = {n: [d.id for d in p] for n, p in split_documents(mapped).items()}
    monkeypatch.setattr(loading, "IN_MEMORY", 1 << 30)
    monkeypatch.setenv("JAXCOMP_CACHE", str(cache_dir() / "other"))
    held = loading.load(data)
    assert list(mapped) == list(held)
    assert mapped.fingerprint == held.fingerprint
    assert splits == {n: [d.id for d in p] for n, p in split_documents(held).items()}
    works = {n: {i.split("-")[0] for i in ids} for n, ids in splits.items()}
    assert sum(len(w) for w in works.values()) == len(set.union(*works.values())) == 150


def test_large_text_is_read_once_and_a_damaged_copy_again(large, monkeypatch, caplog):
    data = DataConfig(source="text", path=large)
    wanted = list(loading.load(data))
    copies = sorted((cache_dir() / "documents").glob("*.arrow"))
    with monkeypatch.context() as patch:
        patch.setattr(loading, "_batches", None)
        assert list(loading.load(data)) == wanted
    copies[0].write_bytes(copies[0].read_bytes()[:1000])
    assert list(loading.load(data)) == wanted
    assert "this file of the cache is damaged" in caplog.text


def test_no_room_for_large_text_is_one_error(large, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write the documents of .*set JAXCOMP_CACHE"):
        loading.load(DataConfig(source="text", path=large))


# Prepared sets


def test_shards_hold_the_blocks_and_each_example_comes_once_an_epoch(large):
    cfg = text_config(large)
    tok = data_tokenizer(cfg)
    text = corpus.corpus(cfg)
    made = prepare.example_blocks(cfg, tok, tok, text)
    assert made.per_shard == 5
    made.prepare(range(len(made)))
    assert not made.missing()
    assert len(list(made.folder.glob("*.array_record"))) == 7
    for number in range(len(made)):
        examples, counts = text.examples(number, tok, tok)
        said = [prepare.Said(n, e.continuation) for n, e in enumerate(examples)]
        fresh = prepare.block_of(examples, said, counts, cfg, np.uint16)
        assert all((a == b).all() for a, b in zip(made[number], fresh, strict=True))
    count = sum(len(made[i].ctx_NGT) for i in range(len(made)))
    rows = [r.tobytes() for b in draw(train_batches(cfg, tok, tok), -(-2 * count // BATCH))
            for r in b.ctx_BGT]  # fmt: skip
    assert sorted(rows[:count]) == sorted(rows[count : 2 * count])
    assert rows[:count] != rows[count : 2 * count]
    order = blocks.Order(made, (0, 0), permute=True)
    assert sorted(order.epoch()) == list(range(len(made)))


@pytest.mark.parametrize("kind", ["train", "lm"])
def test_any_number_of_hosts_draws_the_same_batches_and_resumes_for_another(large, kind):
    cfg = text_config(large)
    tok = data_tokenizer(cfg)

    def make(rows=((0, BATCH),), state=None):
        lm = kind == "lm"
        made = lm_batches(cfg, cfg.pretrain, tok) if lm else train_batches(cfg, tok, tok)
        made._rows = list(rows)
        if state is not None:
            made.set_state(json.loads(json.dumps(state)))
        return made

    def shares(hosts):
        return [((h * BATCH // hosts, (h + 1) * BATCH // hosts),) for h in range(hosts)]

    def together(parts):
        steps = zip(*parts, strict=True)
        return [type(p[0])(*map(np.concatenate, zip(*p, strict=True))) for p in steps]

    whole = draw(make(), 16)
    two = [make(rows) for rows in shares(2)]
    assert_same(together([draw(host, 7) for host in two]), whole[:7])
    states = [host.get_state() for host in two]
    assert states[0] == states[1]
    four = [make(rows, states[0]) for rows in shares(4)]
    assert_same(together([draw(host, 9) for host in four]), whole[7:])


def test_an_epoch_without_a_row_is_an_error():
    iterator = WindowIterator(lambda w: SimpleNamespace(rows=0), tuple, 2, 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="4 blocks of documents in a row give no example"):
        next(iterator)


# The command


def test_prepare_makes_what_a_sweep_reads_and_again_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    prose = write_prose(tmp_path)
    argv = ["prepare", "--config=text", f"--data.path={prose}", "--workers=2",
            "--data.vocab_size=400", "--data.segment=64"]  # fmt: skip
    assert main(argv) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in said] == [
        "1 blocks"
    ] * 2  # examples, and for pretraining
    files = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.array_record")}
    assert len(files) == 2
    assert main(argv) == 0
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.array_record")} == files
    assert main(["prepare", "--config=tiny"]) == 0
    assert "nothing to prepare" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_it_goes_on_and_makes_what_one_process_makes_without_a_stop(tmp_path):
    rows = "".join(json.dumps({"text": t, "id": f"{i}x"}) + "\n" for i, t in enumerate(texts(3000)))
    (tmp_path / "a.jsonl").write_text(rows)
    command = [sys.executable, "-m", "jaxcomp", "prepare", "--config=text", "--workers=2",
               f"--data.path={tmp_path / 'a.jsonl'}", "--data.vocab_size=300"]  # fmt: skip

    def env(cache):
        return os.environ | {"JAXCOMP_CACHE": str(tmp_path / cache), "JAX_PLATFORMS": "cpu"}

    def made(cache):
        return {f.name: f.read_bytes() for f in (tmp_path / cache).rglob("*.array_record")}

    first = subprocess.Popen(command, cwd=tmp_path, env=env("cut"), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while len(made("cut")) < 2:
        assert first.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    first.kill()
    first.wait()
    for cache, more in (("cut", []), ("whole", ["--workers=1"])):
        subprocess.run([*command, *more], cwd=tmp_path, env=env(cache), check=True)
    assert made("cut") == made("whole")
