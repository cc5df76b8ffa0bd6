"""`jaxcomp eval` as it is typed: of a finished run without its config, and its tasks."""

import json
import shutil

import pytest
from inference.inference_runs import ONE, texts, trained
from qa_items import planted, write

import jaxcomp
from jaxcomp.cli import main
from jaxcomp.evals.qa.items import Item
from jaxcomp.evals.tasks import overwriting, qa
from jaxcomp.runtime.sharding import use_mesh


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with use_mesh(ONE):
        yield shutil.copytree(trained(), tmp_path_factory.mktemp("run") / "run")


def typed(capsys, *argv):
    code = main.main(["eval", *map(str, argv)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_run_is_evaluated_without_its_config(run, capsys):
    code, said, _ = typed(capsys, f"--run={run}")
    assert code == 0
    metrics = json.loads((run / "eval.json").read_text())["metrics"]
    assert f"all {len(metrics)} metrics: {run / 'eval.json'}" in said
    assert metrics["counterfactual/passages"] == 6
    assert metrics["counterfactual/loss"] > 0
    file, first = run / "eval.json", said
    code, said, told = typed(capsys, f"--run={run}")
    assert (code, said) == (0, first)
    assert told == f"nothing to do: {file} is of this run and of these definitions already\n"


def test_tasks_write_beside_the_run_and_resume(run, tmp_path, capsys):
    items = [
        Item(f"i{n}", "who ?", text, ("Alice",), ("Simon",)) for n, text in enumerate(texts()[:3])
    ]
    file = write(tmp_path / "made.v1.jsonl", items)
    argv = [f"--run={run}", "--task=overwriting", f"--data={file}", "--limit=2", "--batch=2"]
    code, first, told = typed(capsys, *argv)
    out = run / "tasks" / "overwriting-made.v1.json"
    result = json.loads(out.read_text())
    assert (code, first) == (0, overwriting.table(result) + "\n")
    assert "2 items measured in" in told
    assert f"written: {out}" in told
    assert [r["id"] for r in result["records"]] == ["i0", "i1"]
    code, again, told = typed(capsys, *argv)
    assert (code, again) == (0, first)
    assert told == f"nothing to do: the result is in {out} already\n"
    assert typed(capsys, *argv[:3], "--limit=3")[0] == 2
    out.write_text(json.dumps({name: result[name] for name in ("about", "filter", "records")}))
    code, _, told = typed(capsys, *argv)
    assert (code, told.count("\n")) == (2, 1)
    assert f"{out} is damaged, or of another version (KeyError" in told
    out.write_text(json.dumps(result))
    # The same measurements under another rule: nothing is asked again.
    code, _, told = typed(capsys, *argv, "--filter=max_tokens=999")
    assert (code, told) == (0, f"2 items were done already\nwritten: {out}\n")


def test_gold_answers_of_an_exported_folder(run, tmp_path, capsys):
    jaxcomp.inference.export(run, tmp_path / "e")
    rows = [
        {"id": n, "question": "who ?", "context": text, "answers": ["Alice", "Simon"]}
        for n, text in enumerate(texts()[:2])
    ]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = [f"--run={tmp_path / 'e'}", "--task=qa", f"--data={tmp_path / 'gold.jsonl'}"]
    code, said, _ = typed(capsys, *argv, "--batch=2")
    result = json.loads((tmp_path / "e/tasks/qa-gold.json").read_text())
    assert (code, said) == (0, qa.table(result) + "\n")
    assert result["conditions"]["text"]["exact"]["n"] == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--task=drifting", "--run=x"], "--task = 'drifting': expected one of"),
        (["--task=overwriting", "--data=i.jsonl"], "--task=overwriting needs --run=DIR"),
        (["--task=qa", "--run=x"], "--task=qa needs --data=FILE"),
        (["--task=overwriting", "--run=x", "--data=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--task=overwriting", "--run=x", "--data=i.jsonl", "--limit=0"], "--limit: '0'"),
        (["--task=overwriting", "--run=x", "--data=i.jsonl", "--batch=0"], "--batch: '0'"),
        (["--task=overwriting", "--run=x", "--data=i.jsonl", "--filter=x"], "is no rule; expect"),
        (["--task=overwriting", "--run=x", "--data=i.jsonl", "--out=."], "is a folder; expected"),
        (["--task=overwriting", "--run=x", "--data=i.jsonl"], "holds neither"),
        (["--task=overwriting", "--run=x", "--data=i.jsonl", "--memory.ratio=4"],
         "--memory.ratio does not go with --run"),
        (["--task=qa", "--run=x", "--data=i.jsonl"], "those of conflicts, which is for"),
        (["--task=qa", "--run=gs://b/x", "--data=i.jsonl"], "give --out=FILE of this machine"),
        (["--run=x", "--data=i.jsonl"], "--data goes with --task=drift|overwriting|qa"),
        (["--run=x", "--config=c.py"], "--config does not go with --run"),
        (["--run=x", "--compressor=llama/24"], "x holds no run.json"),
        (["--run=x"], "x holds no run.json"),
        ([], "--config is missing"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(argv, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "i.jsonl", planted(1))
    code, printed, told = typed(capsys, *argv)
    assert (code, printed, told.count("\n")) == (2, "", 1)
    assert said in told
    assert [f.name for f in tmp_path.iterdir()] == ["i.jsonl"]
