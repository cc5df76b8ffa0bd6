"""Questions to train on: read, split by context, put into tokens as the probes put them."""

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_configs import BATCH, assert_same, draw, world_config

from jaxcomp.data import batches
from jaxcomp.data import qa as questions
from jaxcomp.data.batches import CONTINUE, REBUILD, data_tokenizer, train_batches
from jaxcomp.data.corpus import corpus, documents_of
from jaxcomp.data.documents import DataError
from jaxcomp.data.eval_sets import held_pieces
from jaxcomp.data.qa import ASKED, QUESTION, of_passage
from jaxcomp.data.qa_batches import about, answer_batches
from jaxcomp.data.tokenizer import world_tokenizer
from jaxcomp.data.world import World
from jaxcomp.evals.qa import readers
from jaxcomp.inference import pair

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


def test_the_question_is_the_one_that_the_probes_ask():
    assert QUESTION is pair.QUESTION


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
    assert (found.unanswered, found.not_stated) == (2, 1)
    assert len(found.documents) == 1
    said = caplog.text
    assert "2 questions about 1 contexts; 2 rows without an answer left out; 1 answers" in said


def test_the_first_answer_that_stands_in_the_context_is_learned(tmp_path):
    rows = [row("The fox ran.", "who?", "a goat", "fox", "the fox"), row("A.", "b?", "c", "d")]
    found = questions.load(write(tmp_path / "gold.jsonl", rows))
    assert [q.answer for asked in found.about.values() for q in asked] == ["fox", "c"]
    assert found.not_stated == 1


class Deaf:
    """A tokenizer that has no token for the word "unsayable"."""

    def __init__(self, tok):
        self.tok = tok

    def __getattr__(self, name):
        return getattr(self.tok, name)

    def encode_batch(self, texts):
        return self.tok.encode_batch([t.replace(" unsayable", "") for t in texts])


def test_an_answer_of_no_token_is_left_out_and_counted(qa, tok, tmp_path, caplog):
    _, rows = qa
    half = {r["context"] for r in rows[::2]}
    odd = [r | {"answers": ["unsayable"]} if r["context"] in half else r for r in rows]
    cfg = cfg_of(source="qa", path=write(tmp_path / "odd.jsonl", odd))
    deaf: Any = Deaf(tok)
    with caplog.at_level("INFO", "jaxcomp"):
        drawn = draw(train_batches(cfg, deaf, deaf), 12)
    assert all((b.tok_len_BO > b.asked_BO + 1).all() for b in drawn)
    train = {d.text for d in documents_of(cfg, "train")}
    gone = sum(r["context"] in half & train for r in odd)
    assert f"{gone} answers of no token: left out" in caplog.text
    held = [b for b, _ in answer_batches(cfg, "val", 4, deaf, deaf)]
    assert all((b.tok_len_BO != b.asked_BO + 1).all() for b in held)


def test_a_stream_without_a_question_says_so(qa, tok, monkeypatch):
    cfg = cfg_of(source="qa", path=qa[0])
    small = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, segment=8))
    monkeypatch.setattr(batches, "first_count", lambda *_: 1)
    with pytest.raises(DataError, match="no context fits and has a question; set a larger"):
        next(train_batches(small, tok, tok))


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


def test_a_text_file_holds_no_questions(tmp_path):
    (tmp_path / "a.txt").write_text("What? That.")
    with pytest.raises(DataError, match=r"a\.txt: a \.txt file holds no questions"):
        questions.load(str(tmp_path / "a.txt"))


def test_no_context_is_in_two_splits(qa):
    file, rows = qa
    cfg = cfg_of(source="qa", path=file)
    texts = {s: {d.text for d in documents_of(cfg, s)} for s in ("train", "val", "test")}
    assert all(texts.values())
    assert len(set.union(*texts.values())) == sum(map(len, texts.values()))
    assert set.union(*texts.values()) <= {r["context"] for r in rows}


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


def test_a_row_without_a_title_leaves_works_together(qa, tmp_path):
    _, rows = qa
    contexts = sorted({r["context"] for r in rows})
    titles = {c: f"work {i // 2}" for i, c in enumerate(contexts[1:])}
    rows = [r | {"title": titles.get(r["context"], "")} for r in rows]
    rows[-1] = rows[-1] | {"title": None}  # another row of its context has one
    found = split_of(write(tmp_path / "works.jsonl", rows))
    assert len(set(found.values())) == 3
    splits = {}
    for c, title in titles.items():
        splits.setdefault(title, set()).add(found[c])
    assert {len(s) for s in splits.values()} == {1}


def test_a_world_question_is_answered_by_its_passage_alone():
    world = World()
    seen = set()
    for i in range(60):
        p = world.passage("test", i, counterfactual=True)
        asked = [s for s in p.slots if s.kind in ASKED]
        found = of_passage(p)
        assert [q.answer for q in found] == [s.value for s in asked]
        assert len({q.question for q in found}) == len(found)
        for slot, q in zip(asked, found, strict=True):
            kept = [w for w in q.question.split() if w.lower() != slot.value.lower()]
            assert len(kept) >= 2
            words = q.question.split()
            told = [" ".join([*words[:k], q.answer, *words[k:]]) for k in range(len(words) + 1)]
            assert slot.key in {k for t in told for k in world.read(t)}
            seen.add(slot.kind)
    assert seen == set(ASKED)


@pytest.mark.parametrize("source", ["world", "qa"])
def test_targets_are_the_probes_question_then_the_answer(qa, tok, source):
    if source == "qa":
        cfg, file = cfg_of(source="qa", path=qa[0]), questions.load(qa[0])
        known = {d.text: file.about[d.id] for d in documents_of(cfg, "train")}
    else:
        cfg = cfg_of(eval_passages=96)
        pieces = held_pieces(cfg, "train", tok, tok)  # all that training draws
        known = {p.text: of_passage(p.passage) for p in pieces if p.passage}
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


def test_a_context_is_rebuilt_instead_with_its_probability(tok):
    cfg = dataclasses.replace(
        cfg_of(), train=dataclasses.replace(cfg_of().train, p_reconstruct=0.4)
    )
    modes, blank = [], 0
    for batch in draw(train_batches(cfg, tok, tok), 40):
        again = batch.mode_BO[:, 0] == REBUILD
        modes += again.tolist()
        assert (batch.asked_BO[again] == 0).all()
        assert (batch.asked_BO[~again] > 5).all()
        for b in np.flatnonzero(again):
            ids = batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0] - 1]
            assert tok.decode(ids) == tok.decode(batch.ctx_BGT[b, 0, : batch.ctx_len_BG[b, 0]])
        blank += int((batch.ctx_len_BG == 0).sum())
    assert 0.3 < np.mean(modes) < 0.5
    assert not blank


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
    pieces = held_pieces(cfg, "val", tok, tok)
    wanted = [s for said in about(pieces, tok, corpus(cfg)) for s in said]
    found = []
    for batch, valid in answer_batches(cfg, "val", 5, tok, tok):
        assert (batch.tok_len_BO[valid:] == 0).all()
        assert (batch.ctx_len_BG[valid:] == 0).all()
        for b in range(valid):
            ids = batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0]].tolist()
            found.append((ids, int(batch.asked_BO[b, 0])))
    assert found == [tuple(s) for s in wanted]


def test_a_byte_level_decoder_is_asked_the_same(qa, tmp_path):
    cfg = cfg_of(source="qa", path=qa[0], vocab_size=300, segment=128)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, target=200))
    tok = data_tokenizer(cfg)
    batch = next(train_batches(cfg, tok, tok))
    for b in range(BATCH):
        ids = batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0] - 1].tolist()
        text = tok.decode(ids)
        assert text.startswith("\nQuestion: ")
        assert tok.decode(ids[: batch.asked_BO[b, 0]]).endswith("\nAnswer:")
        assert tok.encode(text) == ids


def test_what_does_not_fit_is_an_error_with_the_length_it_needs(qa, tok, tmp_path):
    cfg = cfg_of(source="qa", path=qa[0])
    long = write(tmp_path / "long.jsonl", [r | {"question": "fox " * 60} for r in qa[1]])
    with pytest.raises(DataError, match=r"[1-9]\d* questions do not fit.*set --data.target=\d+"):
        train_batches(cfg_of(source="qa", path=long), tok, tok)
    small = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, segment=8))
    with pytest.raises(DataError, match=r"[1-9]\d* of \d+ contexts and \d+ of .* do not fit"):
        train_batches(small, tok, tok)
