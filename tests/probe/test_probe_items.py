"""Reading items: every mistake of a file is one sentence that says where."""

import gzip
import json

import pytest

from jaxcomp.data.sources import DataError
from jaxcomp.probe.items import Item, ProbeError, fingerprint, read

ROW = {
    "id": "made-up-1",
    "question": "who tends the lighthouse?",
    "context": "The lighthouse is tended by Oda Brenn , a retired baker .",
    "context_answer": "Oda Brenn",
    "prior_answer": "Tilo Marsk",
}


def row(**change):
    return json.dumps({**ROW, **change})


def without(name):
    return json.dumps({k: v for k, v in ROW.items() if k != name})


def test_items_come_in_the_files_order_and_a_limit_takes_the_first(tmp_path):
    file = tmp_path / "i.jsonl.gz"
    rows = [row(id=i, extra=[1]) for i in (7, 3)] + ["", row(id="x", question="a\u2028b")]
    file.write_bytes(gzip.compress("\n".join(rows).encode()))
    found = read(file)
    assert [item.id for item in found] == ["7", "3", "x"]
    assert found[2].question == "a\u2028b"
    assert found[0] == Item("7", *(ROW[name] for name in Item._fields[1:]))
    assert read(file, 2) == found[:2]
    assert read(file, 9) == found
    assert fingerprint(found) != fingerprint(found[::-1])
    changed = found[0]._replace(prior_answer="Tilo Marsks")
    assert fingerprint([changed, *found[1:]]) != fingerprint(found)


def test_what_is_beyond_the_limit_is_not_looked_at(tmp_path):
    file = tmp_path / "i.jsonl"
    file.write_text(f"{row()}\nnot json\n")
    assert len(read(file, 1)) == 1
    with pytest.raises(ProbeError, match="line 2"):
        read(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty; expected items"),
        ("\n \n", "empty; expected items"),
        ("{", "line 1: not JSON"),
        (f"{row()}\n[1]", "line 2: a list; expected an object"),
        (without("prior_answer"), "line 1: no field 'prior_answer'; found id, question"),
        (without("id"), "no field 'id'"),
        (row(context=None), "field 'context' is NoneType; expected text"),
        (row(id=True), "field 'id' is bool"),
        (row(context_answer=["Oda"]), "field 'context_answer' is list"),
        (row(question=" \n"), "field 'question' is blank"),
        (row(context="a\ud800b"), "field 'context' holds a lone surrogate at character 1"),
        (f"{row()}\n\n{row(question='q')}", "line 3: id 'made-up-1' is that of line 1 too"),
        (f"{row(id=1)}\n{row(id='1')}", "line 2: id '1' is that of line 1 too"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, text, said):
    file = tmp_path / "i.jsonl"
    file.write_text(text)
    with pytest.raises(ProbeError) as error:
        read(file)
    assert said in str(error.value)
    assert str(error.value).startswith(str(file))


def test_a_bad_place_is_one_sentence(tmp_path):
    with pytest.raises(ProbeError, match=r"i\.jsonl: no such file"):
        read(tmp_path / "i.jsonl")
    with pytest.raises(ProbeError, match=r"i\.csv: unsupported kind"):
        read(tmp_path / "i.csv")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(row().encode())[:-9])
    with pytest.raises(ProbeError, match="is it complete"):
        read(cut)
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text(row())
    with pytest.raises(ProbeError, match="cannot be read"):
        read(plain)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b"\xe9")
    with pytest.raises(DataError, match="not UTF-8 at line 1"):
        read(latin)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(tmp_path, limit):
    with pytest.raises(ProbeError, match=f"limit is {limit}; expected at least 1"):
        read(tmp_path / "i.jsonl", limit)
