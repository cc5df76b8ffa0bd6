"""Question sets: what is kept, what is refused and why, and what counts as right."""

import json

import pytest

from jaxcomp.evals.pairs.minimal_pairs import Passage
from jaxcomp.evals.qa import question_answers, question_file
from jaxcomp.evals.qa.conditions import CONDITIONS, Reading
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.evals.qa.question_answers import rates
from jaxcomp.evals.qa.question_file import ASKED_ABOUT, FIELDS, Question, export, read
from jaxcomp.evals.qa.squad import refuses
from jaxcomp.inference.pair import Score

PASSAGE = "The tall miller sold nine sacks to Oda Brenn before the storm."
GOOD = {
    "id": "p/1", "passage_id": "p", "passage": PASSAGE, "dimension": "quantity",
    "question": "How many sacks were sold?", "answer": "nine", "unanswerable": False,
}  # fmt: skip
OPEN = GOOD | {
    "id": "p/2", "dimension": "unanswerable", "question": "What did he pay?", "answer": "",
    "unanswerable": True,
}  # fmt: skip


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_good_rows_are_kept_and_counted(tmp_path):
    role = {"id": 3, "dimension": "role", "answer": "Oda  BRENN,"}
    chosen = GOOD | role | {"options": ["a miller", "Ann"]}
    among = GOOD | {"id": "p/4", "options": ["nine", "two", "six"]}  # the answer among its options
    found = read(write(tmp_path / "q.jsonl", GOOD, OPEN | {"answer": None}, chosen, among))
    assert [q.id for q in found.questions] == ["p/1", "p/2", "3", "p/4"]
    assert [q.unanswerable for q in found.questions] == [False, True, False, False]
    assert [q.options for q in found.questions] == [(), (), ("a miller", "Ann"), ("two", "six")]
    assert found.counts == dict.fromkeys(ASKED_ABOUT, 0) | {
        "quantity": 2, "role": 1, "unanswerable": 1,
    }  # fmt: skip
    assert (found.rows, found.refused) == (4, {})
    assert (found.passages, found.uneven, found.bare) == (1, 1, 0)
    assert "4 of 4 questions kept" in found.summary()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"answer": "ten"}, "an answer that is not in the passage"),
        ({"answer": "mill"}, "an answer that is not in the passage"),  # whole words only
        ({"answer": ""}, "an answer that is not in the passage"),
        ({"dimension": "colour"}, "an unknown dimension"),
        ({"dimension": "unanswerable"}, 'a dimension that contradicts "unanswerable"'),
        ({"unanswerable": True}, 'a dimension that contradicts "unanswerable"'),
        ({"unanswerable": "no"}, "a field 'unanswerable' that is blank or of another kind"),
        ({"dimension": "unanswerable", "unanswerable": True}, "an answer where there is none"),
        ({"question": " "}, "a field 'question' that is blank or of another kind"),
        ({"options": "two"}, "a field 'options' that is blank or of another kind"),
        ({"options": ["two", 3]}, "a field 'options' that is blank or of another kind"),
        ({"options": ["two", "The two!"]}, "options that normalise to the same or to nothing"),
        ({"options": ["two", "an"]}, "options that normalise to the same or to nothing"),
        ({"id": "ok"}, "an id that was there before"),
    ],
)
def test_a_bad_question_is_refused_and_said(change, why, tmp_path):
    found = read(write(tmp_path / "q.jsonl", GOOD | {"id": "ok"}, GOOD | change))
    assert [q.id for q in found.questions] == ["ok"]
    assert (found.rows, found.refused) == (2, {why: 1})
    assert f"1 with {why}" in found.summary()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "a", "text": "x"}], "line 1: no field 'passage_id'; found id, text; expected id"),
        ([{k: v for k, v in GOOD.items() if k != "unanswerable"}], "no field 'unanswerable'"),
        ([{"passage_id": "p", "reply": "[]"}], "no field 'passage'; found passage_id, reply"),
        ([GOOD | {"answer": "ten"}], "none of 1 questions is kept: 1 with an answer that is not"),
        ([], "empty"),
    ],
)
def test_another_file_is_one_error(rows, said, tmp_path):
    with pytest.raises(EvalError, match=said):
        read(write(tmp_path / "q.jsonl", *rows))


def test_a_limit_is_of_questions_kept(tmp_path):
    file = write(tmp_path / "q.jsonl", GOOD | {"answer": "ten"}, GOOD, OPEN)
    assert question_file.are_questions(file)
    found = read(file, 1)
    assert ([q.id for q in found.questions], found.rows) == (["p/1"], 2)
    with pytest.raises(EvalError, match="limit is 0"):
        read(file, 0)


def test_replies_become_questions(tmp_path):
    own = [{k: v for k, v in row.items() if k in FIELDS[3:]} for row in (GOOD, OPEN)]
    reply = f"Here they are:\n```json\n{json.dumps([*own, 'what?', {'question': 'Who?'}])}\n```"
    rows = [
        {"passage_id": "p", "passage": PASSAGE, "reply": reply},
        {"passage_id": "q", "passage": PASSAGE, "reply": "I cannot do that."},
        {"passage_id": "r", "passage": PASSAGE, "reply": "[1, 2"},
        {"passage_id": "s", "passage": PASSAGE, "reply": "[" * 100_000},
        {"passage_id": "t", "passage": PASSAGE, "reply": '[{"answer": %s}]' % ("9" * 5000)},
    ]
    found = read(write(tmp_path / "r.jsonl", *rows))
    assert [(q.id, q.answer) for q in found.questions] == [("p/1", "nine"), ("p/2", "")]
    assert found.rows == 8
    assert found.refused == {
        "a question of a reply that is no object": 1,
        "a field 'dimension' that is blank or of another kind": 1,
        "a reply that is no JSON list": 4,
    }
    assert (found.passages, found.uneven, found.bare) == (5, 5, 4)
    assert "about 5 passages, 5 of them with another number than 20, 4 with none" in found.summary()


@pytest.mark.parametrize(
    "around",
    ["Here are [20] questions:\n{}", "See [1] and [the passage].\n```json\n{}\n```\nDone [end].",
     '{{"questions": {}}}'],
)  # fmt: skip
def test_brackets_in_the_words_around_lose_no_reply(around, tmp_path):
    own = {k: v for k, v in GOOD.items() if k in FIELDS[3:]} | {"options": ["two", "six"]}
    row = {"passage_id": "p", "passage": PASSAGE, "reply": around.format(json.dumps([own, own]))}
    found = read(write(tmp_path / "r.jsonl", row))
    assert ([q.id for q in found.questions], found.refused) == (["p/1", "p/2"], {})
    assert found.questions[0].options == ("two", "six")


def test_a_second_reply_is_called_that(tmp_path):
    own = {k: v for k, v in GOOD.items() if k in FIELDS[3:]}
    row = {"passage_id": "p", "passage": PASSAGE, "reply": json.dumps([own])}
    other = row | {"passage": f"{PASSAGE} Then it rained."}
    none = row | {"reply": "I cannot do that."}
    found = read(write(tmp_path / "r.jsonl", none, row, row, other, GOOD | {"passage": "Nine."}))
    assert [q.id for q in found.questions] == ["p/1"]  # asked again after it gave nothing
    assert found.refused == {
        "a reply that is no JSON list": 1,
        "a second reply about one passage": 1,
        "a passage_id that stood with another passage": 2,
    }
    assert (found.rows, found.passages, found.bare) == (5, 1, 0)
    nameless = GOOD | {"id": "x", "passage_id": None}
    assert read(write(tmp_path / "s.jsonl", GOOD, nameless)).passages == 1


def test_what_is_exported_can_be_replied_to(tmp_path):
    passages = [Passage("p", PASSAGE + ' {"braces"} %s', "made"), Passage("q", "Ünder.", "made")]
    file = tmp_path / "deep" / "prompts.jsonl"
    assert export(passages, file) == 2
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [(row["passage_id"], row["passage"]) for row in rows] == [p[:2] for p in passages]
    for row, passage in zip(rows, passages, strict=True):
        assert row["prompt"].endswith(f"Passage:\n{passage.text}\n")
        assert "exactly 20 questions" in row["prompt"]
        assert all(f"\n  {name} " in row["prompt"] for name in ASKED_ABOUT)
    own = {k: v for k, v in GOOD.items() if k in FIELDS[3:]}
    found = read(write(tmp_path / "r.jsonl", rows[0] | {"reply": json.dumps([own] * 20)}))
    assert (len(found.questions), found.uneven) == (20, 0)
    with pytest.raises(EvalError, match="is there already"):
        export(passages, file)
    with pytest.raises(EvalError, match="no passage"):
        export([], tmp_path / "none.jsonl")


REFUSED = (
    "Unanswerable.", "It's not stated in the passage", "I don't know", "", "It is unknown.",
    "Unknown in this text", "No answer is given.", "The passage doesn't mention his wife.",
    "The name of the dog is not mentioned in the passage.",
    "Not specified. Based on the text, nobody knows.",
)  # fmt: skip
ANSWERED = (
    "Oda Brenn", "the unknowns", "The Unknown Soldier", "a man not known for his speed",
    "He was not given a name.", "Unknown in 1912", "No answer from Berlin", "No answers came",
)  # fmt: skip


def test_refusals_are_told_from_answers():
    assert [answer for answer in (*REFUSED, *ANSWERED) if refuses(answer)] == list(REFUSED)


def scored(row, answer, options=()):
    question = Question(*[row[name] for name in FIELDS[:-1]])
    return question_answers._scored(question, Reading(tuple(options), answer, False))


def test_what_counts_as_right():
    right = scored(GOOD, "Nine!")
    assert (right["holds"], right["exact"], right["f1"], right["refused"]) == (True, True, 1, False)
    half = scored(GOOD, "nine sacks")
    assert (half["holds"], half["exact"], half["f1"]) == (True, False, pytest.approx(2 / 3))
    assert scored(GOOD, "not stated")["refused"]
    assert not scored(GOOD, "not stated")["holds"]
    assert scored(OPEN, "It is not mentioned.")["holds"]
    assert not scored(OPEN, "ten crowns")["holds"]
    assert scored(GOOD, "", [Score(2.0, 2), Score(1.5, 1)])["chosen"]
    assert not scored(GOOD, "", [Score(2.0, 1), Score(1.5, 1)])["chosen"]
    assert scored(GOOD, "")["chosen"] is None


def test_rates_of_known_answers():
    def made(row, answer):
        one = scored(row, answer)
        conditions = dict.fromkeys(CONDITIONS, one)
        return {"dimension": row["dimension"], "context": answer, "conditions": conditions}

    answers = [(GOOD, "nine"), (GOOD, "unknown"), (OPEN, "unknown"), (OPEN, "ten"), (OPEN, "ten")]
    found = rates([made(row, answer) for row, answer in answers])["dimensions"]
    memory = {name: one["memory"] for name, one in found.items()}
    for name, what, count, n in (
        ("quantity", "holds", 1, 2),
        ("unanswerable", "holds", 1, 3),
        ("answerable", "refused", 1, 2),
    ):
        assert (memory[name][what]["count"], memory[name][what]["n"]) == (count, n)
    assert memory["answerable"]["f1"]["mean"] == pytest.approx(0.5)
    assert memory["topic"]["holds"]["rate"] is None
