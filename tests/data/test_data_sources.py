import gzip
import json
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxcomp.config import DataConfig
from jaxcomp.data.documents import DataError
from jaxcomp.data.readers import TXT_CHARS
from jaxcomp.data.sources import documents_by as load_documents
from jaxcomp.data.splits import split_documents


def text_config(path, **fields):
    return DataConfig(source="text", path=str(path), **fields)


def write_jsonl(file, rows):
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    file.write_bytes(gzip.compress(lines) if file.suffix == ".gz" else lines)
    return file


def rows(count, source="s", start=0):
    rng = np.random.default_rng(start)
    texts = [" ".join(map(str, rng.integers(0, 9**9, 30))) for _ in range(count)]
    return [
        {"id": f"{source}-{i}", "source": source, "text": text}
        for i, text in enumerate(texts, start)
    ]


# Reading


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl(tmp_path, name):
    wanted = [*rows(3), {"id": 7, "source": "t", "title": "Work", "text": "line\u2028one é 中"}]
    docs = load_documents(text_config(write_jsonl(tmp_path / name, wanted)))
    assert len(docs) == 4
    _, second, _, last = docs
    assert second.text == wanted[1]["text"]
    assert last == ("7", "t", "Work", "line\u2028one é 中")
    assert [d.id for d in docs.part(1, 3)] == ["s-1", "s-2"]


def test_glob_and_blank_lines_and_byte_order_mark(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", rows(2, "b"))
    write_jsonl(tmp_path / "a.jsonl", rows(2, "a"))
    raw = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + raw.replace(b"\n", b"\n\n"))
    docs = load_documents(text_config(tmp_path / "*.jsonl"))
    assert [d.id for d in docs] == ["a-0", "a-1", "b-0", "b-1"]


def test_parquet(tmp_path):
    table = pa.table({"body": ["one", "", "three é"], "id": [1, 2, 3], "other": [0.0, 1.0, 2.0]})
    pq.write_table(table, tmp_path / "x.parquet")
    docs = load_documents(text_config(tmp_path / "x.parquet", text_field="body"))
    assert [(d.id, d.text) for d in docs] == [("1", "one"), ("3", "three é")]
    with pytest.raises(DataError, match=r"no field 'text'; found body, id, other"):
        load_documents(text_config(tmp_path / "x.parquet"))
    with pytest.raises(DataError, match="field 'other' is double"):
        load_documents(text_config(tmp_path / "x.parquet", text_field="other"))
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match="cannot be read"):
        load_documents(text_config(tmp_path / "bad.parquet"))


def test_txt_loses_nothing(tmp_path):
    text = "\n\n".join(f"Paragraph {i}. " + "words and words " * (i % 40) for i in range(200))
    (tmp_path / "book.txt").write_text(text)
    docs = load_documents(text_config(tmp_path / "book.txt"))
    assert "".join(d.text for d in docs) == text
    assert max(len(d.text) for d in docs) <= TXT_CHARS
    assert [d.id for d in docs][:2] == ["book-0", "book-1"]
    assert next(iter(docs)).text.endswith("\n\n")


def test_tfds_without_tensorflow(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tmp_path

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(40):
                yield i, {"text": f"document {i} é"}

    Tiny(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    config = DataConfig(source="tfds", path=str(tmp_path), tfds_name="tiny")
    docs = load_documents(config)
    assert sorted(d.text for d in docs) == sorted(f"document {i} é" for i in range(40))
    assert sum(map(len, split_documents(docs).values())) == 40
    with pytest.raises(DataError, match="cannot be opened"):
        load_documents(DataConfig(source="tfds", path=str(tmp_path), tfds_name="absent"))
    with pytest.raises(DataError, match="no field 'body'; found text"):
        load_documents(
            DataConfig(source="tfds", path=str(tmp_path), tfds_name="tiny", text_field="body")
        )


# Bad input

LATIN = b'{"text": "a"}\n{"text": "caf\xe9"}\n'
CUT = gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:20]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: no text in 1 file"),
        ("a.jsonl", b'{"text": ""}\n', "no text in 1 file"),
        ("a.jsonl", LATIN, r"not UTF-8 at line 2, byte 27 \(0xe9"),
        ("a.txt", b"one\ntwo\n\xff", r"not UTF-8 at line 3, byte 8"),
        ("a.jsonl", b'{"body": "a", "id": 1}\n', "line 1: no field 'text'; found body, id"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", r"line 1: holds a list \[...\], expected an object"),
        ("a.jsonl", b'{"text": 5}\n', "field 'text' is int; expected text"),
        ("a.jsonl", b'{"text": "b", "title": "\\udc00"}', "line 1: .*half a surrogate pair"),
        ("a.jsonl", b'{"text": "b", "id": ' + b"9" * 5000 + b"}", "an integer of 5000 digits"),
        ("a.jsonl", b'{"text": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "nested too deep"),
        ("a.csv", b"text\n", r"a.csv: unsupported kind; expected one of .jsonl, .jsonl.gz"),
        ("a.jsonl.gz", CUT, "cannot be read"),
        ("a.jsonl.gz", b'{"text": "a"}\n', "cannot be read"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_documents(text_config(tmp_path / name))


def not_utf8(raw):
    """`raw` as Arrow's text, though it is none."""
    offsets = pa.py_buffer(np.array([0, 1, 1 + len(raw)], np.int32).tobytes())
    return pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"a" + raw))


def bad_tables():
    two = ["one", "two"]
    twice = pa.table([two, two, two], names=["text", "title", "title"])
    dates = pa.table({"text": two, "id": pa.array([2**62, 1], pa.timestamp("us"))})
    return {
        r"has 2 columns named 'title'": twice,
        r"in rows 0 to 1, the columns text cannot be read .*UTF-8": pa.table(
            {"text": not_utf8(b"\xe9")}
        ),
        r"in rows 0 to 1, the columns text, id cannot be read": dates,
    }


@pytest.mark.parametrize("message", bad_tables())
def test_bad_parquet_files(tmp_path, message):
    pq.write_table(bad_tables()[message], tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf"a\.parquet: {message}"):
        load_documents(text_config(tmp_path / "a.parquet"))


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_documents(text_config(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match="is a folder"):
        load_documents(text_config(tmp_path))


# Splits


def write_parquet(file, rows):
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def written(folder, kind, parts):
    """The same rows as one file a part."""
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(parts):
        write = write_parquet if kind == "parquet" else write_jsonl
        write(folder / f"{i}.{kind}", part)
    return folder / f"*.{kind}"


def texts_of(found):
    return {name: [d.text for d in part] for name, part in found.items()}


def sentences(count, seed=0):
    rng = np.random.default_rng(seed)
    letters = np.array(list("bcdfghklmnprst"))
    words = ["".join(rng.choice(letters, 5)) for _ in range(400)]
    return [" ".join(rng.choice(words, 30)) for _ in range(count)]


IDS = {
    "of works": [f"{work}-{i}" for work in ("alpha", "beta") for i in range(60)],
    "of many works": [f"work{w:02d}x-{i}" for w in range(40) for i in range(3)],
    "numbered through": [f"page-{i}" for i in range(120)],
    "none": None,
    "null": [None] * 120,
    "equal": ["x"] * 120,
    "three labels": [("news", "web", "books")[i % 3] for i in range(120)],
    "some missing": [None if i % 7 == 0 else f"x{i}y" for i in range(120)],
    "not numbered": [f"x{i}y" for i in range(120)],
    "numbers": list(range(1000, 1120)),
}


@pytest.mark.parametrize("more", [{}, {"source": "s"}, {"title": "work"}])
@pytest.mark.parametrize("ids", IDS)
def test_equal_content_is_split_alike_in_every_format(tmp_path, caplog, ids, more):
    data = [{"text": t} | more for t in sentences(120)]
    if "title" in more:
        data = [r | {"title": f"work {i // 4}"} for i, r in enumerate(data)]
    if IDS[ids] is not None:
        data = [{"id": i} | row for i, row in zip(IDS[ids], data, strict=True)]
    data[17]["text"], data[60]["text"] = "", " \n"
    shares = [data[:40], data[40:]]
    found = {}
    for kind in ("jsonl", "jsonl.gz", "parquet"):
        docs = load_documents(text_config(written(tmp_path / kind, kind, shares)))
        found[kind] = texts_of(split_documents(docs))
        assert len({d.id for d in docs}) == 118
    said = [r.message for r in caplog.records if "does not identify the documents" in r.message]
    assert len(said) == 3 * (ids in ("equal", "three labels", "some missing"))
    assert found["jsonl"] == found["jsonl.gz"] == found["parquet"]
    assert min(map(len, found["jsonl"].values())) >= 2


def names(docs):
    return {name: [d.id for d in part] for name, part in docs.items()}


def test_numbered_pieces_are_held_out_in_stretches_with_borders(tmp_path):
    # Rows are shuffled, as in a file whose order says nothing.
    data = rows(2000, "a") + rows(1000, "b", start=5000)
    order = np.random.default_rng(0).permutation(len(data))
    docs = load_documents(text_config(write_jsonl(tmp_path / "x.jsonl", [data[i] for i in order])))
    found = names(split_documents(docs))
    everything = list(chain(*found.values()))
    assert len(set(everything)) == len(everything)
    for source in ("a", "b"):
        number = {
            name: sorted(int(i.split("-")[1]) for i in ids if i.startswith(source))
            for name, ids in found.items()
        }
        for name in ("val", "test"):
            held = number[name]
            assert held == list(range(held[0], held[-1] + 1))
            nearest = min(abs(n - h) for n in number["train"] for h in (held[0], held[-1]))
            assert nearest > (12 if source == "a" else 6)  # an eighth of the stretch
    assert 0.85 < len(found["train"]) / len(docs) < 0.95


def test_splits_depend_on_documents_not_on_their_order_and_on_the_seed(tmp_path):
    data = [{"id": f"x{i}y", "text": f"{i} " * 20} for i in range(400)]
    one = load_documents(text_config(write_jsonl(tmp_path / "1.jsonl", data)))
    two = load_documents(text_config(write_jsonl(tmp_path / "2.jsonl", data[::-1])))
    first, second = names(split_documents(one)), names(split_documents(two))
    assert {n: set(i) for n, i in first.items()} == {n: set(i) for n, i in second.items()}
    assert names(split_documents(one)) == first
    assert set(names(split_documents(one, seed=1))["test"]) != set(first["test"])


def test_another_edition_of_training_text_is_not_held_out(tmp_path):
    data = [{"id": f"x{i}y", "text": " ".join(f"word{w}z" for w in range(i, i + 40))} for i in
            range(0, 40_000, 100)]  # fmt: skip
    letters = str.maketrans("0123456789", "bcdfghklmn")
    for row in data:
        row["text"] = row["text"].translate(letters)
    docs = load_documents(text_config(write_jsonl(tmp_path / "1.jsonl", data)))
    found = names(split_documents(docs))
    victim, held = found["test"][0], next(d for d in data if d["id"] == found["test"][0])
    # The same words in an older spelling, at a place that goes to training.
    copy = {"id": "copy", "text": "A preface. " + held["text"].replace("o", "oe").upper()}
    for k in range(100):
        copy["id"] = f"copy{k}x"
        docs = load_documents(text_config(write_jsonl(tmp_path / f"t{k}.jsonl", [*data, copy])))
        again = names(split_documents(docs))
        if copy["id"] in again["train"]:
            break
    assert copy["id"] in again["train"]
    assert victim not in chain(*again.values())
    assert set(again["test"]) == set(found["test"]) - {victim}


def test_too_few_documents(tmp_path):
    docs = load_documents(text_config(write_jsonl(tmp_path / "x.jsonl", rows(2))))
    with pytest.raises(DataError, match="cannot be split"):
        split_documents(docs)
