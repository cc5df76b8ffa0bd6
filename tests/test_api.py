"""The public API: each name has a Google docstring, and its example works."""

import inspect
import re
import subprocess
import sys

import pytest

import jaxcomp
from jaxcomp.config import ConfigError

# Examples register names, so they run in a process of their own. Only `export` needs a run.
EXAMPLES = """
import doctest, sys, jaxcomp
finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
for name in jaxcomp.__all__:
    if name != "export":
        found = finder.find(getattr(jaxcomp, name), name, globs={"jaxcomp": jaxcomp})
        found = [test for test in found if test.name == name]
        assert found and found[0].examples, f"{name} has no example"
        runner.run(found[0])
sys.exit(min(runner.failures, 1))
"""


def test_the_examples_of_the_docstrings_work(tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", EXAMPLES], capture_output=True, text=True, cwd=tmp_path
    )
    assert out.returncode == 0, out.stdout + out.stderr


@pytest.mark.parametrize("name", jaxcomp.__all__)
def test_a_public_name_is_documented(name):
    doc = inspect.getdoc(getattr(jaxcomp, name)) or ""
    first, _, rest = doc.partition("\n")
    assert first.endswith(".")
    assert re.search(r"Example:\n +>>> ", rest)
    one = getattr(jaxcomp, name)
    if inspect.isfunction(one):
        for part in ("Args:", "Returns:", "Raises:"):
            assert f"\n{part}\n" in doc, part
        assert set(inspect.signature(one).parameters) <= {
            word.lstrip("* ") for line in doc.splitlines() for word in [line.partition(":")[0]]
        }


def test_a_config_file_is_loaded_with_overrides(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config(arg=''):\n    return {'name': 'mine' + arg}\n")
    cfg = jaxcomp.load_config(
        f"{file}:-x", {"memory.ratio": 8, "sweep.ratios": [4, 16], "train.optim.lr": 1e-3}
    )
    assert (cfg.name, cfg.memory.ratio, cfg.sweep.ratios) == ("mine-x", 8, (4, 16))
    assert cfg.train.optim.lr == 1e-3
    assert jaxcomp.load_config(file).name == "mine"
    with pytest.raises(ConfigError, match=r"memory\.ratoi.*memory\.ratio"):
        jaxcomp.load_config(file, {"memory.ratoi": 8})
