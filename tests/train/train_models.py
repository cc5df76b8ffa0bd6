"""The tiniest pair and batches, for the tests of this room."""

import jax
import numpy as np
from flax import nnx

from jaxcomp.compress import build
from jaxcomp.config import LoraConfig, MemoryConfig, ModelConfig, TrainConfig
from jaxcomp.data.pipeline import Batch
from jaxcomp.llm.model import Transformer
from jaxcomp.sharding import put_batch

T, L, V = 8, 10, 32
SHAPE = ModelConfig(
    vocab_size=V, hidden_size=16, num_hidden_layers=1, head_dim=8, intermediate_size=32
)


def tower(seed=0, lora=LoraConfig()):  # noqa: B008 (a frozen dataclass)
    return Transformer(SHAPE, rngs=nnx.Rngs(params=seed), lora=lora)


def pair(memory=MemoryConfig(ratio=2), train=TrainConfig(), seed=0):  # noqa: B008 (frozen)
    return build(tower(1, memory.lora), tower(2), memory, train, segment=T, seed=seed)


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


def put(tree):
    return put_batch(tree, jax.sharding.get_mesh())
