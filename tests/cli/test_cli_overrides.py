import dataclasses
from pathlib import Path

import pytest

from jaxcomp.cli import overrides
from jaxcomp.cli.validate import validate
from jaxcomp.config import Config, ConfigError, ModelConfig, RopeScaling
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


def test_an_override_inside_none_starts_from_the_defaults(spec):
    cfg = overrides.load(spec, [("families.toy.s.rope_scaling.factor", "4")])
    assert cfg.families["toy"]["s"].rope_scaling == RopeScaling(factor=4.0)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("train.optim.lrr", "1", ["train.optim.lrr", "did you mean train.optim.lr?"]),
        ("trian.optim.lr", "1", ["trian.optim.lr", "did you mean train"]),
        ("copy_fraction", "1", ["did you mean pretrain.copy_fraction"]),
        ("families.toy.x.hidden_size", "1", ["no entry 'x'", "known: m, s"]),
        ("families.toy.s.hiden_size", "1", ["did you mean families.toy.s.hidden_size?"]),
        ("train.optim.lr", "fast", ["--train.optim.lr=fast", "expected a number"]),
        ("seed", "1.5", ["--seed=1.5", "expected an integer"]),
        ("train.optim", "x", ["is a group of fields"]),
        ("seed.x", "1", ["seed has no fields"]),
        ("data.source", "wrold", ["data.source", "did you mean world?"]),
        ("sweep.ratios", "3", ["sweep.ratios: 3 does not divide data.segment = 32", "is 2"]),
        ("train.optim.accumulate", "5", ["train.optim.accumulate = 5 does not divide"]),
        ("data.source", "text", ["data.path is empty", "--data.path=FILE"]),
        ("data.source", "qa", ["data.path is empty with data.source = 'qa'", ".parquet file"]),
        ("decoder.adapt.start", "runs/a", ["decoder.adapt.start = 'runs/a'", "train.start"]),
        ("compressor", "toy/xl", ["'toy/xl' is not a family/size", "toy/m, toy/s"]),
        (
            "train.p_reconstruct",
            "1.5",
            ["train.p_reconstruct = 1.5", "expected at least 0 and at most 1"],
        ),
        ("train.objective", "both", ["coin, sum"]),
        ("memory.kind", "kv", ["memory.kind", "append"]),
        ("sweep.seeds", "1,1", ["sweep.seeds"]),
        ("decoder.model.head_dim", "7", ["decoder.model.head_dim = 7", "even"]),
        ("train.keep_checkpoints", "0", ["keep_checkpoints"]),
        ("seed", "-1", ["seed = -1: expected at least 0"]),
        ("pretrain.seq_len", "3", ["pretrain.seq_len = 3: expected at least 4"]),
    ],
)
def test_bad_fields_and_values_are_named_with_a_mend(spec, key, text, words):
    with pytest.raises(ConfigError) as error:
        overrides.load(spec, [(key, text)])
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


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


@pytest.mark.parametrize("text", ["-2", "nan", "inf", "-inf", "1e999", "9" * 400, "9" * 5000])
def test_a_number_that_cannot_work_is_refused_by_name(text):
    found = list(numbers())
    assert {"train.optim.lr", "sweep.seeds", "decoder.model.rope_scaling.factor"} < set(found)
    for key in found:
        with pytest.raises(ConfigError) as error:
            validate(overrides.override(Config(), key, text))
        assert key in str(error.value)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("seed", str(2**63), "at least 0 and at most 2147483647"),
        ("world.seed", str(2**31), "at most 2147483647"),
        ("sweep.base_seeds", "0,-1", "sweep.base_seeds = -1: expected at least 0"),
        ("train.optim.weight_decay", "-0.1", "expected a finite number at least 0"),
        ("train.optim.lr", "0", "expected a finite number above 0"),
        ("train.optim.b2", "1", "under 1"),
        ("memory.lora.alpha", "0", "above 0"),
        ("memory.lora.dropout", "1.5", "under 1"),
        ("train.word_dropout", "1.5", "at most 1"),
        ("train.p_blank", "1.5", "at most 1"),
        ("pretrain.loss_chunk", "-1", "at least 0"),
        ("sweep.lr_grid", "1,0", "above 0"),
        ("decoder.model.rope_scaling.factor", "0", "above 0"),
        ("decoder.model.rope_scaling.low_freq_factor", "4", "more than low_freq_factor = 4"),
        ("mesh.fsdp", "0", "expected -1"),
        ("seed", "{a:1}", "expected an integer"),
        ("seed", "{[]:1}", "expected an integer"),
        ("seed", "(" * 100_000, "expected an integer"),
        ("sweep.ratios", "[4", "expected an integer"),
        ("sweep.own_ratios", "{icae: 4}", "is a group of fields"),
        ("train", "{optim: 1}", "is a group of fields"),
        ("name", "", "the name of a folder"),
        ("name", "a/b", "the name of a folder"),
        ("data.path", "a\udcffb", "in UTF-8"),
        ("folders.decoder", "a\0b", "control characters"),
    ],
)
def test_values_that_cannot_work(key, text, words):
    with pytest.raises(ConfigError) as error:
        validate(overrides.override(Config(), key, text))
    assert key.rpartition(".")[0] in str(error.value)
    assert words in str(error.value)
    assert len(str(error.value)) < 300


def test_a_number_that_a_file_of_a_run_holds_is_refused_by_file_and_field():
    tree = {"decoder": {"adapt": {"optim": {"lr": float("nan")}}}}
    with pytest.raises(ConfigError, match=r"^run\.json: decoder\.adapt\.optim\.lr = nan: expected"):
        from_dict(tree, where="run.json")


def test_a_config_file_may_take_no_argument_and_its_faults_are_one_sentence(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("def get_config():\n    return {'seed': 3}\n")
    assert overrides.load(str(path)).seed == 3
    with pytest.raises(ConfigError, match=r"plain\.py:full: its get_config\(\) takes no argument"):
        overrides.load(f"{path}:full")
    for text, words in (
        ("def get_config():\n    return {\n", "SyntaxError"),
        ("import nosuch\n", "line 1 ModuleNotFoundError: No module named 'nosuch'"),
        ("def get_config():\n    x = 1\n    return 1 / 0\n", "line 3 ZeroDivisionError"),
        ("def get_config():\n    return {'seed': 10**5000}\n", "seed = a huge integer"),
        ("def get_config():\n    return {'train': {'optim': {'lr': 10**5000}}}\n", "lr = inf"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            overrides.load(str(path))
        assert words in str(error.value)


def test_bad_config_files(tmp_path, spec):
    with pytest.raises(ConfigError, match=r"did you mean .*toy\.py"):
        overrides.load(str(tmp_path / "tyo.py"))
    with pytest.raises(ConfigError, match="'fulll' is unknown; did you mean full"):
        overrides.load(spec + ":fulll")
    (tmp_path / "bad.py").write_text("def get_config(arg): return {'trian': {}}")
    with pytest.raises(ConfigError, match="no field trian; did you mean train"):
        overrides.load(str(tmp_path / "bad.py"))
    (tmp_path / "bad.py").write_text(
        "def get_config(arg): return {'train': {'optim': {'lr': '1'}}}"
    )
    with pytest.raises(ConfigError, match=r"train\.optim\.lr = '1'; expected a number"):
        overrides.load(str(tmp_path / "bad.py"))


@pytest.mark.parametrize("arg", ["", ":full"])
def test_a_shipped_config_is_found_by_name(arg, tmp_path, monkeypatch):
    by_path = overrides.load(f"configs/tiny.py{arg}")
    monkeypatch.chdir(tmp_path)
    assert overrides.load(f"tiny{arg}") == by_path
    assert by_path.name == "tiny" + arg.replace(":", "-")  # the default workdir is runs/NAME


SHIPPED = {"controls": "", "paper": "", "paradox": "bases=0.8", "recipes": "seeds=2",
           "smollm2": "steps=7", "text": "path=a.py:b.txt", "tiny": "full"}  # fmt: skip


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


def test_an_unknown_name_lists_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = "(controls, paper, paradox, recipes, smollm2, text, tiny)"
    for wrong in ("tinny", "tinny:full", "configs/tiny.py"):
        with pytest.raises(ConfigError, match="did you mean tiny") as error:
            overrides.load(wrong)
        assert known in str(error.value)


def test_the_primary_ratio_is_one_of_the_sweeps():
    cfg = overrides.load("recipes")

    def check(primary, **own):
        fields = {"ratios": (4,), "own_ratios": own, "primary_ratio": primary}
        validate(dataclasses.replace(cfg, sweep=dataclasses.replace(cfg.sweep, **fields)))

    check(4)
    check(8, arc=(8,))
    check(16)  # the default: the report says that the grid is without it
    with pytest.raises(ConfigError, match=r"sweep\.primary_ratio = 64: .*ratios: 4, 8; or add it"):
        check(64, arc=(8,))


def test_missing_and_empty_data_are_refused(spec, tmp_path):
    missing = [("data.source", "text"), ("data.path", str(tmp_path / "no.jsonl"))]
    with pytest.raises(ConfigError, match="no such file"):
        overrides.load(spec, missing)
    (tmp_path / "no.jsonl").write_text("")
    with pytest.raises(ConfigError, match="empty"):
        overrides.load(spec, missing)
    (tmp_path / "no.jsonl").write_text("{}")
    assert overrides.load(spec, missing).data.source == "text"
    with pytest.raises(ConfigError, match=r"which has no questions; .*--data.source=qa"):
        overrides.load(spec, [*missing, ("train.objective", "answer")])
    asking = [("data.source", "qa"), missing[1], ("train.objective", "answer")]
    assert overrides.load(spec, asking).train.objective == "answer"


def test_every_form_of_data_path_is_found(spec, tmp_path):
    deep = tmp_path / "a" / "b" / "notes[1].jsonl"
    deep.parent.mkdir(parents=True)
    deep.write_text("{}")
    for path in (f"{tmp_path}/**/*.jsonl", str(deep)):
        cfg = overrides.load(spec, [("data.source", "text"), ("data.path", path)])
        assert matching(cfg.data.path) == [str(deep)]


def test_one_set_of_weights_is_not_counted_as_several(spec, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    given = [("folders.toy/s", str(tmp_path))]
    assert overrides.load(spec, given).folders == {"toy/s": str(tmp_path)}
    with pytest.raises(ConfigError, match="toy/s one set of weights"):
        overrides.load(spec, [*given, ("sweep.base_seeds", "0,1,2")])


@pytest.mark.parametrize(
    "folder", ["../lama", "./lama", "~/lama", "/nowhere/lama", "lama", "a/b/c"]
)
def test_a_model_folder_that_is_not_there_is_no_hub_id(spec, folder):
    with pytest.raises(ConfigError, match="no such folder; expected a Hugging Face model folder"):
        overrides.load(spec, [("folders.toy/s", folder)])


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
