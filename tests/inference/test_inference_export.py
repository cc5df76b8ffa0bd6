"""What is handed on is what was trained: by jaxcomp, by PEFT's file layout, by transformers."""

import dataclasses
import json
import os
import re
import resource
import shutil
import stat

import numpy as np
import pytest
from inference.inference_runs import ONE, config, texts, trained, trained_pair
from safetensors.numpy import load_file, save_file

import jaxcomp
from jaxcomp.analysis.overlaps import memories
from jaxcomp.cli import main
from jaxcomp.compress.recipes import recipe
from jaxcomp.config import Config, ConfigError, DataConfig, PeopleConfig, to_dict
from jaxcomp.evals.checkpoints import follow
from jaxcomp.inference import card, export
from jaxcomp.inference.card import text
from jaxcomp.inference.format import ABOUT, PAIR, ExportError, read_about
from jaxcomp.models import hf, lora
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor, pretrained


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
    """(the pair of a run, its folder, the folder it was exported to)."""
    out = tmp_path_factory.mktemp("lora") / "out"
    with use_mesh(ONE):
        assert export(trained(), out)
        yield trained_pair(), trained(), out


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    place = tmp_path_factory.mktemp("full")
    with use_mesh(ONE):
        compressor.train(config(), place / "run")
        assert export(place / "run", place / "out")
        yield jaxcomp.load(place / "run"), place / "run", place / "out"


@pytest.fixture(scope="module")
def frozen_run(tmp_path_factory):
    place = tmp_path_factory.mktemp("frozen")
    with use_mesh(ONE):
        compressor.train(config(trained="connector", **recipe("arc")["memory"]), place / "run")
        assert export(place / "run", place / "out")
        yield jaxcomp.load(place / "run"), place / "run", place / "out"


@pytest.fixture(scope="module")
def last_run(tmp_path_factory):
    place = tmp_path_factory.mktemp("last")
    with use_mesh(ONE):
        compressor.train(config(trained="last_layer"), place / "run")
        assert export(place / "run", place / "out")
        yield jaxcomp.load(place / "run"), place / "run", place / "out"


@pytest.fixture(params=["lora_run", "full_run", "frozen_run", "last_run"])
def exported(request):
    return request.getfixturevalue(request.param)


def test_it_gives_the_run_back_bit_for_bit(exported):
    pair, _, out = exported
    again = jaxcomp.load(out, mesh=pair.mesh, batch=pair.batch)
    memory, found = pair.compress(texts()), again.compress(texts())
    np.testing.assert_array_equal(found.vec_ND, memory.vec_ND)
    assert again.traits == pair.traits
    assert again.score(memory, texts()) == pair.score(found, texts())


def test_a_second_export_does_nothing_and_another_folder_is_left_alone(exported, tmp_path):
    _, run, out = exported
    assert not export(run, out)
    with pytest.raises(ExportError, match="holds something else"):
        export(run, tmp_path)
    assert not list(out.parent.glob(".*part*"))


def test_the_place_of_a_first_stage_is_not_handed_on(lora_run, tmp_path):
    """Of a finished run, whose first stage is gone: it is not needed."""
    run = shutil.copytree(lora_run[1], tmp_path / "staged")
    found = json.loads((run / "run.json").read_text())
    found["config"]["train"]["start"] = "/somewhere/gone"
    found["parent"] = {"place": "/somewhere/gone", "config_hash": "another"}
    (run / "run.json").write_text(json.dumps(found))
    assert export(run, tmp_path / "out")
    assert not any("gone" in p.read_text() for p in (tmp_path / "out").glob("*.[jm]*"))


def test_no_pickle_and_a_card_with_what_it_is(exported, tmp_path):
    pair, run, out = exported
    kinds = {p.suffix for p in out.rglob("*") if p.is_file()}
    assert kinds == {".md", ".json", ".safetensors"}
    card = (out / "README.md").read_text()
    for said in ("llama/24", "decoder-s0", "ratio", pair.traits.compressor, "jaxcomp.load"):
        assert said in card
    assert "Not measured (`jaxcomp eval` had not been run)" in card
    assert str(run.parent) not in card


def test_the_card_shows_what_was_measured(lora_run):
    metrics = {"test/loss": 0.5, "test/facts/all/preserved": 0.25, "test/facts/name/omitted": 1}
    card = text(dataclasses.replace(read_about(lora_run[2]), metrics=metrics))
    table = card.partition("## What survives\n\n")[2].splitlines()
    assert table[:4] == [
        "| metric | test |",
        "| --- | --- |",
        "| facts/all/preserved | 0.25 |",
        "| loss | 0.5 |",
    ]


BASE = pretrained.ASSETS / "bases" / "llama-24-s0"
DECODER = pretrained.ASSETS / "decoders" / "decoder-s0"


def test_weights_that_moved_are_named_and_found_by_hand(lora_run, tmp_path):
    pair, _, out = lora_run
    moved = shutil.copytree(out, tmp_path / "moved")
    about = json.loads((moved / ABOUT).read_text())
    about["decoder"]["source"] = "/nowhere/decoder"
    (moved / ABOUT).write_text(json.dumps(about))
    with pytest.raises(ConfigError, match="its decoder was at /nowhere/decoder, which holds no"):
        jaxcomp.load(moved, mesh=pair.mesh)
    assert jaxcomp.load(moved, decoder=str(DECODER), mesh=pair.mesh).traits == pair.traits
    with pytest.raises(ConfigError, match="does not hold the weights"):
        jaxcomp.load(moved, decoder=str(BASE), mesh=pair.mesh)


@pytest.fixture
def moved(lora_run, tmp_path):
    """A run whose base models are no longer where it says."""
    run = shutil.copytree(lora_run[1], tmp_path / "moved run")
    found = json.loads((run / "run.json").read_text())
    found["weights"]["decoder"]["source"] = "/nowhere/d"
    found["weights"]["compressor"]["source"] = "/nowhere/c"
    (run / "run.json").write_text(json.dumps(found))
    return run


def test_base_models_of_a_run_are_found_by_hand(lora_run, moved):
    pair, _, _ = lora_run
    with pytest.raises(ConfigError, match=r"/nowhere/.*holds no config\.json.*--\w+=DIR"):
        jaxcomp.load(moved, mesh=pair.mesh)
    with pytest.raises(ConfigError, match=r"decoder = '/elsewhere' holds no config\.json"):
        jaxcomp.load(moved, decoder="/elsewhere", mesh=pair.mesh)
    with pytest.raises(ConfigError, match="does not hold the weights"):
        jaxcomp.load(moved, compressor=str(BASE), decoder=str(BASE), mesh=pair.mesh)
    again = jaxcomp.load(moved, compressor=str(BASE), decoder=str(DECODER), mesh=pair.mesh, batch=8)
    assert again.traits == pair.traits
    np.testing.assert_array_equal(again.compress(texts()).vec_ND, pair.compress(texts()).vec_ND)


COMMANDS = {  # all that read a run, with what they need besides
    "export": "--out={tmp}/out",
    "compress": "--out={tmp}/new.safetensors {tmp}/a.txt",
    "reconstruct": "--max_new=2 {tmp}/m.safetensors",
    "ask": "--max_new=2 --question=Who? {tmp}/m.safetensors",
    "inspect": "--limit=1",
    "eval": "",
    "eval --task=drift": "--limit=1",
    "eval --task=rate": "",
    "eval --task=bounds": "--limit=1",
    "eval --checkpoints=all": "",
}


@pytest.mark.parametrize(
    "command", ["export", *(pytest.param(c, marks=pytest.mark.slow) for c in COMMANDS)]
)
def test_every_command_is_told_where_base_models_are(lora_run, moved, tmp_path, capsys, command):
    (tmp_path / "a.txt").write_text(texts()[0])
    lora_run[0].compress(texts()[:1]).save(tmp_path / "m.safetensors")
    argv = [*command.split(), f"--run={moved}", *COMMANDS[command].format(tmp=tmp_path).split()]
    assert main.main(argv) == 2
    assert re.search(r"/nowhere/.*--\w+=DIR", capsys.readouterr().err)
    assert main.main([*argv, f"--compressor={BASE}", f"--decoder={BASE}"]) == 2
    assert "does not hold the weights" in capsys.readouterr().err
    assert main.main([*argv, f"--compressor={BASE}", f"--decoder={DECODER}"]) == 0


@pytest.mark.slow
def test_memories_of_a_followed_run_are_of_the_base_models_named(moved):
    run = follow(moved, compressor=str(BASE), decoder=str(DECODER))
    assert memories(run).vec_WD.any()


def test_what_is_written_may_be_read_by_whom_the_umask_lets(lora_run, tmp_path):
    pair, run, _ = lora_run
    before = os.umask(0o027)
    try:
        export(run, tmp_path / "made" / "out")
        pair.compress(texts()[:1]).save(tmp_path / "made" / "m.safetensors")
    finally:
        os.umask(before)
    made = [p for p in (tmp_path / "made").rglob("*") if p.is_file()]
    assert {p.suffix for p in made} >= {".safetensors", ".json", ".md"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in made} == {0o640}


@pytest.mark.parametrize("command", ["compress", "export"])
def test_a_full_disk_is_one_sentence_that_names_the_file(lora_run, tmp_path, capsys, command):
    out, text = tmp_path / "out", tmp_path / "a.txt"
    text.write_text(texts()[0])
    argv = [command, f"--run={lora_run[1]}", f"--out={out}"]
    argv += [str(text)] if command == "compress" else []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        code = main.main(argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert ".safetensors: File too large" in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != text]


def damaged(out, tmp_path, file, content):
    """A copy of an exported folder in which a file holds something else."""
    broken = shutil.copytree(out, tmp_path / "broken", dirs_exist_ok=True)
    if isinstance(content, bytes):
        (broken / file).write_bytes(content)
    elif file == ABOUT:
        (broken / file).write_text(json.dumps(json.loads((out / file).read_text()) | content))
    else:
        leaves = load_file(out / file) | content
        save_file({name: x for name, x in leaves.items() if x is not None}, broken / file)
    return broken


ADAPTER = "adapter/adapter_config.json"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (ABOUT, {"base": None}, "base = None: expected"),
        (ABOUT, {"decoder": {"source": "x", "identity": []}}, r"decoder.identity = \[\]: expected"),
        (ABOUT, {"config": [1]}, r"config = \[1\]: expected"),
        (ABOUT, {"config": {"memory": 3}}, "memory"),
        (ABOUT, {"version": "9" * 500}, "expected .*jaxcomp-compressor"),
        (ABOUT, {"reader": "\ud800"}, "half a surrogate pair"),
        (ABOUT, {"reader": "another"}, "other markers"),
        (PAIR, {"markers_4D": None}, "markers_4D: None, expected"),
        (PAIR, {"markers_4D": np.full((4, 64), np.nan, np.float32)}, "markers_4D holds NaN or inf"),
        (PAIR, b"x", "cannot be read"),
        *((ADAPTER, c, r"adapter_config\.json is no PEFT config")
          for c in (b"[]", b"", b'{"r": null}', b'{"r": 1e999}', b"[" * 9999)),
    ],
)  # fmt: skip
def test_damage_is_one_sentence(lora_run, tmp_path, file, content, said):
    pair, _, out = lora_run
    with pytest.raises((ExportError, ConfigError), match=said) as raised:
        jaxcomp.load(damaged(out, tmp_path, file, content), mesh=pair.mesh)
    assert len(str(raised.value)) < 500


def test_what_it_is_not_is_refused(lora_run, tmp_path):
    with pytest.raises(ExportError, match="holds neither"):
        jaxcomp.load(tmp_path)
    with pytest.raises(ConfigError, match="ratio 8: this compressor was trained at 16"):
        jaxcomp.load(lora_run[2], ratio=8)


def test_an_adapter_file_says_what_peft_adds(lora_run, tmp_path):
    """W + (alpha / r) B A, with PEFT's names and shapes, is our merged model, and nothing else."""
    pair, _, out = lora_run
    about = json.loads((out / ADAPTER).read_text())
    tensors = load_file(out / "adapter" / "adapter_model.safetensors")
    base = load_file(BASE / "model.safetensors")
    hf.save(lora.merge(pair.model.compressor.llm), tmp_path / "merged", dtype="float32")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    scale, changed = about["lora_alpha"] / about["r"], 0
    for name, ours in merged.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        expected = base[name].astype(np.float32)
        if f"{module}.lora_A.weight" in tensors:
            a, b = (tensors.pop(f"{module}.lora_{part}.weight") for part in "AB")
            expected = expected + scale * b @ a
            changed += 1
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert not tensors
    assert changed == 7 * 2


IDS = np.arange(3, 40)[None]


def same_logits(pair, theirs, torch):
    with torch.no_grad():
        theirs = theirs(torch.tensor(IDS)).logits.numpy()
    llm = pair.model.compressor.llm
    hidden = llm(llm.embed(IDS), np.arange(37)[None], np.ones((1, 37), np.int32))
    ours = np.asarray(llm.unembed(hidden))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


# Between peft and transformers, not ours.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_loads_the_adapter(lora_run):
    torch = pytest.importorskip("torch", reason="needs torch: `uv run --extra bench pytest`")
    peft = pytest.importorskip(
        "peft", reason="needs peft: `uv run --with peft --extra bench pytest`"
    )
    transformers = pytest.importorskip("transformers")
    pair, _, out = lora_run
    base = transformers.AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    same_logits(pair, peft.PeftModel.from_pretrained(base, out / "adapter").eval(), torch)


def test_transformers_loads_a_full_compressor(full_run):
    torch = pytest.importorskip("torch", reason="needs torch: `uv run --extra bench pytest`")
    transformers = pytest.importorskip("transformers")
    pair, _, out = full_run
    folder = out / "compressor"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    same_logits(pair, model, torch)


def test_a_card_names_the_people_world():
    cfg = Config(data=DataConfig(source="people"), people=PeopleConfig(seed=3))
    config = {name: to_dict(getattr(cfg, name)) for name in ("data", "world", "people")}
    assert card._data(config) == "the people world, seed 3, training priors 0.95"
