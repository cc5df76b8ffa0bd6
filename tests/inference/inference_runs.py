"""Finished tiny runs of the controlled world, for the tests of this room."""

import dataclasses
import functools

from conftest import mesh_of

from jaxcomp.cli import overrides
from jaxcomp.config import LoraConfig
from jaxcomp.data.batches import eval_examples
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor, pretrained

LORA = LoraConfig(rank=2, alpha=8.0)


def config(lora=None, positions="spread"):
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
    memory = dataclasses.replace(cfg.memory, lora=lora or LoraConfig())
    if positions != "spread":  # the shipped decoder was taught the other places
        memory = dataclasses.replace(memory, positions=positions)
        decoder = overrides.load("configs/tiny.py", [])
        folder = pretrained.resolve_decoder(decoder)
        cfg = dataclasses.replace(cfg, folders={"decoder": str(folder)})
    return dataclasses.replace(cfg, memory=memory)


def make_run(folder):
    """`folder` with a finished run, by LoRA, on one device: the tower of 24 does not need eight."""
    with use_mesh(mesh_of((1, 1, 1))):
        compressor.train(config(LORA), folder)
    return folder


@functools.cache
def texts():
    cfg = config()
    found = eval_examples(cfg, "ordinary", *compressor.tokenizers(cfg, compressor.Path(".")))
    return tuple(example.text for example in found[:5])
