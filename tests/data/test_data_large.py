"""Sets that do not fit into memory: parquet by row group, TFDS by record."""

import dataclasses
import itertools
import json
import os
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_configs import BATCH, assert_same, draw, text_config, world_config

from jaxcomp.config import DataConfig
from jaxcomp.data import batches as pipeline
from jaxcomp.data import keeping, large, parquet, prepare
from jaxcomp.data import tfds as tfds_sets
from jaxcomp.data.batches import data_tokenizer, eval_examples, lm_batches, train_batches
from jaxcomp.data.documents import DataError
from jaxcomp.data.large import LargeDocuments
from jaxcomp.data.sources import load_documents
from jaxcomp.data.splits import split_documents
from jaxcomp.data.stream import Order, WindowIterator, furthest
from jaxcomp.data.world import World
from jaxcomp.runtime.cache import keep_small

WORDS = [w for w in World().words() if w.isalpha()]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(prepare, "DOCUMENTS", 8)
    monkeypatch.setattr(parquet, "LARGE", 1000)
    monkeypatch.setattr(prepare, "FEWER_DOCUMENTS", 4)
    monkeypatch.setattr(large, "POOL", 60_000)
    monkeypatch.setattr(large, "LANES", 4)
    prepare._splits_of.cache_clear()  # what is large differs between tests of the same files


def write(folder, files=3, groups=5, rows=40, **columns):
    """Files of real words; the text of every row begins with its number, and is unique."""
    rng, number = np.random.default_rng(0), itertools.count()
    for f in range(files):
        schema = None
        for _ in range(groups):
            texts = [
                f"{' '.join(rng.choice(WORDS, 40 + n % 60))} {n}"
                for n in itertools.islice(number, rows)
            ]
            table = pa.table({"text": texts} | {k: v(texts) for k, v in columns.items()})
            if schema is None:
                schema = table.schema
                writer = pq.ParquetWriter(folder / f"{f:03d}.parquet", schema)
            writer.write_table(table)
        writer.close()
    return str(folder / "*.parquet")


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return write(tmp_path_factory.mktemp("web"))


def load(path, **fields):
    found = load_documents(DataConfig(source="text", path=path, **fields))
    assert isinstance(found, LargeDocuments)
    return found


def numbers(docs):
    return [int(d.text.rsplit(" ", 1)[1]) for d in docs]


def test_footers_are_all_that_loading_and_splitting_read(web, monkeypatch):
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    docs = load(web)
    assert len(docs) == 600
    assert sum(map(len, split_documents(docs).values())) > 550


def test_splits_are_disjoint_runs_of_rows_and_a_function_of_data_and_seed(web):
    found = split_documents(load(web))
    rows = {name: numbers(part) for name, part in found.items()}
    every = list(itertools.chain(*rows.values()))
    assert len(set(every)) == len(every)
    assert len(rows["train"]) > 480
    assert min(len(rows["val"]), len(rows["test"])) >= 5
    assert {n: numbers(p) for n, p in split_documents(load(web)).items()} == rows
    assert numbers(split_documents(load(web), seed=1)["test"]) != rows["test"]
    assert len({d.id for p in found.values() for d in p}) == len(every)


def test_a_part_is_what_iterating_gives(web):
    found: Any = split_documents(load(web))
    docs = found["train"].shuffled(0)
    whole = numbers(docs)
    for start, stop in ((0, 8), (3, 95), (len(docs) - 5, len(docs) + 5)):
        assert numbers(docs.part(start, stop)) == whole[start:stop]


def test_works_stay_together_and_only_their_column_is_read(tmp_path, monkeypatch):
    def titles(texts):
        return [f"work {int(t.rsplit(' ', 1)[1]) % 70}" for t in texts]

    path = write(tmp_path, title=titles)
    real = pq.ParquetFile.read_row_group

    def only_titles(self, number, columns):
        assert columns == ["title"]
        return real(self, number, columns=columns)

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "read_row_group", only_titles)
        found = split_documents(load(path))
    works = {name: {n % 70 for n in numbers(part)} for name, part in found.items()}
    assert sum(len(w) for w in works.values()) == len(set.union(*works.values())) == 70
    assert sum(map(len, found.values())) == 600
    assert [len(p) for p in found.values()] == [len(list(p)) for p in found.values()]


def test_few_sources_are_no_reason_to_hold_one_out_but_many_are(tmp_path):
    for count, together in ((4, False), (30, True)):
        folder = tmp_path / str(count)
        folder.mkdir()

        def source(texts, count=count):
            return [f"s{int(t.rsplit(' ', 1)[1]) % count}" for t in texts]

        found = split_documents(load(write(folder, source=source)))
        of = {name: {n % count for n in numbers(part)} for name, part in found.items()}
        assert of["train"].isdisjoint(of["test"]) == together


def test_every_row_group_is_read_once_an_epoch_and_every_example_comes_once(web, monkeypatch):
    read = Counter()
    real = parquet._Columns.texts

    def texts(self, group):
        read[group] += 1
        return real(self, group)

    monkeypatch.setattr(parquet._Columns, "texts", texts)
    cfg = text_config(web)
    tok = data_tokenizer(cfg)
    docs: Any = pipeline.train_documents(cfg)
    order = Order(
        prepare.example_blocks(cfg, tok, tok, docs), (cfg.data.seed, cfg.seed), permute=True
    )
    assert len(order.lanes) == 4
    assert max(order.lanes) <= min(order.lanes) + 1
    read.clear()
    docs.held._groups.clear()
    seen = [order.blocks[number] for number in order.epoch()]
    assert max(read.values()) <= 2  # a block may lie across the border of two pools or lanes
    assert sum(read.values()) <= 1.3 * len(docs.groups)
    epochs = [
        [
            order.number(lane, w)
            for lane, n in enumerate(order.lanes)
            for w in range(s * n, s * n + n)
        ]
        for s in (0, 1)
    ]
    assert epochs[0] == list(order.epoch())
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(len(seen)))
    assert epochs[0] != epochs[1]
    assert sum(int(b.counts[0]) for b in seen) == len(docs)


def test_memory_holds_a_bounded_part_of_the_text(web):
    docs = load(web)
    for _ in docs:
        assert sum(g.size for g in docs.held._groups) <= docs.held.room < 300_000


def test_training_tokenises_only_what_it_draws_and_keeps_no_blocks(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "cache"))
    cfg = text_config(write(tmp_path))
    tok = data_tokenizer(cfg)
    made = []
    real = prepare.text_pieces
    monkeypatch.setattr(prepare, "text_pieces", lambda *a: made.append(1) or real(*a))
    batches = train_batches(cfg, tok, tok)
    assert len(made) == 1
    draw(batches, 1)
    assert len(made) <= 2 * large.LANES + 1
    assert not list((tmp_path / "cache" / "blocks").rglob("*.npz"))
    assert len(eval_examples(cfg, "test", tok, tok)) == 10


def test_blocks_that_are_wanted_soon_are_made_ahead_and_once():
    made = []

    def make(n: int) -> Any:
        made.append(n)
        return n

    found = prepare.Blocks(prepare.LmBlock, "k", 9, make, np.array([0, 9]))
    found.ahead(0, [3, 4])
    found.ahead(1, [6])
    assert (found[3], found[4], found[3]) == (3, 4, 3)
    found.ahead(0, [4, 5])
    assert (found[5], found[6]) == (5, 6)
    assert made == [3, 4, 6, 5]


# Hosts and resuming: for every source that a state can be in.


@pytest.fixture(params=["text", "parquet", "large", "lm text", "lm large"])
def make(request, web, tmp_path, monkeypatch):
    """A function that makes the batches of one kind of source."""
    kind = request.param
    if "large" not in kind:
        monkeypatch.setattr(parquet, "LARGE", 1 << 30)
    path = web
    if "text" in kind:
        path = str(tmp_path / "x.jsonl")
        with open(path, "w") as f:
            for d in load_documents(DataConfig(source="text", path=web)):
                f.write(json.dumps({"text": d.text, "id": f"{d.id}x"}) + "\n")
    cfg = text_config(path)
    tok = data_tokenizer(cfg)

    def batches():
        if "lm" in kind:
            return lm_batches(cfg, cfg.pretrain, tok)
        return train_batches(cfg, tok, tok)

    return batches


def on_hosts(make, hosts, count, state=None):
    """The shares of all hosts put together again, and the state each ended in."""
    shares, states = [], []
    for host in range(hosts):
        iterator = make()
        iterator._rows = [(host * BATCH // hosts, (host + 1) * BATCH // hosts)]
        if state is not None:
            iterator.set_state(state)
        shares.append(draw(iterator, count))
        states.append(iterator._at)
    together = [
        type(parts[0])(*(np.concatenate(x) for x in zip(*parts, strict=True)))
        for parts in zip(*shares, strict=True)
    ]
    # What `everywhere` gathers in a real run (tests/runtime).
    iterator._at = furthest(np.array(states)).tolist()
    return together, json.loads(json.dumps(iterator.get_state()))


def test_any_number_of_hosts_draws_the_same_global_batches(make):
    whole = draw(make(), 16)
    assert len(whole[0][0]) == BATCH
    for hosts in (1, 2, 4, 8):
        assert_same(on_hosts(make, hosts, 16)[0], whole)


def test_a_state_saved_by_two_hosts_goes_on_with_four(make):
    whole = draw(make(), 16)
    first, state = on_hosts(make, 2, 7)
    assert_same(first, whole[:7])
    assert_same(on_hosts(make, 4, 9, state)[0], whole[7:])


def test_a_host_reads_and_tokenises_its_share(web, monkeypatch):
    cfg = text_config(web)
    tok = data_tokenizer(cfg)
    docs: Any = pipeline.train_documents(cfg)
    read, threads = [], []
    real, executor = prepare.text_pieces, keeping.ThreadPoolExecutor
    monkeypatch.setattr(
        prepare, "text_pieces", lambda d, *a: read.extend(x.id for x in d) or real(d, *a)
    )
    monkeypatch.setattr(
        keeping, "ThreadPoolExecutor", lambda n: threads.append(executor(n)) or threads[-1]
    )
    shares = []
    for host in range(2):
        iterator = train_batches(cfg, tok, tok)
        iterator._rows = [(host * BATCH // 2, (host + 1) * BATCH // 2)]
        read.clear()
        for _ in range(500):
            next(iterator)
            if iterator._at[2 * host][0] >= iterator._lanes[2 * host]:
                break
        threads.pop().shutdown()  # waits for what this host still reads ahead
        shares.append(set(read))
    assert len(shares[0] | shares[1]) > 0.9 * len(docs)
    assert len(shares[0] & shares[1]) == 0


@pytest.mark.parametrize(
    ("batch", "wide", "documents", "lanes"),
    [(256, 1 << 30, 5000, 32), (24, 1 << 30, 5000, 8), (7, 1 << 30, 5000, 1),
     (256, 1 << 30, 2000, 8), (256, 1 << 20, 5000, 4), (256, 1000, 5000, 1)],
)  # fmt: skip
def test_lanes_divide_the_batch_and_fit_into_memory(batch, wide, documents, lanes, monkeypatch):
    monkeypatch.setattr(large, "LANES", 32)
    monkeypatch.setattr(large, "WIDE", wide)
    groups = [large.Group("f", i, 100, 1 << 18, 100 * i) for i in range(documents // 100)]
    reader: Any = None
    docs = LargeDocuments(groups, large.Held(reader, groups), "x")
    assert docs.lanes(32, batch) == lanes
    assert docs.held.room >= lanes * (1 << 18)


def test_a_state_of_other_lanes_and_a_lane_without_examples_are_said(web):
    cfg = text_config(web)
    tok = data_tokenizer(cfg)
    with pytest.raises(DataError, match="stood in 1 lanes, this run has 4"):
        train_batches(cfg, tok, tok).set_state({"window": 3, "row": 1})

    class Empty:
        rows = 0

        def take(self, lo, hi):
            raise AssertionError

    with pytest.raises(DataError, match="4 blocks of documents in a row give no example"):
        next(WindowIterator(lambda lane, w: Empty(), pipeline.Batch, 2, (3, 3)))


# Bad files


def test_a_cut_file_and_text_that_is_not_utf8_are_named(tmp_path, monkeypatch):
    path = write(tmp_path, files=1)
    whole = (tmp_path / "000.parquet").read_bytes()
    (tmp_path / "000.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"000\.parquet: not a readable parquet file"):
        load(path)
    middle = len(whole) // 2
    (tmp_path / "000.parquet").write_bytes(whole[:middle] + b"\0" * 2000 + whole[middle + 2000 :])
    with pytest.raises(DataError, match=r"000\.parquet: .*is it complete|damaged|not UTF-8"):
        list(load(path))
    raw = pa.array([b"fine", b"caf\xe9", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    bad = str(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"text": text}), bad)
    for most in (1 << 30, 1):
        monkeypatch.setattr(parquet, "LARGE", most)
        with pytest.raises(DataError, match=r"bad\.parquet: row 1: not UTF-8 at byte 3"):
            list(load_documents(DataConfig(source="text", path=bad)))


def test_too_few_rows_to_split(tmp_path, monkeypatch):
    path = write(tmp_path, files=1, groups=1, rows=2)
    monkeypatch.setattr(parquet, "LARGE", 1)
    with pytest.raises(DataError, match="cannot be split into unseen works"):
        split_documents(load(path))


# TFDS


@pytest.mark.parametrize(
    ("called", "features", "field"),
    [("c4", ("text", "timestamp", "url"), "text"), ("wikipedia", ("title", "text"), "text")],
)
def test_tfds_sets_prepared_as_array_record(tmp_path, monkeypatch, called, features, field):
    tfds = pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 80)) + f" {i}" for i in range(300)]

    class Made(tfds.core.GeneratorBasedBuilder):
        name = called
        VERSION = tfds.core.Version("3.0.1")
        pkg_dir_path = tmp_path

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({f: tfds.features.Text() for f in features})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, text in enumerate(texts):
                yield i, {f: text if f == "text" else f"{f} {i}" for f in features}

    Made(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    base = world_config(
        source="tfds", path=str(tmp_path), tfds_name=called, text_field=field,
        segment=16, segments=2, target=64, vocab_size=400,
    )  # fmt: skip
    tok = None
    for most in (1 << 20, 100):  # small, and as one of many records
        monkeypatch.setattr(tfds_sets, "LARGE_RECORDS", most)
        monkeypatch.setattr(tfds_sets, "_RECORDS", 20)
        cfg = dataclasses.replace(base, seed=most)
        docs = load_documents(cfg.data)
        assert isinstance(docs, LargeDocuments) == (most == 100)
        assert sorted(d.text for d in docs) == sorted(texts)
        prepare._splits_of.cache_clear()
        tok = tok or data_tokenizer(cfg)
        batch = next(train_batches(cfg, tok, tok))
        ids = np.concatenate([batch.ctx_BGT[0, g, : batch.ctx_len_BG[0, g]] for g in (0, 1)])
        assert any(tok.decode(ids) in text for text in texts)
    prepare._splits_of.cache_clear()


# The cache


def test_the_cache_keeps_what_was_used_last(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCOMP_CACHE_GIB", str(2500 / 2**30))
    for age, name in enumerate(("new", "old", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.npz").write_bytes(b"x" * 1000)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    keep_small(tmp_path, "old")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old"]
    monkeypatch.setenv("JAXCOMP_CACHE_GIB", "0")
    keep_small(tmp_path, "old")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
