"""Reading items: six schemas, recognised by their fields; every mistake is one sentence."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.readers import read

ROW = {
    "id": "made-up-1",
    "question": "who tends the lighthouse?",
    "context": "The lighthouse is tended by Oda Brenn , a retired baker .",
    "context_answer": "Oda Brenn",
    "prior_answer": "Tilo Marsk",
}
FAITH = {
    "question": "What heats the hut?",
    "context": "In this valley huts are heated by snow.",
    "choices": {"text": ["fire", "snow", "moss"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
CONFLICTQA = {
    "question": "What is Oda Brenn's occupation?",
    "ground_truth": ["baker", "cook"],
    "memory_answer": "Oda Brenn's occupation is baker.",
    "parametric_memory": "Oda Brenn bakes.",
    "counter_answer": "Oda Brenn's occupation is diver.",
    "counter_memory": "Oda Brenn has dived for years.",
}
LONGBENCH = {
    "input": "Who bakes?", "context": "Passage 1: Oda bakes.", "answers": ["Oda", "Oda B."],
    "length": 4, "dataset": "hotpotqa", "language": "en", "all_classes": None, "_id": "f00d",
}  # fmt: skip
MRQA = {
    "id": "", "context": "[PAR] Oda bakes.", "context_tokens": [["[PAR]", 0]],
    "qas": [
        {
            "qid": "q1", "question": "Who bakes?", "answers": ["Oda", "oda"],
            "detected_answers": [{"text": "Oda", "char_spans": [[6, 8]], "token_spans": [[1, 1]]}],
        },
        {"question": "What does Oda do?", "answers": ["bakes"]},
    ],
}  # fmt: skip
HEADER = {"header": {"dataset": "SQuAD", "split": "dev"}}
SQUAD = {"id": 4, "question": "Who bakes?", "context": "Oda bakes.", "answers": ["Oda", "Oda B."]}


def row(**change):
    return json.dumps({**ROW, **change})


def without(name):
    return json.dumps({k: v for k, v in ROW.items() if k != name})


def jsonl(tmp_path, *rows):
    file = tmp_path / "i.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


def test_items_come_in_the_files_order_and_a_limit_takes_the_first(tmp_path):
    file = tmp_path / "i.jsonl.gz"
    rows = [row(id=i, extra=[1]) for i in (7, 3)] + ["", row(id="x", question="a\u2028b")]
    file.write_bytes(gzip.compress("\n".join(rows).encode()))
    found = read(file)
    assert [item.id for item in found] == ["7", "3", "x"]
    assert found[2].question == "a\u2028b"
    assert found[0] == Item("7", ROW["question"], ROW["context"], ("Oda Brenn",), ("Tilo Marsk",))
    assert found[0].options == ("Oda Brenn", "Tilo Marsk")
    assert read(file, 2) == found[:2]
    assert read(file, 9) == found


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_faitheval_has_the_keyed_choice_against_all_others(tmp_path, suffix):
    rows = [FAITH, {**FAITH, "answerKey": "C", "question": "And this?"}]
    file = jsonl(tmp_path, *rows)
    if suffix == "parquet":
        file = tmp_path / "i.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
    one, two = read(file)
    assert one == Item(one.id, FAITH["question"], FAITH["context"], ("snow",), (), ("fire", "moss"))
    assert one.options == ("snow", "fire", "moss")
    assert two.options == ("moss", "fire", "snow")
    places = {"jsonl": ("line 1", "line 2"), "parquet": ("row 0", "row 1")}
    assert (one.id, two.id) == places[suffix]


def test_conflictqas_truth_is_of_the_side_that_says_it(tmp_path):
    right = {**CONFLICTQA, "ground_truth": ["politician", "diver"]}
    neither = {**CONFLICTQA, "ground_truth": ["smith"]}
    world, passage, elsewhere = read(jsonl(tmp_path, CONFLICTQA, right, neither))
    own, other = CONFLICTQA["counter_answer"], CONFLICTQA["memory_answer"]
    assert world.context == CONFLICTQA["counter_memory"]
    assert (world.answers, world.world) == ((own,), (other, "baker", "cook"))
    assert (passage.answers, passage.world) == ((own, "politician", "diver"), (other,))
    assert (elsewhere.answers, elsewhere.world) == ((own,), (other, "smith"))
    assert all(item.options == (own, other) for item in (world, passage, elsewhere))


def test_squad_has_gold_answers_and_no_rival(tmp_path):
    struct = {**SQUAD, "id": 5, "answers": {"text": ["Oda"], "answer_start": [0]}}
    none = {**SQUAD, "id": 6, "answers": []}
    found = read(jsonl(tmp_path, SQUAD, struct, none), task="qa")
    assert [item.answers for item in found] == [("Oda", "Oda B."), ("Oda",), ()]
    assert [item.options for item in found] == [("Oda",), ("Oda",), ()]
    assert [item.id for item in found] == ["4", "5", "6"]


def test_longbenchs_input_is_the_question(tmp_path):
    file = jsonl(tmp_path, LONGBENCH, {**LONGBENCH, "_id": "f00e", "answers": []})
    one, two = read(file, task="qa")
    assert one == Item("f00d", "Who bakes?", "Passage 1: Oda bakes.", ("Oda", "Oda B."))
    assert (two.id, two.answers) == ("f00e", ())


def test_a_row_of_mrqa_is_several_questions_after_a_header(tmp_path):
    file = tmp_path / "m.jsonl.gz"
    rows = HEADER, MRQA | {"id": "x"}, MRQA | {"qas": MRQA["qas"][1:], "id": None}
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found = read(file, task="qa")
    assert [i.id for i in found] == ["q1", "x, question 2", "line 3, question 1"]
    assert found[0] == Item("q1", "Who bakes?", "[PAR] Oda bakes.", ("Oda", "oda"))
    assert found[2].question == "What does Oda do?"
    assert read(file, 2, task="qa") == found[:2]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**LONGBENCH, "dataset": "gov_report"}],
         "line 1: field 'dataset' is 'gov_report': expected 'narrativeqa', 'qasper'"),
        ([{**LONGBENCH, "input": ""}], "line 1: field 'input' is '': expected text that is not"),
        ([LONGBENCH, LONGBENCH], "line 2: id 'f00d' is that of line 1 too"),
        ([LONGBENCH, SQUAD], "line 2: no field 'input'; found id, question, context, answers;"),
        ([HEADER, {**MRQA, "qas": [MRQA["qas"][1], {"qid": 3, "question": "Who?"}]}],
         "line 2: no field 'qas.1.answers'; found"),
        ([HEADER, {**MRQA, "qas": [{**MRQA["qas"][0], "question": 7}]}],
         "line 2: field 'qas.0.question' is 7: expected"),
        ([HEADER, {**MRQA, "qas": "none"}], "line 2: field 'qas' is 'none': expected"),
        ([HEADER, MRQA, MRQA], "line 3: id 'q1' is that of line 2 too"),
        ([HEADER], "no question in it; expected at least one"),
        ([HEADER, {**MRQA, "qas": []}], "no question in it; expected at least one"),
        ([HEADER, {"a": 1}], "line 2: the fields are a; --task=qa takes rows with the fields of "
         "squad (question, context, answers) or longbench (input, context, answers, dataset) or "
         "mrqa (context, qas)"),
    ],
)  # fmt: skip
def test_a_bad_benchmark_file_is_one_sentence(tmp_path, rows, said):
    file = jsonl(tmp_path, *rows)
    with pytest.raises(EvalError) as error:
        read(file, task="qa")
    assert f"{file}: {said}" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_beyond_the_limit_is_not_looked_at(tmp_path):
    file = tmp_path / "i.jsonl"
    file.write_text(f"{row()}\nnot json\n")
    assert len(read(file, 1)) == 1
    with pytest.raises(EvalError, match="line 2"):
        read(file)
    with pytest.raises(EvalError, match="limit is 0; expected at least 1"):
        read(file, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty; expected an object a row"),
        ("\n \n", "empty"),
        ("{", "line 1: not JSON"),
        (f"{row()}\n[1]", "line 2: holds a list [...], expected an object"),
        ("[" * 100_000, "line 1: nested too deep"),
        (without("prior_answer"), "line 1: the fields are id, question, context, context_answer; "
         "--task=overwriting takes rows with the fields of conflicts (question, context,"),
        ('{"a": 1}', "or faitheval (question, context, choices, answerKey) or conflictqa ("),
        (f"{row()}\n{json.dumps(FAITH)}", "line 2: no field 'context_answer'; found question, con"),
        (json.dumps(SQUAD), "the fields are those of squad, which is for --task=qa"),
        (row(context=None), "field 'context' is None: expected a valid string"),
        (row(id=True), "field 'id' is True: expected"),
        (row(context_answer=["Oda"]), "field 'context_answer' is ['Oda']: expected"),
        (row(question=" \n"), "field 'question' is ' \\n': expected text that is not blank"),
        (row(context="a\ud800b"), "line 1: a string holds half a surrogate pair"),
        (f"{row()}\n\n{row(question='q')}", "line 3: id 'made-up-1' is that of line 1 too"),
        (f"{row(id=1)}\n{row(id='1')}", "line 2: id '1' is that of line 1 too"),
        (json.dumps({**FAITH, "answerKey": "D"}), "label for each text of 'choices', one of them"),
        (json.dumps({**FAITH, "choices": {"text": ["a", "b"], "label": ["A"]}}),
         "expected a label for each text of 'choices'"),
        (json.dumps({**FAITH, "choices": ["fire", "snow"]}), "field 'choices' is ['fire', 'snow']"),
        (json.dumps({**CONFLICTQA, "ground_truth": [3]}), "field 'ground_truth.0' is 3: expected"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_sentence(tmp_path, text, said):
    file = tmp_path / "i.jsonl"
    file.write_text(text)
    with pytest.raises(EvalError) as error:
        read(file)
    assert said in str(error.value)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("i.jsonl", None, "no such file"),
        ("i.csv", b"", "unsupported kind"),
        ("cut.jsonl.gz", gzip.compress(row().encode())[:-9], "is it complete"),
        ("plain.jsonl.gz", row().encode(), "cannot be read"),
        ("latin.jsonl", b"\xe9", "not UTF-8 at line 1"),
        ("cut.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_a_bad_place_is_one_sentence(tmp_path, name, content, said):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EvalError, match=rf"{name}: .*{said}"):
        read(file)
