"""Questions to train on: read, split by context, put into tokens as the probes put them."""

import dataclasses
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_configs import BATCH, assert_same, draw, world_config

from jaxcomp.config import PeopleConfig
from jaxcomp.data import prepare
from jaxcomp.data import qa as questions
from jaxcomp.data.batches import CONTINUE, train_batches
from jaxcomp.data.corpus import corpus, documents_of
from jaxcomp.data.documents import DataError
from jaxcomp.data.eval_sets import answer_batches, eval_examples
from jaxcomp.data.people import People
from jaxcomp.data.qa import ASKED, QUESTION, of_passage
from jaxcomp.data.tokenizer import world_tokenizer
from jaxcomp.data.world import World
from jaxcomp.evals.qa import readers

L = 72


def row(context, question, *answers, **more):
    return {"context": context, "question": question, "answers": list(answers), **more}


def write(file, rows):
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(file)


def cfg_of(**data):
    return world_config("answer", p=0.0, target=L, **data)


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return world_tokenizer(World().words(), tmp_path_factory.mktemp("tok") / "world")


@pytest.fixture(scope="module")
def qa(tmp_path_factory):
    """80 contexts of words of the world, two or three questions each, rows of a context apart."""
    rng, rows = np.random.default_rng(3), []
    words = [w for w in World().words() if w.isalpha()]
    for _ in range(80):
        text = list(rng.choice(words, 24, replace=False))
        for at in rng.choice(20, rng.integers(2, 4), replace=False):
            rows.append(row(" ".join(text), f"{text[at]} {text[at + 1]}", text[at + 2]))
    rows = [rows[i] for i in rng.permutation(len(rows))]
    return write(tmp_path_factory.mktemp("qa") / "qa.jsonl", rows), rows


def test_a_files_items_are_those_of_the_probe(tmp_path):
    rows = [row("The fox ran.", "who ?", "fox", "the fox"), row("A b.", "b?", "b")]
    file = write(tmp_path / "a.jsonl", rows)
    items = readers.read(tmp_path / "a.jsonl", task=readers.QA)
    found = questions.load(file)
    assert [(i.context, i.question, i.answers[0]) for i in items] == [
        (d.text, q.question, q.answer) for d in found.documents for q in found.about[d.id]
    ]
    table = pa.Table.from_pylist(
        [r | {"answers": {"text": r["answers"], "answer_start": [0]}, "title": "t"} for r in rows]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    again = questions.load(str(tmp_path / "a.parquet"))
    assert again.about == found.about
    assert again.documents[0].work == "t"


def test_what_is_left_out_and_what_is_odd_is_counted(tmp_path, caplog):
    rows = [
        row("The fox ran.", "who?", "a goat"),
        row("The fox ran.", "what?", " THE  FOX"),
        row("The fox ran.", "when?"),
        row("Alone.", "why?", "", " "),
    ]
    with caplog.at_level("INFO", "jaxcomp"):
        found = questions.load(write(tmp_path / "odd.jsonl", rows))
    assert len(found.documents) == 1
    said = caplog.text
    assert "2 questions about 1 contexts; 2 rows without an answer left out; 1 answers" in said


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", "b")], "1 rows, none with an answer; expected rows with the fields"),
        (
            [{"context": "a", "question": "b"}],
            "line 1: no field 'answers'; found context, question",
        ),
        ([row("a", "b", "c"), row("a", " ", "c")], "line 2: field 'question' is blank"),
        ([row("a", "b") | {"answers": 3}], "line 1: field 'answers' is int; expected a text, a"),
        ([row("a\udc80", "b", "c")], "line 1: a string holds half a surrogate pair"),
        ([3], "line 1: holds an integer, expected an object"),
    ],
)
def test_bad_rows_are_one_clear_error(tmp_path, rows, message):
    with pytest.raises(DataError, match="bad.jsonl.*" + message):
        questions.load(write(tmp_path / "bad.jsonl", rows))


def split_of(file):
    """Of every context of a file that is used, its split."""
    cfg = cfg_of(source="qa", path=file)
    return {d.text: s for s in ("train", "val", "test") for d in documents_of(cfg, s)}


@pytest.mark.parametrize("titled", [False, True])
def test_a_context_keeps_its_split_in_another_file(tmp_path, titled):
    """The files share contexts, in another order; with works of two contexts, or none."""
    rng, words = np.random.default_rng(5), [w for w in World().words() if w.isalpha()]
    contexts = [" ".join(rng.choice(words, 12, replace=False)) for _ in range(400)]
    rows = [
        row(c, "a?", "b", **({"title": f"work {i // 2}"} if titled else {}))
        for i, c in enumerate(contexts)
    ]
    first = split_of(write(tmp_path / "first.jsonl", rows[:300]))
    other = split_of(write(tmp_path / "other.jsonl", rows[:99:-1]))
    shared = first.keys() & other.keys()
    assert len(shared) >= 190
    assert {first[c] for c in shared} == {"train", "val", "test"}
    assert all(first[c] == other[c] for c in shared)


def test_a_world_question_is_answered_by_its_passage_alone():
    seen = set()
    worlds = World(), People(PeopleConfig(kinds=6))
    for world, i in itertools.product(worlds, range(60)):
        p = world.passage("test", i, counterfactual=True)
        asked = [s for s in p.facts if s.kind in ASKED]
        found = of_passage(p)
        assert [q.answer for q in found] == [s.value for s in asked]
        assert len({q.question for q in found}) == len(found)
        for fact, q in zip(asked, found, strict=True):
            kept = [w for w in q.question.split() if w.lower() != fact.value.lower()]
            assert len(kept) >= 2
            words = q.question.split()
            told = [" ".join([*words[:k], q.answer, *words[k:]]) for k in range(len(words) + 1)]
            assert fact.key in {k for t in told for k in world.read(t)}
            seen.add(fact.kind)
    assert seen == set(ASKED)


@pytest.mark.parametrize("source", ["world", "qa"])
def test_targets_are_the_probes_question_then_the_answer(qa, tok, source):
    if source == "qa":
        cfg, file = cfg_of(source="qa", path=qa[0]), questions.load(qa[0])
        known = {d.text: file.about[d.id] for d in documents_of(cfg, "train")}
    else:
        cfg = cfg_of(eval_passages=96)
        every = eval_examples(cfg, "train", tok, tok)  # all that training draws
        known = {e.text: of_passage(e.passage) for e in every}
    for batch in draw(train_batches(cfg, tok, tok), 3):
        assert (batch.mode_BO == CONTINUE).all()
        for b in range(BATCH):
            text = tok.decode(batch.ctx_BGT[b, 0, : batch.ctx_len_BG[b, 0]])
            ids, asked = batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0]], int(batch.asked_BO[b, 0])
            assert ids[-1] == tok.eos_id
            assert (batch.tok_BOL[b, 0, len(ids) :] == 0).all()
            said = tok.decode(ids[:asked]), tok.decode(ids[asked:-1]).strip()
            wanted = {(QUESTION.format(question=q.question), q.answer) for q in known[text]}
            assert said in wanted


def test_the_stream_goes_on_exactly_where_it_stood(tok):
    one = train_batches(cfg_of(), tok, tok)
    draw(one, 7)
    state = one.get_state()
    rest = draw(one, 5)
    two = train_batches(cfg_of(), tok, tok)
    two.set_state(state)
    assert_same(rest, draw(two, 5))


def test_held_out_batches_hold_every_question_once(qa, tok):
    cfg = cfg_of(source="qa", path=qa[0])
    examples = eval_examples(cfg, "val", tok, tok)
    wanted, _ = prepare.questions(examples, cfg, tok, corpus(cfg))
    found = []
    for batch, valid in answer_batches(cfg, "val", 5, tok, tok):
        assert (batch.tok_len_BO[valid:] == 0).all()
        assert (batch.ctx_len_BG[valid:] == 0).all()
        for b in range(valid):
            ids = batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0]].tolist()
            found.append((ids, int(batch.asked_BO[b, 0])))
    assert found == [(s.ids, s.asked) for s in wanted]


def test_what_does_not_fit_is_an_error_with_the_length_it_needs(qa, tok, tmp_path):
    cfg = cfg_of(source="qa", path=qa[0])
    long = write(tmp_path / "long.jsonl", [r | {"question": "fox " * 60} for r in qa[1]])
    with pytest.raises(DataError, match=r"[1-9]\d* questions do not fit.*set --data.target=\d+"):
        train_batches(cfg_of(source="qa", path=long), tok, tok)
    small = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, segment=8))
    with pytest.raises(DataError, match=r"[1-9]\d* of \d+ examples and \d+ of .* do not fit"):
        train_batches(small, tok, tok)
