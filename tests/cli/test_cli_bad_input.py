"""What a user can get wrong, and what is said: one line that names it, exit code 2, nothing run."""

import shlex
from pathlib import Path

import pytest

from jaxcomp.cli import main, overrides
from jaxcomp.config import Config, ConfigError
from jaxcomp.runtime.fields import fields

TOY = """
from ml_collections import ConfigDict
from jaxcomp.config import parse_arg

def get_config(arg=""):
    parse_arg(arg, full=False, steps=10, path="")
    c = ConfigDict()
    c.families = {"toy": {"m": {}, "s": {"hidden_size": 32}}}
    c.data = {"segment": 32}
    c.sweep = {"ratios": [4, 16]}
    return c
"""
FILES = {
    "toy.py": TOY,
    "plain.py": "def get_config():\n    return {'seed': 3}\n",
    "syntax.py": "def get_config():\n    return {\n",
    "error.py": "def get_config():\n    x = 1\n    return 1 / 0\n",
    "huge.py": "def get_config():\n    return {'seed': 10**5000}\n",
    "list.py": "def get_config():\n    return [1]\n",
    "nothing.py": "x = 1\n",
    "unknown.py": "def get_config(arg):\n    return {'trian': {}}\n",
    "names.py": "def get_config():\n    return {'families': {'a-b': {}}}\n",
    "empty.jsonl": "",
    "one.jsonl": "{}",
    "base/config.json": "{}",
}


def rows():
    """The words of each row of bad_input.txt, and the message."""
    for part in (Path(__file__).parent / "bad_input.txt").read_text().split("\n## jaxcomp")[1:]:
        before, *lines = part.splitlines()
        for typed, message in zip(lines[::2], lines[1::2], strict=True):
            yield pytest.param(shlex.split(before) + shlex.split(typed), message.strip(), id=typed)


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """A function: what a command says as it refuses."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    before = sorted(tmp_path.rglob("*"))

    def run(argv):
        assert main.main(argv) == 2
        out, line = capsys.readouterr()
        assert (out, line.count("\n")) == ("", 1)
        assert len(line) < 2100
        assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before
        return line.removeprefix("jaxcomp: error: ")

    return run


@pytest.mark.parametrize(("words", "message"), [*rows()])
def test_bad_input_is_one_line_and_nothing_is_run(words, message, said):
    assert said(words).startswith(message)


def numbers():
    """Every field that holds a number or several."""
    for key in fields():
        try:
            node = overrides.override(Config(), key, "1")
        except ConfigError:
            continue
        for name in key.split("."):
            node = getattr(node, name)
        node = node[0] if isinstance(node, tuple) and node else node
        if type(node) in (int, float):
            yield key


@pytest.mark.parametrize("text", ["-2", "nan", "1e999", "9" * 5000])
def test_a_number_that_cannot_work_is_refused_by_name(text):
    found = list(numbers())
    assert {"train.optim.lr", "sweep.seeds", "decoder.model.rope_scaling.factor"} < set(found)
    for key in found:
        with pytest.raises(ConfigError) as error:
            overrides.override(Config(), key, text)
        assert key in str(error.value)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("text", ["a\udcffb", "a\0b", "a\tb"])
def test_text_that_no_file_can_hold_is_refused(text):
    for key in ("data.path", "folders.decoder"):
        with pytest.raises(ConfigError, match=rf"{key} = .*expected text without control char"):
            overrides.override(Config(), key, text)
