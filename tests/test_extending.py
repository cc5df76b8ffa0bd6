"""docs/how-to/add-*.md: the examples of these pages train, evaluate and are reported."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcomp.evals.metric import WITHOUT

PAGES = sorted((Path(__file__).parents[1] / "docs/how-to").glob("add-*.md"))
CONFIG = """
from pathlib import Path

HERE = Path(__file__).parent
SHAPE = dict(
    model_type={family!r}, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, head_dim=8, intermediate_size=16, max_position_embeddings=256,
)


def optim(steps):
    return dict(steps=steps, batch=4, warmup=1)


def get_config():
    return dict(
        name="mine",
        plugins=[str(HERE / name) for name in {plugins!r}],
        families=dict(mine=dict(small=SHAPE)),
        data=dict(
            source={source!r}, options={options!r}, vocab_size=300, target=400,
            train_passages=64, eval_passages=4, val_passages=4,
        ),
        pretrain=dict(optim=optim(2)),
        decoder=dict(
            model=SHAPE,
            reference=SHAPE,
            pretrain=dict(optim=optim(1)),
            adapt=dict(optim=optim(1), train_decoder=True),
        ),
        memory=dict(recipe="custom", kind={kind!r}),
        train=dict(optim=optim(3), objective={objective!r}, log_every=1),
        eval=dict(batch=4, samples=0, edits_per_kind=1),
        sweep=dict(ratios=[16], lr_ratios=[], workers=1),
    )
"""
TALES = "tales.py"  # not of the world, whose sets and facts the other tests look at
# Which names each example gives to the fields of CONFIG.
EXAMPLES = {
    "last_state.py": {"kind": "last_state"},
    "per_text.py": {"objective": "per_text"},
    "my_model.py": {"family": "my_model"},
    "length_ratio.py": {},
    "echo.py": {},
    TALES: {"source": "tales", "options": "count=300"},
}
OURS = {
    "kind": "append", "objective": "coin", "family": "llama", "source": "world", "options": "",
}  # fmt: skip


def examples():
    """The Python files of the pages, by the names that their first lines give them."""
    text = "".join(page.read_text("utf-8") for page in PAGES)
    blocks = re.findall(r"```python\n(\"\"\"(\w+\.py): .*?)```", text, re.DOTALL)
    return {name: text for text, name in blocks}


def command(folder, *argv, code=0):
    """What a command prints, in a process of its own: this one shall register nothing."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-m", "jaxcomp", *argv]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def table(folder):
    with (folder / "run/report/results.csv").open() as file:
        return list(csv.DictReader(file))


def written(folder, plugins):
    """The pages' files `plugins`, and a config of one small job that names them."""
    for name in plugins:
        (folder / name).write_text(examples()[name])
    fields = OURS | {k: v for name in plugins for k, v in EXAMPLES[name].items()}
    (folder / "mine.py").write_text(CONFIG.format(plugins=plugins, **fields))


def swept(folder, plugins):
    """The row of the sweep of that job, and the job's folder."""
    written(folder, plugins)
    command(folder, "sweep", "--config=mine.py", "--workdir=run")
    (row,), (job,) = table(folder), (folder / "run/jobs").glob("*-r16-*")
    return row, job


def test_a_config_takes_them_and_not_without_their_files(tmp_path):
    written(tmp_path, tuple(EXAMPLES))
    assert "--shard=0/1" in command(tmp_path, "sweep", "--config=mine.py", "--list")
    said = command(tmp_path, "sweep", "--config=mine.py", "--list", "--plugins=json", code=2)
    assert "memory.kind = 'last_state': expected one of append, interleave" in said


@pytest.mark.slow
def test_files_of_ones_own_are_swept_and_reported(tmp_path):
    names = [name for name in EXAMPLES if name != TALES]
    row, job = swept(tmp_path, names)
    assert float(row["train/steps"]) == 3
    assert float(row["val_loss"]) > 0
    assert len((job / "metrics.jsonl").read_text().splitlines()) == 3
    settings = json.loads((job / "run.json").read_text())["config"]
    assert settings["plugins"] == [str(tmp_path / name) for name in names]
    assert "1 of 1 setup fit" in command(tmp_path, "plan", "--config=mine.py", "--topology=h100:1")
    # A sweep and a run know their plugins: both are read again from their folders alone.
    (tmp_path / "mine.py").unlink()
    command(tmp_path, "report", "--workdir=run")
    assert table(tmp_path) == [row]
    command(tmp_path, "eval", f"--run={job}")
    metrics = json.loads((job / "eval.json").read_text())["metrics"]
    for column in ("counterfactual/length_ratio", "ordinary/NO/length_ratio"):
        name = column.replace("NO", WITHOUT)
        assert float(row[name]) == pytest.approx(metrics[name], rel=1e-5)
    assert "length ratio" in (tmp_path / "run/report/report.md").read_text()
    (tmp_path / "lines.txt").write_text("The lemon was yellow.\nThe mouse looked tiny.\n")
    said = command(tmp_path, "eval", f"--run={job}", "--task=echo", "--data=lines.txt")
    assert "of 2 lines come back exactly" in said
    assert json.loads((job / "tasks/echo-lines.json").read_text())["lines"] == 2


@pytest.mark.slow
def test_a_kind_alone_is_swept_planned_and_checked(tmp_path):
    row, _ = swept(tmp_path, ("last_state.py",))
    assert float(row["val_loss"]) > 0
    assert "1 of 1 setup fit" in command(tmp_path, "plan", "--config=mine.py", "--topology=h100:1")
    said = command(tmp_path, "check", "--config=mine.py", "--workdir=run")
    assert "the whole context is in the memory" in said


@pytest.mark.slow
def test_a_source_of_ones_own_is_swept_reported_and_evaluated(tmp_path):
    row, job = swept(tmp_path, (TALES,))
    assert float(row["test/loss"]) > 0
    data = json.loads((job / "run.json").read_text())["config"]["data"]
    assert (data["source"], data["options"]) == ("tales", "count=300")
    (tmp_path / "mine.py").unlink()
    command(tmp_path, "report", "--workdir=run")
    assert table(tmp_path) == [row]
    command(tmp_path, "eval", f"--run={job}")
    metrics = json.loads((job / "eval.json").read_text())["metrics"]
    assert float(row["test/loss"]) == pytest.approx(metrics["test/loss"], rel=1e-5)


def test_every_example_of_the_pages_is_tried():
    assert examples().keys() == EXAMPLES.keys()
