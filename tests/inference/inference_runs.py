"""Finished tiny runs of the controlled world, for the tests of this package."""

import dataclasses
import functools
import tempfile
from pathlib import Path

from conftest import mesh_of

import jaxcomp
from jaxcomp.cli import overrides
from jaxcomp.config import LoraConfig
from jaxcomp.data.batches import eval_examples
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor, pretrained

LORA = LoraConfig(rank=2, alpha=8.0)


def config(lora=None, positions="spread", **of_memory):
    """Two steps of a shipped base against the shipped decoder."""
    cfg = overrides.load(
        "configs/tiny.py",
        [
            ("compressor", "llama/24"),
            ("train.optim.steps", "2"),
            ("train.optim.warmup", "1"),
            ("train.optim.batch", "4"),
            ("data.val_passages", "4"),
            ("data.eval_passages", "6"),
            ("memory.ratio", "16"),
        ],
    )
    memory = dataclasses.replace(cfg.memory, lora=lora or LoraConfig(), **of_memory)
    if positions != "spread" or of_memory:  # the shipped decoder was taught another memory
        memory = dataclasses.replace(memory, positions=positions)
        decoder = overrides.load("configs/tiny.py", [])
        folder = pretrained.resolve_decoder(decoder)
        cfg = dataclasses.replace(cfg, folders={"decoder": str(folder)})
    return dataclasses.replace(cfg, memory=memory)


ONE = mesh_of((1, 1, 1))  # the tower of 24 does not need eight devices
_FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def trained():
    """The folder of a run by LoRA, finished once a process: to be read, not written to."""
    cfg = config(LORA)
    saves = dataclasses.replace(cfg.train, checkpoint_every=1, keep_checkpoints=2)
    with use_mesh(ONE):
        compressor.train(dataclasses.replace(cfg, train=saves), Path(_FOLDER.name) / "run")
    return Path(_FOLDER.name) / "run"


@functools.cache
def trained_pair():
    return jaxcomp.load(trained(), mesh=ONE, batch=8)


@functools.cache
def texts():
    cfg = config()
    found = eval_examples(cfg, "ordinary", *compressor.tokenizers(cfg, compressor.Path(".")))
    return tuple(example.text for example in found[:5])
