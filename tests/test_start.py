"""What a command loads that has nothing to compute: seconds of imports are not for it to spend."""

import json
import subprocess
import sys

import pytest

from jaxcomp.cli import overrides
from jaxcomp.config import config_hash, to_dict
from jaxcomp.evals import versions
from jaxcomp.training import manifest
from jaxcomp.training.identity import of_training

HEAVY = (
    "flax", "grain", "jax", "nltk", "optax", "orbax", "pyarrow", "sacrebleu", "scipy",
    "sklearn", "tensorflow_datasets", "tokenizers", "transformers",
)  # fmt: skip
CODE = """
import json, sys
from jaxcomp.cli import main as cli
try:
    code = cli.main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def loaded(*argv):
    """The words printed, and the packages loaded, by a command that ends well."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *argv], capture_output=True, text=True, check=True
    )
    said, _, last = done.stdout.strip().rpartition("\n")
    code, packages = json.loads(last)
    assert code == 0, done.stderr
    return said + done.stderr, set(packages) & set(HEAVY)


@pytest.mark.parametrize("command", ["", "sweep", "eval", "train", "compress", "report"])
def test_help(command):
    said, heavy = loaded(*command.split(), "--help")
    assert "usage: jaxcomp" in said
    assert not heavy


@pytest.mark.parametrize("form", ["--config", "--run"])
def test_an_evaluation_that_is_done(form, tmp_path):
    cfg = overrides.load("tiny", [("compressor", "llama/24")])
    summary = {"train_loss": 1.5}
    made = manifest.new("compressor", of_training(cfg), cfg)
    about = {
        "config": made.config_hash,
        "eval": to_dict(cfg.eval),
        "definitions": [versions.EVALUATION, versions.DRIFT],
        "run": config_hash(summary),
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "passages.jsonl").touch()
    (tmp_path / "eval.json").write_text(json.dumps({"about": about, "metrics": {"a": 1.0}}))
    (tmp_path / "run.json").write_text(json.dumps(to_dict(made)))
    typed = ["--config=tiny", "--compressor=llama/24", f"--workdir={tmp_path}"]
    said, heavy = loaded("eval", *(typed if form == "--config" else [f"--run={tmp_path}"]))
    assert f"nothing to do: {tmp_path}/eval.json" in said
    assert not heavy


def test_training_loads_only_what_it_computes_with():
    code = (
        "import json, sys, jaxcomp.training.compressor, jaxcomp.sweep.jobs\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needed = {"flax", "grain", "jax", "optax", "orbax", "tokenizers"}
    assert set(json.loads(done.stdout)) & {*HEAVY, "pandas", "torch"} == needed
