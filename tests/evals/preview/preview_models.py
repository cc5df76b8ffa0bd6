"""The smallest run that can be examined: two random towers as folders, on the world."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcomp.compress.recipes import recipe
from jaxcomp.config import (
    Config,
    DataConfig,
    EvalConfig,
    LoraConfig,
    MemoryConfig,
    ModelConfig,
    OptimConfig,
    SweepConfig,
    TrainConfig,
)
from jaxcomp.data.batches import data_tokenizer, tokenizer_folder
from jaxcomp.evals.preview.batch import Preview
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer, layer_leaves, top_leaves
from jaxcomp.runtime.sharding import constrain
from jaxcomp.training.compressor import planned

SHAPE = ModelConfig(
    hidden_size=16, num_hidden_layers=1, head_dim=8, intermediate_size=16, num_key_value_heads=4
)
SMALL = 0.1  # embeddings as small as published ones: N(0, 1) is tens of times their size
T = 16
CFG = Config(
    families={"llama": {"a": SHAPE}},
    compressor="llama/a",
    data=DataConfig(segment=T, target=T + 2, train_passages=32, val_passages=4, eval_passages=4),
    memory=MemoryConfig(ratio=4, marker_steps=0),
    train=TrainConfig(optim=OptimConfig(steps=2, batch=8, lr=1e-3, warmup=1), p_reconstruct=0.8),
    eval=EvalConfig(batch=8, samples=0, edits_per_kind=2),
    sweep=SweepConfig(ratios=(4,), primary_ratio=4),
)
# What else a config can ask for, all at once.
OTHER = dataclasses.replace(
    CFG,
    data=dataclasses.replace(CFG.data, segments=2, target=2 * T + 2),
    memory=MemoryConfig(
        ratio=4, marker_steps=3, positions="consecutive", lora=LoraConfig(rank=2, dropout=0.1)
    ),
    train=dataclasses.replace(
        CFG.train,
        objective="sum",
        p_blank=0.2,
        word_dropout=0.2,
        ratios=(4, 8),
        loss_chunk=5,
        curriculum=(2,),
    ),
)
# Keys and values of every layer, of which the first knows nothing of the text.
KV = dataclasses.replace(
    CFG,
    families={"llama": {"a": dataclasses.replace(SHAPE, num_hidden_layers=2)}},
    memory=MemoryConfig(ratio=4, marker_steps=0, **recipe("500x")["memory"]),
)


def with_folders(cfg: Config, root: Path) -> Config:
    """`cfg` with a compressor and a decoder of random weights, saved under `root`."""
    folders, shape = {}, cfg.families["llama"]["a"]
    for seed, name in enumerate(("llama/a", "decoder")):
        folder = root / f"{name.replace('/', '-')}-{shape.num_hidden_layers}"
        if not folder.exists():
            hf.save(tower(data_tokenizer(cfg).vocab_size, seed, shape), folder, dtype="float32")
            source = Path(tokenizer_folder(cfg))
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (folder / file).write_bytes((source / file).read_bytes())
        folders[name] = str(folder)
    return dataclasses.replace(cfg, folders=folders)


def tower(vocab: int, seed: int, shape: ModelConfig = SHAPE) -> Transformer:
    """Weights drawn by numpy: compiling the model's own initialiser takes longer."""
    shape, rng = dataclasses.replace(shape, vocab_size=vocab), np.random.default_rng(seed)

    def draw(leaf, lead=()):
        size = (*lead, *leaf.shape)
        x = rng.normal(size=size) * leaf.std if leaf.std else np.ones(size)
        return constrain(jnp.asarray(x, jnp.float32), leaf.spec)

    params = {name: draw(leaf) for name, leaf in top_leaves(shape).items()}
    params["emb"] *= SMALL
    for name, leaf in layer_leaves(shape).items():
        params[f"layers.{name}"] = draw(leaf, (shape.num_hidden_layers,))
    return Transformer(shape, rngs=nnx.Rngs(0), params=params)


def preview(cfg: Config) -> Preview:
    run, toks = planned(cfg, Path("nowhere"))
    return Preview(cfg, run, toks)
