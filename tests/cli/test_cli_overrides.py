import dataclasses
from pathlib import Path

import pytest

from jaxcomp.cli import overrides
from jaxcomp.config import Config, ConfigError, ModelConfig
from jaxcomp.runtime.fields import fields, from_dict
from jaxcomp.runtime.files import matching

CONFIG = """
from ml_collections import ConfigDict
from jaxcomp.config import parse_arg

def get_config(arg=""):
    a = parse_arg(arg, full=False, steps=10, path="")
    c = ConfigDict()
    c.families = {"toy": {"s": {"hidden_size": 32}, "m": {}}}
    c.data = {"segment": 32}
    c.sweep = {"ratios": [4, 16], "seeds": [0, 1] if a.full else [0]}
    c.train = {"optim": {"steps": a.steps}}
    return c
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return str(path)


def test_load_keeps_defaults_and_takes_the_argument(spec):
    cfg = overrides.load(spec + ":full,steps=7")
    assert cfg.name == "toy"
    assert cfg.families["toy"]["s"].hidden_size == 32
    assert cfg.families["toy"]["m"] == ModelConfig()
    assert cfg.sweep.ratios == (4, 16)
    assert cfg.sweep.seeds == (0, 1)
    assert cfg.train.optim.steps == 7
    assert cfg.train.optim.lr == Config().train.optim.lr


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("train.optim.lr", "3e-4", 3e-4),
        ("train.optim.lr", "1", 1.0),
        ("seed", "5", 5),
        ("train.train_decoder", "true", True),
        ("sweep.ratios", "(4, 8)", (4, 8)),
        ("sweep.lr_grid", "0.5,2", (0.5, 2.0)),
        ("sweep.families", "toy", ("toy",)),
        ("train.ratios", "()", ()),
        ("data.path", "a=b:c.txt", "a=b:c.txt"),
        ("families.toy.s.hidden_size", "48", 48),
        ("families.toy.s.rope_scaling", "none", None),
        ("families.toy.s.rope_scaling.factor", "4", 4.0),
    ],
)
def test_overrides_are_typed_by_the_annotation(spec, key, text, expected):
    node = overrides.load(spec, [(key, text)])
    for name in key.split("."):
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    assert node == expected
    assert type(node) is type(expected)


@pytest.mark.parametrize("arg", ["", ":full"])
def test_a_shipped_config_is_found_by_name(arg, tmp_path, monkeypatch):
    by_path = overrides.load(f"configs/tiny.py{arg}")
    monkeypatch.chdir(tmp_path)
    assert overrides.load(f"tiny{arg}") == by_path
    assert by_path.name == "tiny" + arg.replace(":", "-")  # the default workdir is runs/NAME


SHIPPED = {
    "controls": "",
    "paper": "",
    "paradox": "bases=0.8",
    "people": "quick",
    "recipes": "seeds=2",
    "smollm2": "steps=7",
    "text": "path=a.py:b.txt",
    "tiny": "full",
}


def test_every_shipped_config_loads_by_name_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "a.py:b.txt").write_text("some text " * 200)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose.txt").write_text("some text " * 200)
    fields = {"smollm2": [("data.path", "prose.txt")]}  # its own data is not in the package
    assert list(overrides.shipped()) == list(SHIPPED)
    for name, arg in SHIPPED.items():
        cfg = overrides.load(f"{name}:{arg}", fields.get(name, ()))
        if name in ("paradox", "recipes"):
            assert (Path(cfg.folders["decoder"]) / "model.safetensors").is_file()


def test_a_file_that_exists_wins_over_a_shipped_name(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").mkdir()  # a folder of that name is no config
    assert overrides.load("paper").name == "paper"
    (tmp_path / "tiny").write_text(CONFIG)
    with pytest.raises(ConfigError, match="tiny: not a Python file; expected FILE"):
        overrides.load("tiny")


def test_every_form_of_data_path_is_found(spec, tmp_path):
    deep = tmp_path / "a" / "b" / "notes[1].jsonl"
    deep.parent.mkdir(parents=True)
    deep.write_text("{}")
    for path in (f"{tmp_path}/**/*.jsonl", str(deep)):
        cfg = overrides.load(spec, [("data.source", "text"), ("data.path", path)])
        assert matching(cfg.data.path) == [str(deep)]


def test_every_dotted_field_can_be_overridden_by_its_own_value():
    cfg = Config()
    for key in fields():
        node = cfg
        for name in key.split("."):
            # optional groups (rope_scaling) have no value to read back
            node = getattr(node, name, None)
        if node is None or isinstance(node, dict):
            continue
        text = ",".join(map(str, node)) if isinstance(node, tuple) else str(node)
        assert overrides.override(cfg, key, text) == cfg


def test_from_dict_of_to_dict_is_the_same_config(spec):
    from jaxcomp.config import to_dict

    cfg = overrides.load(spec + ":full")
    again = from_dict(to_dict(cfg))
    assert again == cfg
    assert dataclasses.asdict(again) == dataclasses.asdict(cfg)
