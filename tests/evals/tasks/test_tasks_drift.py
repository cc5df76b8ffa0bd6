"""What is scored is the decoder's own likelihood; what is counted is what was planted."""

import dataclasses
import json
import re

import numpy as np
import pytest
from flax import nnx
from inference.inference_runs import config, trained, trained_pair

from jaxcomp.config import Config, DataConfig
from jaxcomp.data.batches import REBUILD, eval_examples
from jaxcomp.evals.pairs import rates
from jaxcomp.evals.pairs.edit_rules import DIMENSIONS
from jaxcomp.evals.pairs.minimal_pairs import windows
from jaxcomp.evals.qa import ask, question_answers
from jaxcomp.evals.qa.conditions import CONDITIONS, Reading
from jaxcomp.evals.qa.items import EvalError, NothingToAsk
from jaxcomp.evals.qa.question_file import Question
from jaxcomp.evals.qa.scoring import share
from jaxcomp.evals.tasks import drift
from jaxcomp.evals.tasks.drift import Passage, Ready, passages_of_run, read, run, table
from jaxcomp.inference import decode
from jaxcomp.inference.pair import Pair, Score
from jaxcomp.runtime.sharding import put_batch, use_mesh
from jaxcomp.training.compressor import Path, tokenizers


@pytest.fixture(scope="module")
def pair():
    return trained_pair()


@pytest.fixture(scope="module")
def passages():
    return passages_of_run(trained())


@pytest.fixture(scope="module")
def result(pair, passages):
    return run(pair, passages).result


def test_the_passages_are_the_held_out_sets(passages):
    cfg = config()
    toks = tokenizers(cfg, Path("."))
    for name in ("ordinary", "counterfactual"):
        expected = [e.text for e in eval_examples(cfg, name, *toks)]
        assert [p.text for p in passages if p.source == name] == expected
    assert len({p.id for p in passages}) == len(passages) == 12


def test_a_limit_is_of_each_set(passages):
    few = passages_of_run(trained(), 2)
    assert few == [p for p in passages if p.id.endswith((":0", ":1"))]
    assert [p.source for p in few] == ["ordinary"] * 2 + ["counterfactual"] * 2
    with pytest.raises(EvalError, match="limit is 0"):
        passages_of_run(trained(), 0)


def nll(pair, memory, text, hidden=False):
    """-ln p of a text and its end from one teacher-forced pass over one row."""
    with use_mesh(pair.mesh):
        placed = pair._place([memory], 1)
        if hidden:
            placed = decode.no_memory(placed)
        ids = [*pair.dec_tok.encode(text), pair.dec_tok.eos_id]
        arrays = np.array([ids], np.int32), np.array([len(ids)], np.int32)
        mode_B = put_batch(np.full(1, REBUILD, np.int32), pair.mesh)
        found = decode.forced(
            pair._graphdef, pair._state, placed, mode_B, *put_batch(arrays, pair.mesh)
        )
    return float(np.asarray(found.nll_BL, np.float64).sum())


def test_likelihoods_are_those_of_one_row_alone(pair, passages, result):
    ready, _ = drift.prepare(pair, passages)
    records = {r["id"]: r for r in result["records"]}
    for one in ready[:3]:
        nats = records[one.pair.id]["nats"]
        texts = one.pair.text, one.pair.foil
        memories = pair.compress(texts)
        for i, text in enumerate(texts):
            assert nats["memory"][i] == pytest.approx(nll(pair, memories[0], text), rel=1e-5)
            assert nats["foil_memory"][i] == pytest.approx(nll(pair, memories[1], text), rel=1e-5)
            without = nll(pair, memories[0], text, hidden=True)
            assert nats["no_memory"][i] == pytest.approx(without, rel=1e-5)
            ids = pair.dec_tok.encode(text)
            ((plain,),) = pair.likelihoods(pair.plain([ids[:1]]), [[ids[1:]]])
            assert nats["plain"][i] == pytest.approx(plain.nats, rel=1e-5)
        assert nats["memory"] != nats["no_memory"]


def test_the_floor_keeps_the_places_of_the_memory(pair, passages):
    """Vectors one after the other: what follows them stands after as many, seen or not."""
    model = nnx.merge(*nnx.split(pair.model))
    model.positions = model.compressor.positions = "consecutive"
    other = Pair(model, (pair.comp_tok, pair.dec_tok), pair.traits, pair.mesh, batch=8)
    ready, _ = drift.prepare(other, passages)
    (record,) = drift.measure(other, ready[:1])
    one, memory = ready[0].pair, other.compress(ready[0].pair.text)[0]
    without = nll(other, memory, one.text, hidden=True)
    assert record["nats"]["no_memory"][0] == pytest.approx(without, rel=1e-5)
    # What was there before: nothing at all, and the prompt moved to the front.
    absent = dataclasses.replace(memory, vec_ND=memory.vec_ND[:0], tokens_G=0 * memory.tokens_G)
    assert abs(nll(other, absent, one.text) - without) > 1e-3


def test_no_batch_changes_a_record(pair, passages, result, monkeypatch):
    some = [p for p in passages if p.id == passages[0].id]
    monkeypatch.setattr(pair, "batch", 2)
    monkeypatch.setattr(drift, "LOGITS_ELEMENTS", 1)  # one row of logits at a time
    alone = run(pair, some).result["records"]
    together = {r["id"]: r for r in result["records"]}
    assert len(alone) > 3
    for record in alone:
        other = together[record["id"]]
        for condition, nats in record.pop("nats").items():
            assert nats == pytest.approx(other["nats"][condition], rel=1e-5)
        assert record == {k: v for k, v in other.items() if k != "nats"}


def test_every_pair_is_counted_or_left_out(result, passages):
    pairs = result["pairs"]
    assert pairs["passages"] == len(passages)
    assert sum(pairs["made"].values()) == pairs["asked"] + sum(pairs["left_out"].values())
    assert pairs["asked"] == len(result["records"]) == result["dimensions"]["all"]["n"]
    assert set(result["sources"]) == {"ordinary", "counterfactual"}
    for d in (*DIMENSIONS, "all"):
        n = sum(found[d]["n"] for found in result["sources"].values())
        assert result["dimensions"][d]["n"] == n
    json.dumps(result, allow_nan=False)


# --- counted by hand -----------------------------------------------------------------------------


def record(
    memory, without, foil_memory=(2.0, 1.0), tokens=(5, 5), dimension="role", plain=(1, 1), name="x"
):
    nats = {"memory": memory, "no_memory": without, "foil_memory": foil_memory, "plain": plain}
    return {
        "id": f"{name}/{dimension}", "source": "s", "dimension": dimension, "rule": "r",
        "tokens": tokens,
        "nats": {name: list(both) for name, both in nats.items()},
    }  # fmt: skip


def test_rates_of_known_answers():
    records = [
        record((1.0, 2.0), (2.0, 1.0)),  # memory only, pair right
        record((1.0, 2.0), (2.0, 1.0), foil_memory=(1.0, 2.0)),  # memory only, not pair right
        record((1.0, 4.0), (1.0, 2.0), tokens=(5, 6)),  # both
        record((2.0, 1.0), (1.0, 2.0)),  # no memory only
        record((3.0, 3.0), (1.0, 1.0), dimension="order"),  # ties are not right
    ]
    found = rates.rates(records)["dimensions"]["all"]
    assert [found[c]["count"] for c in ("memory", "no_memory", "plain", "pair_accuracy")] == [
        3,
        2,
        0,
        2,
    ]
    # 2 against 1: two-sided exact binomial p is 1.
    assert found["mcnemar"] == {"memory_only": 2, "no_memory_only": 1, "p": 1.0}
    assert (found["against_no_memory"]["count"], found["against_no_memory"]["n"]) == (2, 3)
    assert found["ties"] == 1
    assert found["margin"]["memory"] == pytest.approx((1 + 1 + 3 - 1 + 0) / 5)
    assert found["equal_tokens"]["share"]["count"] == 4
    assert (found["equal_tokens"]["memory"]["count"], found["equal_tokens"]["memory"]["n"]) == (
        2,
        4,
    )
    role = rates.rates(records)["dimensions"]["role"]
    assert (role["n"], role["memory"]["count"]) == (4, 3)
    assert rates.rates(records)["dimensions"]["topic"]["memory"]["rate"] is None


def test_pairs_of_one_passage_are_taken_together():
    dimensions = ("role", "order", "topic", "quantity")
    records = [
        record((1.0, 2.0) if n % 3 else (2.0, 1.0), (2.0, 1.0), dimension=d, name=str(n))
        for n in range(30)
        for d in dimensions
    ]
    found = rates.rates(records)["dimensions"]
    assert found["role"]["memory"] == share(20, 30)
    assert found["all"]["memory"]["count"] == 80
    # All four of a passage are alike: worth no more than one.
    assert found["all"]["memory"]["low"] < found["role"]["memory"]["low"]
    assert found["all"]["memory"]["high"] > found["role"]["memory"]["high"]
    one = rates.rates(records[:4])
    assert one["dimensions"]["all"]["memory"]["low"] is None  # of one passage nothing is known
    counts = dict.fromkeys(("asked", "passages", "beyond_training", "trained_segments"), 4)
    shown = table(one | {"pairs": counts | {"made": {}, "left_out": {}}})
    (line,) = [line for line in shown.splitlines() if line.startswith("all ")]
    assert "[" not in line


def test_without_memory_nothing_is_separated(pair, passages, monkeypatch):
    """Where the memory is hidden, memory equals no memory, and both texts cannot win."""
    score = type(pair).score
    monkeypatch.setattr(
        type(pair), "score", lambda self, *args, no_memory=False: score(self, *args, no_memory=True)
    )
    found = run(pair, passages[:3]).result["dimensions"]["all"]
    assert found["n"] > 5
    assert found["pair_accuracy"]["count"] == 0
    assert found["memory"] == found["no_memory"]


# --- files, and what cannot be asked --------------------------------------------------------------


def test_a_stopped_run_goes_on(pair, passages, result, tmp_path, monkeypatch):
    out, some, allowed = tmp_path / "d.json", passages[:3], [1]
    measure, done = drift.measure, []

    def stops(pair, part):
        if not allowed[0]:
            raise KeyboardInterrupt
        allowed[0] -= 1
        done.extend(r.pair.id for r in part)
        return measure(pair, part)

    monkeypatch.setattr(drift, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        run(pair, some, out)
    assert not out.exists()
    with pytest.raises(EvalError, match="another passages"):
        run(pair, passages[:4], out)
    allowed[0] = 99
    said = []
    whole = run(pair, some, out, say=said.append)
    assert whole.made
    assert re.search(r"pairs measured in .* s each, compiling included", said[-1])
    assert sorted(done) == sorted(r["id"] for r in whole.result["records"])  # none twice
    assert run(pair, some, out) == (json.loads(out.read_text()), False)
    assert "minimal pairs of 3 passages asked" in table(whole.result)


def test_what_cannot_be_asked_is_counted(pair, passages):
    said = []
    bad = [Passage("b", "Café crème was late.", "made"), *passages[:1]]  # no é in the world
    found = run(pair, bad, say=said.append).result["pairs"]
    assert found["left_out"]["a passage that a tokenizer cannot say"] == 1
    assert "1 with a passage that a tokenizer cannot say" in said[0]
    with pytest.raises(EvalError, match="no minimal pair of 1 passages can be asked: 1 with a pa"):
        run(pair, bad[:1])
    with pytest.raises(EvalError, match="no rule found a place"):
        run(pair, [Passage("b", "The goat.", "made")])
    with pytest.raises(EvalError, match="1 ids stand twice, such as"):
        run(pair, [*passages, passages[0]])


def test_a_pair_that_does_not_fit_says_why(pair, passages):
    ready, _ = drift.prepare(pair, passages)
    one = ready[0].pair
    assert isinstance(drift._ready(pair, one), Ready)
    assert drift._ready(pair, one._replace(foil="é")) == "a foil that a tokenizer cannot say"
    other = one._replace(foil="The " + one.foil)
    assert drift._ready(pair, other) == "a spot at the first token"
    longer = one._replace(foil=f"{one.foil} {one.foil}")
    assert drift._ready(pair, longer) == "a foil of more segments or fewer"
    four = one._replace(text=" ".join([one.text] * 4), foil=" ".join([one.text] * 4))
    assert drift._ready(pair, four) == "a text too long for the decoder"


def test_windows_hold_what_an_example_holds(pair, passages):
    text = " ".join(p.text for p in passages)
    found = windows(text, pair.comp_tok, 64, 2)
    assert len(found) > 2
    at = 0
    for window in found:  # in order and without overlap, each a part of the text
        at = text.index(window, at) + len(window)
        assert 32 <= len(pair.comp_tok.encode(window)) <= 2 * 64 - 8 + 1  # a space of its own
    assert windows("The goat.", pair.comp_tok, 64, 2) == ["The goat."]
    assert windows("", pair.comp_tok, 64, 2) == []


def test_reading_passages(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"id": 1, "text": "One.", "source": "x"}\n\n{"id": "b", "text": "Two."}\n')
    assert read(file) == [Passage("1", "One.", "p.jsonl"), Passage("b", "Two.", "p.jsonl")]
    assert read(file, 1) == [Passage("1", "One.", "p.jsonl")]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"id": "a"}', r"line 1: no field 'text'; found id; expected id, text"),
        ('{"id": "a", "text": " "}', "line 1: field 'text' is ' ': expected text that is not bla"),
        ('{"id": "a", "text": 3}', "line 1: field 'text' is 3: expected a valid string"),
        ('{"id": "a", "text": "x"}\n' * 2, r"line 2: id 'a' is that of line 1 too"),
    ],
)
def test_a_bad_file_is_one_error(lines, said, tmp_path):
    """Others: tests/evals/qa/test_qa_readers.py."""
    file = tmp_path / "p.jsonl"
    file.write_text(lines)
    with pytest.raises(EvalError, match=said):
        read(file)


def test_a_memory_of_two_segments_is_beyond_training(pair, passages, monkeypatch):
    def measure(pair, part):
        planted = record((1.0, 2.0), (1.0, 2.0))
        return [planted | {"id": r.pair.id, "segments": r.segments} for r in part]

    monkeypatch.setattr(drift, "measure", measure)
    text = f"{passages[0].text} {passages[1].text}"
    world = passages[0].world._replace(text=text)
    found = run(pair, [Passage("two", text, "made", world)]).result
    assert found["pairs"]["beyond_training"] == found["pairs"]["asked"] > 0
    assert {r["segments"] for r in found["records"]} == {2}


def test_a_likelihood_that_is_no_number_is_refused(pair, passages, monkeypatch):
    bad = [Score(float("nan"), 1)]
    monkeypatch.setattr(type(pair), "score", lambda self, memory, texts, **_: bad * len(texts))
    with pytest.raises(EvalError, match=r"-ln p is .*are the weights whole"):
        run(pair, passages[:1])


def test_a_question_set_is_asked(pair, passages, tmp_path, monkeypatch):
    said = {"a": "It was Alice.", "b": "not stated", "c": "unknown"}

    def measure(pair, part, **_):
        found = []
        for one in part:
            options = tuple(Score(1.0 + i, 1) for i in range(len(one.options)))
            found.append(dict.fromkeys(CONDITIONS, Reading(options, said[one.item.id], False)))
        return found

    monkeypatch.setattr(ask, "measure", measure)
    text = f"{passages[0].text} Alice paid Simon."
    asked = [
        Question("a", "p", text, "topic", "who ?", "Alice"),
        Question("b", "p", text, "unanswerable", "who ?", ""),
        Question("c", "p", text, "role", "who ?", "Alice", ("Simon",)),
        Question("d", "p", "Café.", "role", "who ?", "Café"),  # no é in this tokenizer
    ]
    out = tmp_path / "q.json"
    found = question_answers.run(pair, asked, out)
    assert found.result["items"]["left_out"] == {"a text that a tokenizer cannot say": 1}
    dimensions = {name: one["memory"] for name, one in found.result["dimensions"].items()}
    for name, holds, refused, n in (
        ("topic", 1, 0, 1), ("unanswerable", 1, 1, 1), ("role", 0, 1, 1), ("answerable", 1, 1, 2),
    ):  # fmt: skip
        one = dimensions[name]
        assert (one["holds"]["count"], one["refused"]["count"]) == (holds, refused)
        assert one["holds"]["n"] == n
    assert (dimensions["role"]["chosen"]["count"], dimensions["role"]["chosen"]["n"]) == (1, 1)
    assert dimensions["topic"]["chosen"]["n"] == 0
    assert "from memory" in question_answers.table(found.result)
    # Two of one passage; the one without an answer has none that could stand in it.
    assert (found.result["items"]["contexts"], found.result["items"]["not_stated"]) == (1, 0)
    assert "they are about 1 passages" in question_answers.table(found.result)
    assert not question_answers.run(pair, asked, out).made
    with pytest.raises(EvalError, match="another task"):
        question_answers.run(pair, [asked[0]._replace(dimension="role"), *asked[1:]], out)


def test_minimal_pairs_of_another_world_are_refused_in_one_sentence(monkeypatch):
    cfg = Config(data=DataConfig(source="people"))
    monkeypatch.setattr(drift, "open_run", lambda place, **moved: (cfg, Path(place)))
    with pytest.raises(NothingToAsk, match="'people': minimal pairs are made of"):
        passages_of_run("anywhere")
