"""Whose answer it is, counted: planted answers, filters, stops and goings on."""

import json

import pytest
from evals.qa.qa_items import measure, pair_of, planted, prepare

from jaxcomp.evals.qa import ask
from jaxcomp.evals.qa.conditions import CONDITIONS, Prepared, Reading
from jaxcomp.evals.qa.filters import Rules
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.scoring import (
    OTHER,
    PASSAGE,
    SCORINGS,
    WORLD,
    likelier,
    proportion,
    said,
    share,
)
from jaxcomp.evals.tasks import overwriting
from jaxcomp.evals.tasks.overwriting import rates, run, table
from jaxcomp.inference.pair import Score


@pytest.mark.parametrize(
    ("answer", "exact", "holds"),
    [
        ("It was Oda Brenn, the baker.", OTHER, PASSAGE),
        ("oda   BRENN", PASSAGE, PASSAGE),
        ("Oda the Baker!", PASSAGE, PASSAGE),  # another way to say it
        ("The Tilo-Marsk", OTHER, OTHER),  # "tilomarsk" is another word
        ("tilo marsk.", WORLD, WORLD),
        ("Oda Brenn or Tilo Marsk", OTHER, OTHER),
        ("Oda", OTHER, OTHER),
        ("Oda Brenner", OTHER, OTHER),  # whole words only
        ("", OTHER, OTHER),
    ],
)
def test_a_greedy_answer_is_whoevers_it_is_or_holds(answer, exact, holds):
    sides = ("Oda Brenn", "Oda, a baker"), ("the Tilo Marsk",)
    assert said(answer, *sides, "exact") == exact
    assert said(answer, *sides, "holds") == holds


def test_the_likelier_option_by_sum_and_by_mean():
    long, short = Score(6.0, 4), Score(4.0, 1)
    assert [likelier((long, short), 1, how) for how in ("mean", "sum")] == [PASSAGE, WORLD]
    assert [likelier((short, long), 1, how) for how in ("mean", "sum")] == [WORLD, PASSAGE]
    assert likelier((Score(2.0, 2), Score(1.0, 1)), 1, "mean") == OTHER
    third = (Score(3.0, 1), Score(2.0, 1), Score(1.0, 1))
    assert [likelier(third, world, "sum") for world in (1, 2)] == [OTHER, WORLD]
    assert likelier((Score(1.0, 1), Score(2.0, 1), Score(1.0, 1)), 1, "sum") == OTHER


def test_without_a_worlds_answer_it_is_the_rival_likeliest_from_nothing():
    item = Item("i", "?", "snow", ("snow",), (), ("fire", "moss", "a very long one"))
    asked = Prepared(item, "", [], [], 1, [[1]] * 4, 1)

    def reading(*nats, answer=""):
        return Reading(tuple(Score(n, t) for n, t in zip(nats, (1, 1, 2, 9), strict=True)), answer)

    readings = {
        # By the mean, which is primary: moss, though fire has the higher sum, and snow beats both.
        "nothing": reading(0.1, 3.0, 4.0, 40.0, answer="It is moss"),
        "text": reading(1.0, 3.0, 9.0, 40.0, answer="Snow."),
        "memory": reading(5.0, 3.0, 2.0, 40.0, answer="moss"),
        "rebuilt": reading(5.0, 1.0, 9.0, 40.0, answer="fire"),
    }
    found = overwriting.TASK.scored(asked, readings)
    assert item.options[found["world"]] == "moss"
    by_mean = [found["conditions"][c]["mean"] for c in CONDITIONS]
    assert by_mean == [PASSAGE, PASSAGE, WORLD, OTHER]
    assert [found["conditions"][c]["exact"] for c in CONDITIONS] == [OTHER, PASSAGE, WORLD, OTHER]
    assert found["conditions"]["nothing"]["holds"] == WORLD
    assert found["conditions"]["nothing"]["f1"] == {"passage": 0.0, "world": 0.5}


def record(name, text, memory, nothing=OTHER):
    """A record with one outcome a condition, by every scoring."""
    outcomes = {"nothing": nothing, "text": text, "memory": memory, "rebuilt": WORLD}
    f1 = {"f1": {PASSAGE: 0.25, WORLD: 0.5}}
    conditions = {c: dict.fromkeys(SCORINGS, o) | f1 for c, o in outcomes.items()}
    return {"id": name, "context": name, "conditions": conditions}


def test_overwriting_is_among_what_the_full_text_answers():
    records = [
        record("kept", PASSAGE, PASSAGE, WORLD),
        record("overwritten", PASSAGE, WORLD),
        record("lost", PASSAGE, OTHER),
        record("never known", WORLD, WORLD),
        record("nor this", OTHER, WORLD),
    ]
    records[2]["conditions"]["memory"]["exact"] = WORLD
    found = rates(records)
    assert found["overwriting"]["memory"]["mean"] == share(1, 3)
    assert found["overwriting"]["memory"]["exact"] == share(2, 3)
    assert found["overwriting"]["rebuilt"]["mean"] == share(3, 3)
    assert found["conditions"]["nothing"]["sum"][WORLD] == share(1, 5)
    assert found["conditions"]["text"]["sum"][PASSAGE] == share(3, 5)
    assert found["conditions"]["memory"]["mean"][WORLD] == share(3, 5)
    assert found["conditions"]["memory"]["f1"][WORLD]["mean"] == 0.5
    for by_scoring in found["conditions"].values():
        for scoring in SCORINGS:
            assert sum(s["count"] for s in by_scoring[scoring].values()) == 5
    assert rates(records[3:])["overwriting"]["memory"]["mean"] == share(0, 0)


# --- a run whose decoder is planted ----------------------------------------------------------


@pytest.fixture
def decoder(monkeypatch):
    """The ids that were asked about, batch by batch."""
    calls = []

    def kept(pair, part, *, max_new, also, scorer, stop):
        calls.append([a.item.id for a in part])
        return measure(pair, part, max_new=max_new, also=also)

    monkeypatch.setattr(ask, "prepare", prepare)
    monkeypatch.setattr(ask, "measure", kept)
    return calls


def test_planted_answers_are_counted(decoder, tmp_path):
    spoken = []
    result = run(pair_of(), planted(6), tmp_path / "r.json", say=spoken.append).result
    assert result["overwriting"]["memory"] == dict.fromkeys(SCORINGS, share(3, 6))
    assert result["overwriting"]["rebuilt"] == dict.fromkeys(SCORINGS, share(6, 6))
    for scoring in SCORINGS:
        assert result["conditions"]["nothing"][scoring][WORLD] == share(6, 6)
        assert result["conditions"]["text"][scoring][PASSAGE] == share(6, 6)
    assert result["conditions"]["text"]["f1"][PASSAGE]["mean"] == 1.0
    assert [r["id"] for r in result["records"]] == [f"n{i}" for i in range(6)]
    assert result["items"] == {
        "counted": 6, "left_out": {}, "contexts": 6, "not_stated": 0, "world_in_question": 0,
        "rebuilt_cut": 6, "trained_segments": 1, "beyond_training": 1,
    }  # fmt: skip
    assert "50.0% [18.8, 81.2]  3/6  (primary)" in table(result)
    assert "1 have a memory of more than the 1 segment(s)" in table(result)
    assert "items: 6 read, 6 can be asked\n" in table(result)
    assert "6 items measured in" in spoken[-1]
    kept = (tmp_path / "r.json").read_text()
    assert "who ?" not in kept
    assert json.loads(kept) == json.loads(json.dumps(result))
    decoder.clear()
    assert run(pair_of(), planted(6), tmp_path / "r.json") == (json.loads(kept), False)
    assert not decoder
    assert [f.name for f in tmp_path.iterdir()] == ["r.json"]


def test_other_rules_count_again_and_ask_only_what_is_missing(decoder, tmp_path):
    out, items = tmp_path / "r.json", planted(6)
    items[3] = items[3]._replace(context="Nobody 3")
    first = run(pair_of(), items, out, rules=Rules(max_tokens=103, stated=True)).result
    assert sorted(name for part in decoder for name in part) == ["n0", "n1", "n2"]
    assert [(s["rule"], s["left"]) for s in first["filter"]["steps"]] == [
        ("read", 6), ("can be asked", 6), ("max_tokens=103", 4), ("stated", 3),
    ]  # fmt: skip
    assert first["conditions"]["memory"]["mean"][PASSAGE] == share(2, 3)
    decoder.clear()
    second = run(pair_of(), items, out).result
    assert sorted(name for part in decoder for name in part) == ["n3", "n4", "n5"]
    assert second["items"]["counted"] == 6
    assert second["items"]["not_stated"] == 1
    assert "1 have no answer that stands in the passage word for word" in table(second)
    decoder.clear()
    third = run(pair_of(), items, out, rules=Rules(answerable=True, known=True)).result
    assert not decoder
    assert third["conditions"] == second["conditions"]  # planted: all are both
    assert "6 after answerable, 6 after known" in table(third)


def shared(count):
    """Items of which the first half is about one passage, and the last is asked with its answer."""
    items = planted(count)
    one = items[0].context
    items[: count // 2] = [item._replace(context=one) for item in items[: count // 2]]
    items[-1] = items[-1]._replace(question=f"who is {items[-1].world[0]} ?")
    return items


def test_questions_about_one_passage_are_taken_together(decoder, tmp_path):
    result = run(pair_of(), shared(8), tmp_path / "r.json").result
    assert (result["items"]["contexts"], result["items"]["world_in_question"]) == (5, 1)
    assert [r["context"] for r in result["records"]] == [0, 0, 0, 0, 1, 2, 3, 4]
    outcomes = [r["conditions"]["memory"]["mean"] == PASSAGE for r in result["records"]]
    found = result["conditions"]["memory"]["mean"][PASSAGE]
    assert found == proportion(outcomes, [0, 0, 0, 0, 1, 2, 3, 4])
    assert found["low"] < share(4, 8)["low"]
    said = table(result)
    assert "they are about 5 passages" in said
    assert "of the 8 counted, 1 have the world's answer in the question" in said
    assert "passages:" not in table(run(pair_of(), planted(4)).result)


def test_an_id_that_stands_twice_is_refused(decoder):
    items = planted(3)
    with pytest.raises(EvalError, match="1 ids stand twice, such as 'n1'; expected each once"):
        run(pair_of(), [*items, items[1]._replace(question="where ?")])
    assert not decoder


def test_no_item_left_is_an_error_and_loses_nothing(decoder, tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    with pytest.raises(EvalError, match=r"3 read, 3 can be asked, 0 after max_tokens=9; expected"):
        run(pair_of(), planted(3), out, rules=Rules(max_tokens=9))
    assert not decoder
    whole = run(pair_of(), planted(3), out).result
    monkeypatch.setattr(ask, "measure", None)
    never = overwriting.TASK._replace(known=lambda r: False)
    with pytest.raises(EvalError, match=r"no item is left to count: .*, 0 after known"):
        ask.run(never, pair_of(), planted(3), out, rules=Rules(known=True))
    assert run(pair_of(), planted(3), out) == (json.loads(json.dumps(whole)), False)


def test_a_stopped_run_goes_on(decoder, tmp_path, monkeypatch):
    whole = run(pair_of(), planted(5), tmp_path / "whole.json").result
    batches = [["n0", "n4"], ["n3", "n2"], ["n1"]]
    assert decoder == batches
    decoder.clear()
    real, allowed = ask.measure, [1]

    def stopping(pair, part, *, max_new, also, scorer, stop):
        if len(decoder) == allowed[0]:
            raise KeyboardInterrupt
        return real(pair, part, max_new=max_new, also=also, scorer=scorer, stop=stop)

    monkeypatch.setattr(ask, "measure", stopping)
    out, part = tmp_path / "r.json", tmp_path / "r.json.part.jsonl"
    for allowed[0] in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(pair_of(), planted(5), out)
        assert not out.exists()
        with part.open("a") as file:  # killed while it wrote
            file.write('{"id": "n1", "cond')
    with pytest.raises(EvalError, match=r"part\.jsonl is there already, with another items"):
        run(pair_of(), planted(4), out)
    spoken, allowed[0] = [], 9
    assert run(pair_of(), planted(5), out, say=spoken.append).result == whole
    assert decoder == batches  # no batch twice
    assert spoken[0] == "4 items were done already"
    assert not part.exists()


@pytest.mark.parametrize("damage", ["{", "[]", "[" * 100_000])
def test_a_damaged_file_is_named(decoder, tmp_path, damage):
    out = tmp_path / "r.json"
    part = tmp_path / "r.json.part.jsonl"
    part.write_text(f"{damage}\n")
    with pytest.raises(EvalError, match=r"part\.jsonl is damaged \(line 1: .*\); remove it"):
        run(pair_of(), planted(2), out)
    part.unlink()
    out.write_text(damage)
    with pytest.raises(EvalError, match=r"r\.json is there already and is no result of a task"):
        run(pair_of(), planted(2), out)


SHAPES = {  # what is put into a kept result, and whether it is counted by other rules then
    "no records": ({"records": None}, True),
    "a list of numbers": ({"records": [1]}, True),
    "records without what was scored": ({"records": [{"id": "n0"}, {"id": "n1"}]}, True),
    "an id that is none": ({"records": [{"id": []}]}, True),
    "no filter": ({"filter": None}, False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_result_of_another_shape_is_named(decoder, tmp_path, shape):
    out, (change, recounted) = tmp_path / "r.json", SHAPES[shape]
    whole = run(pair_of(), planted(2), out).result | change
    rules = Rules(answerable=True) if recounted else Rules()
    for kept in (whole, {name: part for name, part in whole.items() if part is not None}):
        out.write_text(json.dumps(kept))
        with pytest.raises(EvalError, match=r"r\.json is damaged, or of another .*remove"):
            run(pair_of(), planted(2), out, rules=rules)


def test_records_of_another_shape_are_named(decoder, tmp_path):
    out, part = tmp_path / "r.json", tmp_path / "r.json.part.jsonl"
    about = run(pair_of(), planted(2), out).result["about"]
    out.unlink()
    for record in ({}, {"id": []}, {"id": "n0"}):
        part.write_text(f"{json.dumps(about)}\n{json.dumps(record)}\n")
        with pytest.raises(EvalError, match=r"part\.jsonl is damaged, or of another version"):
            run(pair_of(), planted(2), out)


def test_a_file_of_something_else_is_refused(decoder, tmp_path):
    out = tmp_path / "r.json"
    run(pair_of(), planted(2), out)
    with pytest.raises(EvalError, match=r"r\.json is there already, with another compressor;"):
        run(pair_of("e"), planted(2), out)
    with pytest.raises(EvalError, match="another items and max_new"):
        run(pair_of(), planted(3), out, max_new=5)
    for text in ("{", "[]", '{"about": 3}'):
        out.write_text(text)
        with pytest.raises(EvalError, match=r"r\.json is there already"):
            run(pair_of(), planted(2), out)


def test_nothing_to_ask_is_an_error(monkeypatch):
    why = {"a text too long for the decoder": 2}
    monkeypatch.setattr(ask, "prepare", lambda *args, **kwargs: ([], why))
    with pytest.raises(EvalError, match="none of the 2 items can be asked: 2 with a text too"):
        run(pair_of(), planted(2))
