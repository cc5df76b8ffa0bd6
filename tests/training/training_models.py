"""The tiniest pair, batches and runs, for the tests of this package."""

import functools
from dataclasses import replace

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcomp.compress.autoencoder import build, trainable_filter
from jaxcomp.compress.recipes import recipe
from jaxcomp.config import Config, LoraConfig, MemoryConfig, ModelConfig, OptimConfig, TrainConfig
from jaxcomp.data.batches import Batch, LmBatch
from jaxcomp.models.model import Transformer, layer_leaves, top_leaves
from jaxcomp.runtime.sharding import constrain, put_batch
from jaxcomp.training.loop import Run
from jaxcomp.training.loss import MemoryObjective
from jaxcomp.training.manifest import new
from jaxcomp.training.optim import eval_step, split_model

T, L, V = 8, 10, 32
SHAPE = ModelConfig(
    vocab_size=V, hidden_size=16, num_hidden_layers=1, head_dim=8, intermediate_size=32
)
FULL = MemoryConfig(ratio=2, marker_steps=3)
POOL = MemoryConfig(ratio=2, marker_steps=3, **recipe("mean_pool")["memory"])
TRAINED = {
    "connector": replace(POOL, trained="connector"),
    "last_layer": replace(FULL, trained="last_layer"),
}  # what is trained, but the whole tower
OPTIM = OptimConfig(steps=6, batch=8, lr=3e-3, warmup=2)


NO_LORA = LoraConfig()


def tower(seed=0, lora=NO_LORA, layers=1):
    """Weights drawn by numpy: compiling the model's own initialiser would take longer than the
    tests."""
    rng, shape = np.random.default_rng(seed), replace(SHAPE, num_hidden_layers=layers)

    def draw(leaf, lead=()):
        x = rng.normal(size=(*lead, *leaf.shape)) * leaf.std if leaf.std else np.ones(leaf.shape)
        x = np.broadcast_to(x, (*lead, *leaf.shape))
        return constrain(jnp.asarray(x, jnp.float32), leaf.spec)

    params = {name: draw(leaf) for name, leaf in top_leaves(shape).items()}
    for name, leaf in layer_leaves(shape).items():
        params[f"layers.{name}"] = draw(leaf, (layers,))
    return Transformer(shape, rngs=nnx.Rngs(params=seed), lora=lora, params=params)


def pair(memory=FULL, seed=0):
    llm = tower(1, memory.lora, layers=2 if memory.trained == "last_layer" else 1)
    return build(llm, tower(2), memory, TrainConfig(), segment=T, seed=seed)


def batch(rows=8, targets=1, seed=0):
    """Texts of several lengths; the target repeats the context, so there is something to learn."""
    rng = np.random.default_rng(seed)
    ctx = rng.integers(3, V, (rows, 1, T)).astype(np.int32)
    ctx_len = rng.integers(3, T + 1, (rows, 1)).astype(np.int32)
    tok = np.zeros((rows, targets, L), np.int32)
    tok[:, :, :T] = ctx
    length = rng.integers(3, L + 1, (rows, targets)).astype(np.int32)
    mode = np.broadcast_to(np.arange(targets, dtype=np.int32), (rows, targets)).copy()
    if targets == 1:
        mode[::2] = 1
    return Batch(ctx, ctx_len, tok, length, mode)


def lm_batch(rows=8, seed=0):
    """Two packed documents a row, the second shorter by some padding."""
    rng, at_L = np.random.default_rng(seed), np.arange(L)
    tok_BL, second_BL = rng.integers(3, V, (rows, L)), at_L >= rng.integers(2, L - 3, (rows, 1))
    first_B1 = np.argmax(second_BL, axis=1, keepdims=True)
    seg_BL = np.where(at_L >= L - rng.integers(0, 3, (rows, 1)), 0, 1 + second_BL)
    return LmBatch(*(x.astype(np.int32) for x in (tok_BL, seg_BL, at_L - first_B1 * second_BL)))


@functools.cache
def parts():
    """`split_model` of the pair, all of it as the trained split."""
    return split_model(pair(), lambda *_: True)


def sums(batch, objective):
    """The objective's sums_K over a batch."""
    layout, params, _ = parts()
    return np.array(eval_step(layout, objective, params, put(batch)))


def sums_by_row(batch, objective):
    """Those of every row alone, added up."""
    rows = range(len(batch.tok_BOL))
    alone = [sums(jax.tree.map(lambda x, b=b: x[b : b + 1], batch), objective) for b in rows]
    return np.sum(alone, 0)


def spoiled(batch):
    """The same batch with tokens in the place of padding."""
    tok_BOL, ctx_BGT = batch.tok_BOL.copy(), batch.ctx_BGT.copy()
    tok_BOL[np.arange(tok_BOL.shape[2]) >= batch.tok_len_BO[..., None]] = 9
    ctx_BGT[np.arange(ctx_BGT.shape[2]) >= batch.ctx_len_BG[..., None]] = 9
    return batch._replace(tok_BOL=tok_BOL, ctx_BGT=ctx_BGT)


def put(tree):
    return put_batch(tree, jax.sharding.get_mesh())


def batches(seed=0, count=64):
    """A grain iterator of batches, with state to save."""
    numbers = grain.MapDataset.range(count).seed(seed).shuffle()
    return iter(numbers.map(lambda i: batch(seed=int(i))).repeat().to_iter_dataset())


class Batches(grain.DatasetIterator):
    """`batches`, which calls `acts[n]` before the nth batch is drawn."""

    def __init__(self, acts):
        super().__init__()
        self.inner, self.acts, self.drawn = batches(), acts, 0

    def __next__(self):
        self.drawn += 1
        self.acts.get(self.drawn, lambda: None)()
        return next(self.inner)

    def get_state(self):
        return self.inner.get_state()

    def set_state(self, state):
        self.inner.set_state(state)


def made(identity):
    """The manifest of a run."""
    return new("tiny", identity, Config())


def run(optim=OPTIM, memory=FULL, seed=0, make_batches=batches, save=3, keep=2, log=2, **changes):
    return Run(
        **{
            "what": "tiny",
            "manifest": made({"seed": seed, "optim": {"lr": optim.lr, "steps": optim.steps}}),
            "model": lambda: pair(memory, seed),
            "trainable": trainable_filter(TrainConfig(), memory),
            "batches": make_batches,
            "objective": lambda step: MemoryObjective(memory.ratio),
            "settings": TrainConfig(
                optim, log_every=log, checkpoint_every=save, keep_checkpoints=keep
            ),
            "seed": seed,
            "marker_steps": memory.marker_steps,
            "last_layer": memory.trained == "last_layer",
            **changes,
        }
    )
