"""Training text in a bucket: read by row group, known by what the bucket says of it."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_gcs import bucket, server

from jaxcomp.cli.validate import validate
from jaxcomp.config import Config, ConfigError, DataConfig
from jaxcomp.data import parquet
from jaxcomp.data.documents import DataError
from jaxcomp.data.large import LargeDocuments
from jaxcomp.data.sources import load_documents
from jaxcomp.runtime import files
from jaxcomp.runtime.errors import StorageError

_NAMES = itertools.count()


def web(rows=60, groups=3, count=2):
    """A bucket with parquet files, and the same texts in order."""
    name = f"web{next(_NAMES)}"
    place, texts = bucket(name), []
    for f in range(count):
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, pa.schema([("text", pa.string())])) as writer:
            for g in range(groups):
                found = [f"{f} {g} {i} " + "word " * 400 for i in range(rows)]
                texts += found
                writer.write_table(pa.table({"text": found}))
        server().put(name, f"d/{f}.parquet", sink.getvalue().to_pybytes())
    return name, f"{place}/d/*.parquet", texts


def load(path):
    return load_documents(DataConfig(source="text", path=path))


@pytest.mark.parametrize("most", [1 << 30, 1000])
def test_parquet_files_are_read_from_the_bucket(monkeypatch, most):
    monkeypatch.setattr(parquet, "LARGE", most)
    _, path, texts = web()
    docs = load(path)
    assert isinstance(docs, LargeDocuments) == (most == 1000)
    assert [d.text for d in docs] == texts


def test_one_row_group_is_read_for_the_documents_of_one(monkeypatch):
    monkeypatch.setattr(parquet, "LARGE", 1000)
    name, path, _ = web(count=1)
    # Incompressible, so that the bytes asked for can be told apart.
    rng = np.random.default_rng(0)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, pa.schema([("text", pa.string())])) as writer:
        for _ in range(4):
            rows = ["".join(map(chr, rng.integers(97, 123, 4000))) for _ in range(50)]
            writer.write_table(pa.table({"text": rows}))
    whole = sink.getvalue().to_pybytes()
    server().put(name, "d/0.parquet", whole)
    docs = load(path)
    assert isinstance(docs, LargeDocuments)
    sent = []
    real = parquet._Columns.texts
    monkeypatch.setattr(parquet._Columns, "texts", lambda *a: sent.append(a[1]) or real(*a))
    assert len(docs.part(60, 70)) == 10
    assert [g.number for g in sent] == [1]


def test_the_bucket_is_listed_once_for_all_jobs_and_its_checksums_name_the_files():
    name, path, _ = web()
    found = files.matching(path)
    assert found == [f"gs://{name}/d/0.parquet", f"gs://{name}/d/1.parquet"]
    before = len(server().requests)
    digests = [files.digest(f) for f in found]
    assert files.matching(path) == found
    assert len(server().requests) == before
    assert digests[0].startswith("0.parquet:")
    assert len(set(digests)) == 2
    assert files.size_of(found[0]) == len(server().buckets[name]["d/0.parquet"].body)
    assert files.is_file(found[0])
    assert not files.is_file(f"gs://{name}/d/2.parquet")


def test_jsonl_in_a_bucket():
    name = "lines"
    bucket(name)
    server().put(name, "a.jsonl", b'{"text": "one"}\n{"text": "two"}\n')
    assert [d.text for d in load("gs://lines/a.jsonl")] == ["one", "two"]


def test_bad_places_are_one_error_before_any_work():
    name, _, _ = web(count=1)
    bad = Config(data=DataConfig(source="text", path=f"gs://{name}/other/*.parquet"))
    with pytest.raises(ConfigError, match=r"no such file; .*a glob that matches some"):
        validate(bad)
    with pytest.raises(DataError, match="no such file"):
        load(f"gs://{name}/other/*.parquet")
    with pytest.raises(StorageError, match="there is no bucket missing"):
        load("gs://missing/*.parquet")
    server().forbidden.add(name)
    with pytest.raises(StorageError, match=f"no permission in the bucket {name}"):
        load(f"gs://{name}/else/*.parquet")
    server().forbidden.clear()


def test_a_cut_file_in_a_bucket_is_named():
    name, path, _ = web(count=1)
    whole = server().buckets[name]["d/0.parquet"].body
    server().put(name, "d/0.parquet", whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"gs://{name}/d/0\.parquet: not a readable parquet"):
        load(path)


def test_permission_lost_on_the_way_is_no_damaged_file(monkeypatch):
    monkeypatch.setattr(parquet, "LARGE", 1000)
    name, path, _ = web(count=1)
    docs = load(path)
    server().forbidden.add(name)
    with pytest.raises(StorageError, match=f"no permission in the bucket {name}"):
        list(docs)
    server().forbidden.clear()
