"""Whose answer it is, counted: planted answers, and the command as it is typed."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import mesh_of
from use.use_runs import make_run, texts

from jaxcomp import cli
from jaxcomp.probe import conflicts
from jaxcomp.probe.conditions import CONDITIONS, Asked, Reading
from jaxcomp.probe.conflicts import rates, run, table
from jaxcomp.probe.items import Item, ProbeError
from jaxcomp.probe.scoring import OTHER, PASSAGE, SCORINGS, WORLD, free, likelier, normalise, share
from jaxcomp.sharding import use_mesh
from jaxcomp.use.pair import Score, Traits


# Newcombe (1998), Statistics in Medicine 17:857-872, Table I, method 3 (Wilson's score).
@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_the_interval_is_wilsons(count, n, low, high):
    found = share(count, n)
    assert (round(found["low"], 4), round(found["high"], 4)) == (low, high)
    assert (found["count"], found["n"], found["rate"]) == (count, n, count / n)


def test_a_share_of_nothing_has_no_numbers():
    assert share(0, 0) == {"count": 0, "n": 0, "rate": None, "low": None, "high": None}


def test_normalising_is_squads():
    assert normalise(" The  Goat, a  rock'n'roll\tAnimal! ") == "goat rocknroll animal"
    assert normalise("An a THE .") == ""
    assert normalise("theatre – anatomy") == "theatre – anatomy"  # only ASCII punctuation


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("It was Oda Brenn, the baker.", PASSAGE),
        ("oda   BRENN", PASSAGE),
        ("The Tilo-Marsk", OTHER),  # "tilomarsk" is another word
        ("tilo marsk.", WORLD),
        ("Oda Brenn or Tilo Marsk", OTHER),
        ("Oda", OTHER),
        ("Oda Brenner", OTHER),  # whole words only
        ("", OTHER),
    ],
)
def test_a_free_answer_is_whoevers_it_holds(answer, outcome):
    assert free(answer, "Oda Brenn", "the Tilo Marsk") == outcome


def test_the_likelier_option_by_sum_and_by_mean():
    long, short = Score(6.0, 4), Score(4.0, 1)
    assert (likelier((long, short), "mean"), likelier((long, short), "sum")) == (PASSAGE, WORLD)
    assert (likelier((short, long), "mean"), likelier((short, long), "sum")) == (WORLD, PASSAGE)
    assert likelier((Score(2.0, 2), Score(1.0, 1)), "mean") == OTHER
    assert likelier((Score(2.0, 2), Score(2.0, 1)), "sum") == OTHER


def record(name, text, memory, nothing=OTHER):
    """A record with one outcome a condition, by every scoring."""
    said = {"nothing": nothing, "text": text, "memory": memory}
    return {"id": name, "conditions": {c: dict.fromkeys(SCORINGS, o) for c, o in said.items()}}


def test_overwriting_is_among_what_the_full_text_answers():
    records = [
        record("kept", PASSAGE, PASSAGE, WORLD),
        record("overwritten", PASSAGE, WORLD),
        record("lost", PASSAGE, OTHER),
        record("never known", WORLD, WORLD),
        record("nor this", OTHER, WORLD),
    ]
    records[2]["conditions"]["memory"]["free"] = WORLD
    found = rates(records)
    assert found["overwriting"]["mean"] == share(1, 3)
    assert found["overwriting"]["free"] == share(2, 3)
    assert found["conditions"]["nothing"]["sum"][WORLD] == share(1, 5)
    assert found["conditions"]["text"]["sum"][PASSAGE] == share(3, 5)
    assert found["conditions"]["memory"]["mean"][WORLD] == share(3, 5)
    for by_scoring in found["conditions"].values():
        for outcomes in by_scoring.values():
            assert sum(s["count"] for s in outcomes.values()) == 5
    assert rates(records[3:])["overwriting"]["mean"] == share(0, 0)


# --- a run whose decoder is planted ----------------------------------------------------------


def pair_of(compressor="c") -> Any:
    return SimpleNamespace(traits=Traits(16, 1, 72, "d" * 12, compressor * 12), batch=2)


PAIR = pair_of()


def planted(count):
    return [Item(f"n{i}", "who ?", "x", f"Oda {i}", f"Tilo {i}") for i in range(count)]


@pytest.fixture
def decoder(monkeypatch):
    """From nothing the world's answer, from the text the passage's; from memory, of even items."""
    calls = []

    def prepare(pair, items, *, max_new):
        made = [Asked(i, "t", [1], [1] * 8, ([2, 3], [4]), 1 + (i.id == "n0")) for i in items]
        return made, {}

    def measure(pair, part, *, max_new):
        calls.append([a.item.id for a in part])
        return [
            {c: said(a.item, c == "text" or (c == "memory" and even(a))) for c in CONDITIONS}
            for a in part
        ]

    def even(asked):
        return int(asked.item.id[1:]) % 2 == 0

    def said(item, right):
        options = (Score(1.0, 2), Score(9.0, 1)) if right else (Score(9.0, 2), Score(1.0, 1))
        return Reading(options, item[3] if right else item[4])

    monkeypatch.setattr(conflicts, "prepare", prepare)
    monkeypatch.setattr(conflicts, "measure", measure)
    return calls


def test_planted_answers_are_counted(decoder, tmp_path):
    result = run(PAIR, planted(6), tmp_path / "r.json").result
    assert result["overwriting"] == dict.fromkeys(SCORINGS, share(3, 6))
    for scoring in SCORINGS:
        assert result["conditions"]["nothing"][scoring][WORLD] == share(6, 6)
        assert result["conditions"]["text"][scoring][PASSAGE] == share(6, 6)
    assert [r["id"] for r in result["records"]] == [f"n{i}" for i in range(6)]
    assert result["items"]["beyond_training"] == 1
    assert "50.0% [18.8, 81.2]  3/6  (primary)" in table(result)
    assert "1 have a memory of more than the 1 segment(s)" in table(result)
    kept = (tmp_path / "r.json").read_text()
    assert all(text not in kept for text in ("who ?", '"x"'))
    assert json.loads(kept) == json.loads(json.dumps(result))


def test_a_second_run_computes_nothing(decoder, tmp_path):
    first = run(PAIR, planted(5), tmp_path / "r.json")
    before = (tmp_path / "r.json").read_bytes()
    calls = len(decoder)
    second = run(PAIR, planted(5), tmp_path / "r.json")
    assert (first.made, second.made, len(decoder)) == (True, False, calls)
    assert table(second.result) == table(first.result)
    assert (tmp_path / "r.json").read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["r.json"]


def test_a_stopped_run_goes_on(decoder, tmp_path, monkeypatch):
    whole = run(PAIR, planted(5), tmp_path / "whole.json").result
    assert decoder == [["n0"], ["n1", "n2"], ["n3", "n4"]]
    decoder.clear()
    real, allowed = conflicts.measure, [1]

    def stopping(pair, part, *, max_new):
        if len(decoder) == allowed[0]:
            raise KeyboardInterrupt
        return real(pair, part, max_new=max_new)

    monkeypatch.setattr(conflicts, "measure", stopping)
    out, part = tmp_path / "r.json", tmp_path / "r.json.part.jsonl"
    for allowed[0] in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(PAIR, planted(5), out)
        assert not out.exists()
        with part.open("a") as file:  # killed while it wrote
            file.write('{"id": "n3", "cond')
    with pytest.raises(ProbeError, match=r"part\.jsonl is there already, with another items"):
        run(PAIR, planted(4), out)
    said, allowed[0] = [], 9
    assert run(PAIR, planted(5), out, say=said.append).result == whole
    assert decoder == [["n0"], ["n1", "n2"], ["n3", "n4"]]  # no batch twice
    assert said[0] == "3 of 5 items were done already"
    assert not part.exists()


def test_a_file_of_something_else_is_refused(decoder, tmp_path):
    out = tmp_path / "r.json"
    run(PAIR, planted(2), out)
    with pytest.raises(ProbeError, match=r"r\.json is there already, with another compressor;"):
        run(pair_of("e"), planted(2), out)
    with pytest.raises(ProbeError, match="another items and max_new"):
        run(PAIR, planted(3), out, max_new=5)
    for text in ("{", "[]", '{"about": 3}'):
        out.write_text(text)
        with pytest.raises(ProbeError, match=r"r\.json is there already"):
            run(PAIR, planted(2), out)


def test_nothing_to_ask_is_an_error(monkeypatch):
    why = {"a text too long for the decoder": 2}
    monkeypatch.setattr(conflicts, "prepare", lambda *args, **kwargs: ([], why))
    with pytest.raises(ProbeError, match="none of the 2 items can be asked: 2 with a text too"):
        run(PAIR, planted(2))


# --- as it is typed --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with use_mesh(mesh_of((1, 1, 1))):
        yield make_run(tmp_path_factory.mktemp("run"))


def test_the_command(trained, tmp_path, capsys):
    rows = [Item(f"i{n}", "who ?", text, "Alice", "Simon") for n, text in enumerate(texts()[:3])]
    file, out = tmp_path / "i.jsonl", tmp_path / "r.json"
    file.write_text("".join(json.dumps(row._asdict()) + "\n" for row in rows))
    argv = ["probe", f"--run={trained}", f"--items={file}", f"--out={out}", "--limit=2"]
    assert cli.main(argv) == 0
    first = capsys.readouterr()
    result = json.loads(out.read_text())
    assert first.out == table(result) + "\n"
    assert "2 items probed in" in first.err
    assert [r["id"] for r in result["records"]] == ["i0", "i1"]
    assert cli.main(argv) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err == f"nothing to do: the result is in {out} already\n"
    assert cli.main([*argv[:-1], "--limit=3"]) == 2
    assert "with another items; choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--items=i.jsonl"], "required: --run"),
        (["--run=x"], "required: --items"),
        (["--run=x", "--items=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--run=x", "--items=i.jsonl", "--limit=0"], "limit is 0; expected at least 1"),
        (["--run=x", "--items=i.jsonl", "--batch=0"], "--batch=0; expected at least 1"),
        (["--run=x", "--items=i.jsonl", "--memory.ratio=4"], "no flag of probe"),
        (["--run=x", "--items=i.jsonl", "--out=."], "is a folder; expected a file"),
        (["--run=x", "--items=i.jsonl"], "holds neither"),
    ],
    ids=["run", "items", "nowhere", "limit", "batch", "field", "folder", "no run"],
)
def test_a_mistake_is_one_sentence(argv, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i.jsonl").write_text(json.dumps(planted(1)[0]._asdict()))
    assert cli.main(["probe", *argv]) == 2
    out = capsys.readouterr()
    assert (out.out, out.err.count("\n")) == ("", 1)
    assert said in out.err
    assert [f.name for f in tmp_path.iterdir()] == ["i.jsonl"]
