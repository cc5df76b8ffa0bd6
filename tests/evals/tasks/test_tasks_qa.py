"""Gold answers: exact match and F1 as SQuAD's script sums them."""

from types import SimpleNamespace
from typing import Any

import pytest
from evals.qa.qa_items import measure, pair_of, planted, prepare

from jaxcomp.analysis import kept_tokens
from jaxcomp.data.tokenizer import TokenizerError
from jaxcomp.evals.evaluation import Request
from jaxcomp.evals.qa import ask
from jaxcomp.evals.qa.conditions import CONDITIONS, Prepared, Reading
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.scoring import share
from jaxcomp.evals.tasks.qa import TASK, rates, run, table

CHOSEN = "lead 5%", "lead", "sage"


def scored(item, answers):
    asked = Prepared(item, "", [], [], 1, [], 1)
    readings = {c: Reading((), a) for c, a in zip(CONDITIONS, answers, strict=True)}
    return {"context": item.id} | TASK.scored(asked, readings)


def test_scores_are_the_best_gold_answers_summed_over_questions():
    first = Item("1", "?", "", ("Oda Brenn", "Brenn"))
    second = Item("2", "?", "", ("the red goat",))
    records = [
        scored(first, ["nobody", "the brenn", "Oda Tilo Brenn", ""]),
        scored(second, ["red", "It is the red goat.", "A red goat!", "red red"]),
    ]
    found = rates(records)["conditions"]
    assert [found[c]["exact"] for c in CONDITIONS] == [share(n, 2) for n in (0, 1, 1, 0)]
    assert [found[c]["holds"] for c in CONDITIONS] == [share(n, 2) for n in (0, 2, 2, 0)]
    # By hand: F1 2PR / (P + R), the better of two golds.
    expected = [(0 + 2 / 3) / 2, (1 + 2 / 3) / 2, (4 / 5 + 1) / 2, (0 + 1 / 2) / 2]
    assert [found[c]["f1"]["mean"] for c in CONDITIONS] == pytest.approx(expected)


def test_a_run_and_its_table(monkeypatch, tmp_path):
    monkeypatch.setattr(ask, "prepare", prepare)
    monkeypatch.setattr(ask, "measure", measure)
    items = [item._replace(world=()) for item in planted(4)]
    result = run(pair_of(), items, tmp_path / "r.json").result
    assert result["about"]["task"] == "qa"
    assert result["conditions"]["memory"]["exact"] == share(2, 4)
    assert result["conditions"]["text"]["f1"]["mean"] == 1.0
    row = next(line for line in table(result).split("\n") if line.startswith("memory"))
    assert row.split("%")[0].split() == ["memory", "50.0"]
    assert not run(pair_of(), items, tmp_path / "r.json").made


def test_selections_are_further_rows_and_a_result_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(ask, "prepare", prepare)
    monkeypatch.setattr(ask, "measure", measure)
    items, out = [item._replace(world=()) for item in planted(5)], tmp_path / "r.json"
    result = run(pair_of(), items, out, also=CHOSEN).result
    assert list(result["conditions"]) == [*CONDITIONS, "sage", "lead", "lead 5%"]
    assert result["conditions"]["sage"]["exact"] == share(0, 5)
    # Of 4, 5, ..., 8 tokens one is above the 7 vectors.
    kept = {"tokens": 6.0, "budget": 7.0, "text": 102.0, "vectors": 7.0, "over": 1}
    small = kept | {"budget": 5.0, "over": 3}  # 5% of 100 to 104
    assert result["selection"] == {"lead 5%": small, "lead": kept, "sage": kept}
    said = table(result)
    assert "sage: 6.0 of 102.0 tokens kept, budget 7.0 (1 items above it)" in said
    assert [line.split()[0] for line in said.split("\n")[-6:-2]] == [
        "rebuilt", "sage", "lead", "lead",
    ]  # fmt: skip
    assert not run(pair_of(), items, out, also=CHOSEN).made
    for other in ((), ("lead",)):
        with pytest.raises(EvalError, match="another select; choose another --out"):
            run(pair_of(), items, out, also=other)


def test_the_figure_is_of_tokens_kept(monkeypatch, tmp_path, undrawn):
    monkeypatch.setattr(ask, "prepare", prepare)
    monkeypatch.setattr(ask, "measure", measure)
    out = tmp_path / "r.json"
    items = [item._replace(world=()) for item in planted(5)]
    result = run(pair_of(), items, out, also=CHOSEN).result
    found = {p["about"]["answer from"]: (p["x"], p["value"]) for p in kept_tokens.points(result)}
    assert found == {
        "nothing": (0, 0.0), "text": (102, 1.0), "memory": (7, 0.6), "rebuilt": (7, 0.0),
        "sage": (6, 0.0), "lead": (6, 0.0), "lead 5%": (6, 0.0),
    }  # fmt: skip
    page = kept_tokens.write(out)
    text = page.with_suffix(".md").read_text()
    assert "| lead 5% | 6.0 | 0.0% |" in text
    assert "Full text: 100.0%. Without text: 0.0%." in text
    panels = [figure.rows[0][0] for figure in kept_tokens.figures(result, "r")]
    series = [{row["series"] for row in panel["data"]["values"]} for panel in panels]
    assert series == [{"memory", "sage", "lead"}, {"memory", "sage"}]
    assert page.with_suffix(".png").exists()


def test_items_that_the_scorer_cannot_read_are_left_out_and_counted(monkeypatch, tmp_path):
    def encode_batch(texts):
        if "Oda 1" in texts:
            raise TokenizerError("no token")
        return [[1]] * len(texts)

    seen = {}

    def measured(pair, part, **options):
        seen.update({a.item.id: a.other for a in part})
        return measure(pair, part, **options)

    monkeypatch.setattr(ask, "prepare", prepare)
    monkeypatch.setattr(ask, "measure", measured)
    scorer: Any = SimpleNamespace(tok=SimpleNamespace(encode_batch=encode_batch), identity="s")
    items = [item._replace(world=()) for item in planted(3)]
    items[2] = items[2]._replace(context=items[0].context, question="when ?")
    result = run(pair_of(), items, tmp_path / "r.json", also=CHOSEN, scorer=scorer).result
    why = "a text or question that the scorer's tokenizer cannot say"
    assert result["items"]["left_out"] == {why: 1}
    assert seen == {"n0": "when ?", "n2": "who ?"}
    with pytest.raises(EvalError, match="another selection; choose another --out"):
        run(pair_of(), items, tmp_path / "r.json", also=CHOSEN)


def test_a_scorer_without_sage_is_refused():
    request = Request("qa", [("x", {})], print, select="lead", scorer="DIR")
    with pytest.raises(EvalError, match="--scorer goes with --select=sage"):
        ask.asked_of_file(TASK, request, table)
