"""A model folder that cannot be used is one sentence and exit code 2, and nothing is written."""

import json
import shutil

import pytest

from jaxcomp.cli import main
from jaxcomp.models import hf
from jaxcomp.training.manifest import CARD
from jaxcomp.training.pretrained import ASSETS

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4976698672\n"


def gone(name):
    return lambda folder: (folder / name).unlink()


def cut(name, length):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def holding(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def edited(name, change):
    """JSON with fields changed."""

    def write(folder):
        found = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps(found | change(found)), "utf-8")

    return write


def shards(folder):
    (folder / hf.WEIGHTS).rename(folder / "model-1.safetensors")
    parts = {"model.norm.weight": "model-1.safetensors", "lm_head.weight": "model-2.safetensors"}
    (folder / hf.INDEX).write_text(json.dumps({"weight_map": parts}))


def longer(spec):
    """A tokenizer of one token more."""
    token = spec["added_tokens"][-1] | {"id": len(spec["model"]["vocab"]), "content": "<more>"}
    return {"added_tokens": [*spec["added_tokens"], token]}


FAULTS = {
    "no config": (gone(hf.CONFIG), "base': holds no config.json; expected a Hugging Face model"),
    "architecture": (
        edited(hf.CONFIG, lambda _: {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}),
        "config.json: model_type is 'gpt2', architectures ['GPT2LMHeadModel']; supported",
    ),
    "no weights": (gone(hf.WEIGHTS), "base has neither model.safetensors nor"),
    "no shard": (shards, "model-2.safetensors does not exist, though model.safetensors.index.json"),
    "cut": (cut(hf.WEIGHTS, 20_000), "model.safetensors (20000 bytes) is not a whole safetensors"),
    "pointer": (
        holding(hf.WEIGHTS, POINTER),
        "model.safetensors (79 bytes) is a pointer of Git LF",
    ),
    "another model's weights": (
        edited(hf.CONFIG, lambda found: {"intermediate_size": 1 + found["intermediate_size"]}),
        "take config.json and the weights from the same model",
    ),
    "no tokenizer": (gone("tokenizer.json"), "tokenizer.json: no such file (found: config.json"),
    "tokenizer a pointer": (
        holding("tokenizer.json", POINTER),
        "begins with b'version https://git",
    ),
    "another model's tokenizer": (
        edited("tokenizer.json", longer),
        "base: the tokenizer has 342 tokens, the model rows for 341 (vocab_size); expected at",
    ),
    "no end token": (
        edited("tokenizer_config.json", lambda _: {"eos_token": "<end>"}),
        "base: eos_token '<end>' is not in the vocabulary",
    ),
}


@pytest.mark.parametrize(
    ("command", "fault"), [*(("train", fault) for fault in FAULTS), ("check", "cut")]
)
def test_a_folder_that_cannot_be_used(command, fault, tmp_path, capsys):
    spoil, said = FAULTS[fault]
    shutil.copytree(ASSETS / "bases/llama-24-s0", tmp_path / "base")
    (tmp_path / "base" / CARD).unlink()
    spoil(tmp_path / "base")
    typed = [command, "--config=configs/tiny.py", "--compressor=llama/24"]
    typed += [f"--folders.llama/24={tmp_path}/base", f"--workdir={tmp_path}/w"]
    assert main.main(typed) == 2
    out, told = capsys.readouterr()
    assert (out, told.count("\n")) == ("", 1)
    assert told.startswith("jaxcomp: error: ")
    assert said in told
    # A workdir belongs to one set of weights: one made now would refuse the mended folder.
    assert not (tmp_path / "w").exists()
