"""Files of a user's own are imported once wherever a config that names them is read."""

import builtins
import dataclasses

import pytest

from jaxcomp.cli import overrides
from jaxcomp.config import Config, ConfigError, config_hash, to_dict
from jaxcomp.runtime.fields import from_dict
from jaxcomp.runtime.plugins import load_plugins
from jaxcomp.training import identity

COUNTING = "import builtins\nbuiltins.loaded = getattr(builtins, 'loaded', 0) + 1\n"
CONFIG = "from pathlib import Path\nimport runpy\n{}\ndef get_config():\n    return dict({})\n"


@pytest.fixture
def loaded(monkeypatch):
    monkeypatch.setattr(builtins, "loaded", 0, raising=False)
    return lambda: vars(builtins)["loaded"]


def test_a_config_that_names_itself_runs_once(loaded, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CONFIG.format(COUNTING, "plugins=[__file__]"))
    cfg = overrides.load(str(file))
    assert cfg.plugins == (str(file),)
    assert load_plugins(from_dict(to_dict(cfg))) == cfg
    assert loaded() == 1


def test_a_plugin_of_the_command_line_is_found_from_any_folder(loaded, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(COUNTING)
    monkeypatch.chdir(tmp_path)
    cfg = overrides.load("tiny", [("plugins", "own.py,json")])
    assert cfg.plugins == (str(tmp_path / "own.py"), "json")
    assert loaded() == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such", "plugins: 'no.such' cannot be imported; expected FILE.py or an installed"),
        ("gone.py", "plugins: .*gone.py: no such file"),
        ("broken.py", "plugins: .*broken.py: line 2 ZeroDivisionError: "),
        ("twice.py", "plugins: .*twice.py: line 3 ValueError: kind 'a' is registered already"),
    ],
)
def test_what_cannot_be_imported_is_named(name, message, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("\n1 / 0\n")
    (tmp_path / "twice.py").write_text(
        "from jaxcomp.runtime.registry import Registry\nr = Registry('kind')\n"
        "[r.add('a', 1) for _ in '12']\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{message}"):
        overrides.load("tiny", [("plugins", name)])


def test_plugins_change_no_identity():
    cfg = overrides.load("tiny", [("compressor", "llama/24")])
    other = dataclasses.replace(cfg, plugins=("mine.py",))
    assert identity.of_job(other) == identity.of_job(cfg)
    assert identity.of_sweep(other) == identity.of_sweep(cfg)
    assert "plugins" not in to_dict(Config())
    assert config_hash(other) != config_hash(cfg)
