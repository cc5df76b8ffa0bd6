"""What is handed on is what was trained: by jaxcomp, by PEFT's file layout, by transformers."""

import dataclasses
import json
import os
import re
import resource
import shutil
import stat

import jax
import numpy as np
import pytest
from conftest import mesh_of
from inference.inference_runs import LORA, config, texts
from safetensors.numpy import load_file, save_file

import jaxcomp
from jaxcomp.analysis.overlaps import memories
from jaxcomp.cli import main
from jaxcomp.config import ConfigError
from jaxcomp.evals.checkpoints import follow
from jaxcomp.inference import export
from jaxcomp.inference.format import ABOUT, PAIR, ExportError
from jaxcomp.models import hf, lora
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor, pretrained


@pytest.fixture(scope="module", params=["full", "lora"])
def exported(request, tmp_path_factory):
    """(the pair of a run, the folder it was exported to)."""
    place = tmp_path_factory.mktemp(request.param)
    with use_mesh(mesh_of((1, 1, 1))):
        cfg = config(LORA if request.param == "lora" else None)
        saves = dataclasses.replace(cfg.train, checkpoint_every=1, keep_checkpoints=2)
        compressor.train(dataclasses.replace(cfg, train=saves), place / "run")
        assert export(place / "run", place / "out")
        yield jaxcomp.load(place / "run"), place


def test_it_gives_the_run_back_bit_for_bit(exported):
    pair, place = exported
    again = jaxcomp.load(place / "out", mesh=pair.mesh)
    memory = pair.compress(texts())
    found = again.compress(texts())
    np.testing.assert_array_equal(found.vec_ND, memory.vec_ND)
    assert (found.decoder, found.compressor) == (memory.decoder, memory.compressor)
    assert again.score(memory, texts()) == pair.score(found, texts())


def test_a_second_export_does_nothing_and_another_folder_is_left_alone(exported):
    pair, place = exported
    with use_mesh(pair.mesh):
        assert not export(place / "run", place / "out")
        (place / "mine").mkdir(exist_ok=True)
        with pytest.raises(ExportError, match="holds something else"):
            export(place / "run", place / "mine")
    assert not list(place.glob(".*part*"))


@pytest.mark.parametrize("exported", ["lora"], indirect=True)
def test_the_place_of_a_first_stage_is_not_handed_on(exported):
    """Of a finished run, whose first stage is gone: it is not needed."""
    pair, place = exported
    run = place / "staged"
    shutil.copytree(place / "run", run)
    found = json.loads((run / "run.json").read_text())
    found["config"]["train"]["start"] = "/somewhere/gone"
    found["parent"] = {"place": "/somewhere/gone", "config_hash": "another"}
    (run / "run.json").write_text(json.dumps(found))
    with use_mesh(pair.mesh):
        assert export(run, place / "handed on")
    assert (
        json.loads((place / "handed on" / ABOUT).read_text())["config"]["train"].get("start", "")
        == ""
    )
    assert not any("gone" in p.read_text() for p in (place / "handed on").glob("*.[jm]*"))


def test_no_pickle_and_a_card_with_what_it_is(exported):
    pair, place = exported
    kinds = {p.suffix for p in (place / "out").rglob("*") if p.is_file()}
    assert kinds == {".md", ".json", ".safetensors"}
    card = (place / "out" / "README.md").read_text()
    for said in ("llama/24", "decoder-s0", "ratio", pair.traits.compressor, "jaxcomp.load"):
        assert said in card
    assert str(place) not in card


def test_weights_that_moved_are_named_and_found_by_hand(exported, tmp_path):
    pair, place = exported
    moved = tmp_path / "moved"
    shutil.copytree(place / "out", moved)
    about = json.loads((moved / ABOUT).read_text())
    about["decoder"]["source"] = "/nowhere/decoder"
    (moved / ABOUT).write_text(json.dumps(about))
    with pytest.raises(ConfigError, match="its decoder was at /nowhere/decoder, which holds no"):
        jaxcomp.load(moved, mesh=pair.mesh)
    here = pretrained.ASSETS / "decoders" / "decoder-s0"
    assert jaxcomp.load(moved, decoder=str(here), mesh=pair.mesh).traits == pair.traits
    other = pretrained.ASSETS / "bases" / "llama-24-s0"
    with pytest.raises(ConfigError, match="does not hold the weights"):
        jaxcomp.load(moved, decoder=str(other), mesh=pair.mesh)


@pytest.fixture
def moved(exported, tmp_path):
    """A run whose base models are no longer where it says."""
    run = shutil.copytree(exported[1] / "run", tmp_path / "moved run")
    found = json.loads((run / "run.json").read_text())
    found["weights"]["decoder"]["source"] = "/nowhere/d"
    found["weights"]["compressor"]["source"] = "/nowhere/c"
    (run / "run.json").write_text(json.dumps(found))
    return run


BASE, DECODER = (
    pretrained.ASSETS / "bases" / "llama-24-s0",
    pretrained.ASSETS / "decoders" / "decoder-s0",
)


def test_base_models_of_a_run_are_found_by_hand(exported, moved):
    pair, _ = exported
    with pytest.raises(ConfigError, match=r"/nowhere/.*holds no config\.json.*--\w+=DIR"):
        jaxcomp.load(moved, mesh=pair.mesh)
    with pytest.raises(ConfigError, match=r"decoder = '/elsewhere' holds no config\.json"):
        jaxcomp.load(moved, decoder="/elsewhere", mesh=pair.mesh)
    with pytest.raises(ConfigError, match="does not hold the weights"):
        jaxcomp.load(moved, compressor=str(BASE), decoder=str(BASE), mesh=pair.mesh)
    again = jaxcomp.load(moved, compressor=str(BASE), decoder=str(DECODER), mesh=pair.mesh)
    assert again.traits == pair.traits
    np.testing.assert_array_equal(again.compress(texts()).vec_ND, pair.compress(texts()).vec_ND)


def test_commands_are_told_where_base_models_are(exported, moved, tmp_path, capsys):
    here = [f"--run={moved}", f"--compressor={BASE}", f"--decoder={DECODER}"]
    with use_mesh(exported[0].mesh):
        assert main.main(["eval", *here[:1]]) == 2
        assert "--compressor=DIR" in capsys.readouterr().err
        assert main.main(["eval", *here]) == 0
        assert main.main(["eval", *here, "--task=drift", "--limit=1"]) == 0
        assert main.main(["export", *here, f"--out={tmp_path}/out"]) == 0
    about = [json.loads((p / "out" / ABOUT).read_text()) for p in (exported[1], tmp_path)]
    assert about[0]["reader"] == about[1]["reader"]


COMMANDS = {  # all that read a run, with what they need besides
    "compress": "--out={tmp}/new.safetensors {tmp}/a.txt",
    "reconstruct": "--max_new=2 {tmp}/m.safetensors",
    "ask": "--max_new=2 --question=Who? {tmp}/m.safetensors",
    "inspect": "--limit=1",
    "eval --task=rate": "",
    "eval --task=bounds": "--limit=1",
    "eval --checkpoints=all": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_told_where_base_models_are(exported, moved, tmp_path, capsys, command):
    (tmp_path / "a.txt").write_text(texts()[0])
    exported[0].compress(texts()[:1]).save(tmp_path / "m.safetensors")
    argv = [*command.split(), f"--run={moved}", *COMMANDS[command].format(tmp=tmp_path).split()]
    with use_mesh(exported[0].mesh):
        assert main.main(argv) == 2
        assert re.search(r"/nowhere/.*--\w+=DIR", capsys.readouterr().err)
        assert main.main([*argv, f"--compressor={BASE}", f"--decoder={BASE}"]) == 2
        assert "does not hold the weights" in capsys.readouterr().err
        assert main.main([*argv, f"--compressor={BASE}", f"--decoder={DECODER}"]) == 0


def test_memories_of_a_followed_run_are_of_the_base_models_named(exported, moved):
    with use_mesh(exported[0].mesh):
        run = follow(moved, compressor=str(BASE), decoder=str(DECODER))
        assert memories(run).vec_WD.any()


def test_what_is_written_may_be_read_by_whom_the_umask_lets(exported, tmp_path):
    pair, place = exported
    before = os.umask(0o027)
    try:
        with use_mesh(pair.mesh):
            export(place / "run", tmp_path / "made" / "out")
        pair.compress(texts()[:1]).save(tmp_path / "made" / "m.safetensors")
    finally:
        os.umask(before)
    made = [p for p in (tmp_path / "made").rglob("*") if p.is_file()]
    assert {p.suffix for p in made} >= {".safetensors", ".json", ".md"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in made} == {0o640}


@pytest.mark.parametrize("command", ["compress", "export"])
def test_a_full_disk_is_one_sentence_that_names_the_file(exported, tmp_path, capsys, command):
    pair, place = exported
    out, text = tmp_path / "out", tmp_path / "a.txt"
    text.write_text(texts()[0])
    argv = [command, f"--run={place}/run", f"--out={out}"]
    argv += [str(text)] if command == "compress" else []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with use_mesh(pair.mesh):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            code = main.main(argv)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert ".safetensors: File too large" in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != text]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": None}, "base.source is 'None', expected str"),
        ({"decoder": {"source": "x", "identity": []}}, r"identity is '\[\]', expected dict"),
        ({"connector_unit": "1"}, "connector_unit is '1', expected float"),
        ({"config": [1]}, r"config is '\[1\]', expected dict"),
        ({"config": {"memory": 3}}, "memory"),
        ({"version": "9" * 500}, "expected .*jaxcomp-compressor"),
        ({"reader": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_a_damaged_description_is_one_sentence(exported, tmp_path, change, said):
    pair, place = exported
    broken = shutil.copytree(place / "out", tmp_path / "broken")
    about = json.loads((broken / ABOUT).read_text())
    (broken / ABOUT).write_text(json.dumps(about | change))
    with pytest.raises((ExportError, ConfigError), match=said) as raised:
        jaxcomp.load(broken, mesh=pair.mesh)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "content", ["[]", "", '{"r": null}', '{"r": [1]}', '{"r": 1e999}', "[" * 9999]
)
@pytest.mark.parametrize("exported", ["lora"], indirect=True)
def test_a_damaged_adapter_is_one_sentence(exported, tmp_path, content):
    pair, place = exported
    broken = shutil.copytree(place / "out", tmp_path / "broken")
    (broken / "adapter" / "adapter_config.json").write_text(content)
    with pytest.raises(ExportError, match=r"adapter_config\.json is no PEFT config"):
        jaxcomp.load(broken, mesh=pair.mesh)


def test_damage_is_named(exported, tmp_path):
    pair, place = exported
    broken = tmp_path / "broken"
    shutil.copytree(place / "out", broken)
    leaves = load_file(broken / PAIR)
    kept = leaves["markers_4D"]
    save_file(leaves | {"markers_4D": kept + 1}, broken / PAIR)
    with pytest.raises(ExportError, match="other markers"):
        jaxcomp.load(broken, mesh=pair.mesh)
    save_file({k: v for k, v in leaves.items() if k != "markers_4D"}, broken / PAIR)
    with pytest.raises(ExportError, match="markers_4D: None, expected"):
        jaxcomp.load(broken, mesh=pair.mesh)
    name = next(n for n in leaves if n != "markers_4D")
    save_file(leaves | {name: np.full_like(leaves[name], np.nan)}, broken / PAIR)
    with pytest.raises(ExportError, match=f"{name} holds NaN or infinity"):
        jaxcomp.load(broken, mesh=pair.mesh)
    (broken / PAIR).write_bytes(b"x")
    with pytest.raises(ExportError, match="cannot be read"):
        jaxcomp.load(broken, mesh=pair.mesh)
    with pytest.raises(ExportError, match="holds neither"):
        jaxcomp.load(tmp_path, mesh=pair.mesh)


def test_a_ratio_it_was_not_trained_at_is_refused(exported):
    pair, place = exported
    with pytest.raises(ConfigError, match="ratio 8: this compressor was trained at 16"):
        jaxcomp.load(place / "out", ratio=8, mesh=pair.mesh)


@pytest.mark.parametrize("exported", ["lora"], indirect=True)
def test_an_adapter_file_says_what_peft_adds(exported):
    """W + (alpha / r) B A, with PEFT's names and shapes, is our merged model, and nothing else."""
    pair, place = exported
    adapter = place / "out" / "adapter"
    about = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    base = load_file(pretrained.ASSETS / "bases" / "llama-24-s0" / "model.safetensors")
    with use_mesh(pair.mesh):
        hf.save(lora.merge(pair.model.compressor.llm), place / "merged", dtype="float32")
    merged = load_file(place / "merged" / "model.safetensors")
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


# Between peft and transformers, not ours.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("exported", ["lora"], indirect=True)
def test_peft_loads_the_adapter(exported):
    pair, place = exported
    torch = pytest.importorskip("torch", reason="needs torch: `uv run --extra bench pytest`")
    peft = pytest.importorskip(
        "peft", reason="needs peft: `uv run --with peft --extra bench pytest`"
    )
    transformers = pytest.importorskip("transformers")
    folder = pretrained.ASSETS / "bases" / "llama-24-s0"
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, place / "out" / "adapter").eval()
    ids = np.arange(3, 40)[None]
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    llm = pair.model.compressor.llm
    with use_mesh(pair.mesh):
        hidden = llm(llm.embed(ids), np.arange(37)[None], np.ones((1, 37), np.int32))
        ours = np.asarray(llm.unembed(hidden))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("exported", ["full"], indirect=True)
def test_transformers_loads_a_full_compressor(exported):
    pair, place = exported
    torch = pytest.importorskip("torch", reason="needs torch: `uv run --extra bench pytest`")
    transformers = pytest.importorskip("transformers")
    folder = place / "out" / "compressor"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = np.arange(3, 40)[None]
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    llm = pair.model.compressor.llm
    with use_mesh(pair.mesh):
        hidden = llm(llm.embed(ids), np.arange(37)[None], np.ones((1, 37), np.int32))
        ours = np.asarray(jax.device_get(llm.unembed(hidden)))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
