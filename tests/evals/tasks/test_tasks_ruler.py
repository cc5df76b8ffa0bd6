"""`jaxcomp eval --task=ruler`: recall by task and condition, of a pair of any kind."""

import json

import pytest
from evals.qa.qa_items import measure, pair_of, prepare
from inference.inference_runs import ONE, trained

from jaxcomp.analysis import kept_tokens
from jaxcomp.cli import main
from jaxcomp.evals.qa import ask
from jaxcomp.evals.qa.conditions import CONDITIONS, Prepared, Reading
from jaxcomp.evals.qa.items import Item
from jaxcomp.evals.tasks import ruler
from jaxcomp.runtime.sharding import use_mesh


def record(name, expected, *answers):
    item = Item(name, "?", name, expected)
    readings = {c: Reading((), a) for c, a in zip(CONDITIONS, answers, strict=True)}
    return {"id": name} | ruler.TASK.scored(Prepared(item, "", [], [], 1, [], 1), readings)


def test_recall_is_a_mean_of_items_by_task():
    records = [
        record("niah_multivalue/0", ("11", "22"), "", "22, 11", "22", "1 1"),
        record("niah_multivalue/1", ("33", "44"), "", "33", "", ""),
        record("vt/0", ("AB", "CD", "EF", "GH"), "gh", "ab cd ef gh", "", "CD\nEF"),
    ]
    found = ruler.rates(records)["conditions"]
    assert [found[c]["recall"]["mean"] for c in CONDITIONS] == pytest.approx(
        [0.25 / 3, 2.5 / 3, 0.5 / 3, 0.5 / 3]
    )
    tasks = {c: {t: one["mean"] for t, one in found[c]["tasks"].items()} for c in CONDITIONS}
    assert tasks["text"] == {"niah_multivalue": 0.75, "vt": 1}
    assert tasks["rebuilt"] == {"niah_multivalue": 0, "vt": 0.5}
    assert [ruler.TASK.answerable(r) for r in records] == [True, False, True]
    assert not any(ruler.TASK.known(r) for r in records)


def test_a_run_its_table_and_its_figure(monkeypatch, tmp_path, undrawn):
    seen = []

    def measured(pair, part, **options):
        seen.append(options)
        return measure(pair, part, **options)

    monkeypatch.setattr(ask, "prepare", prepare)
    monkeypatch.setattr(ask, "measure", measured)
    items = [Item(f"n{i}", "?", f"{i}", (f"{i}", "zz")) for i in range(3)]
    out = tmp_path / "r.json"
    result = ask.run(ruler.TASK, pair_of(), items, out, also=["lead"]).result
    assert {(o["max_new"], o["stop"]) for o in seen} == {(128, "")}
    assert result["conditions"]["text"]["recall"]["mean"] == 0.5
    page = kept_tokens.write(out).with_suffix(".md").read_text()
    assert "| expected texts found |" in page
    assert "Full text: 50.0%." in page


def test_how_an_answer_begins_decides_what_a_result_is_of(monkeypatch, tmp_path):
    monkeypatch.setattr(ask, "prepare", prepare)
    monkeypatch.setattr(ask, "measure", measure)
    items = [Item("n0", "?", "0", ("0",))]
    ask.run(ruler.TASK, pair_of(), items, tmp_path / "r.json")
    begun = [items[0]._replace(answer_prefix="It is")]
    with pytest.raises(ask.EvalError, match="another items; choose another --out"):
        ask.run(ruler.TASK, pair_of(), begun, tmp_path / "r.json")


def typed(capsys, tmp_path, *argv):
    run = f"--run={trained()}", f"--out={tmp_path / 'r.json'}", "--limit=1", "--length=600"
    with use_mesh(ONE):
        code = main.main(["eval", "--task=ruler", *run, *map(str, argv)])
    return code, *capsys.readouterr()


def test_a_finished_run(monkeypatch, tmp_path, capsys, undrawn):
    """The decoder, which is too small for these contexts, says the first expected text."""

    def prepared(pair, items, *, max_new):
        ids = [pair.comp_tok.encode(item.context) for item in items]
        assert all(500 < len(some) <= 600 for some in ids)
        return [
            Prepared(i, i.tail, [1], n, len(n), [], 1, 7) for i, n in zip(items, ids, strict=True)
        ], {}

    def measured(pair, part, *, also, **_):
        readings = {c: Reading((), "none", kept=5) for c in (*CONDITIONS, *also)}
        return [readings | {"text": Reading((), a.item.answers[0])} for a in part]

    monkeypatch.setattr(ask, "prepare", prepared)
    monkeypatch.setattr(ask, "measure", measured)
    code, said, told = typed(capsys, tmp_path, "--select=lead", "--budgets=0.1")
    assert code == 0, told
    result = json.loads((tmp_path / "r.json").read_text())
    assert said == ruler.table(result) + "\n"
    header = next(line for line in said.split("\n") if line.startswith("answer from"))
    assert header.split()[2:] == [
        "single_1", "single_3", "multikey_1", "multikey_2", "multikey_3", "multivalue",
        "multiquery", "vt", "mean",
    ]  # fmt: skip
    rows = {line.split("  ")[0]: line.split() for line in said.split("\n")[-8:-3]}
    assert list(rows) == [*CONDITIONS, "lead 10%"]
    assert rows["text"][1:10] == ["100.0%"] * 5 + ["25.0%", "25.0%", "20.0%", "71.2%"]
    assert f"written: {tmp_path / 'r.json'}" in told
    code, again, told = typed(capsys, tmp_path, "--select=lead", "--budgets=0.1")
    assert (code, again) == (0, said)
    assert "nothing to do" in told


def test_a_context_that_a_decoder_cannot_hold_is_counted(tmp_path, capsys):
    code, _, told = typed(capsys, tmp_path)
    assert code == 2
    assert "none of the 8 items can be asked: 8 with a text too long for the decoder" in told


def test_essays_come_from_a_file(tmp_path, capsys):
    code, _, told = typed(capsys, tmp_path, f"--data={tmp_path / 'none.txt'}")
    assert (code, told) == (2, f"jaxcomp: error: {tmp_path}/none.txt: no such file or folder\n")
    (tmp_path / "e.txt").write_text("The fox looked small. " * 30)
    code, _, told = typed(capsys, tmp_path, f"--data={tmp_path / 'e.txt'}")
    assert "none of the 9 items can be asked" in told
    (tmp_path / "e.txt").write_text("\u2603 " * 30)
    code, _, told = typed(capsys, tmp_path, f"--data={tmp_path / 'e.txt'}")
    assert code == 2
    assert "\u2603" in told
