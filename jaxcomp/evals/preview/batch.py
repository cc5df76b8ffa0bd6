"""A run's model and first batch, built as `train` would, without training."""

from __future__ import annotations

import dataclasses
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcomp.compress import kv
from jaxcomp.compress.autoencoder import AutoEncoder, Memory
from jaxcomp.config import Config, ConfigError
from jaxcomp.data.batches import REBUILD, Batch, Example, eval_examples
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.evals.evaluate import Rebuilt, rebuild
from jaxcomp.evals.preview.gradients import Ask, Heard, listen
from jaxcomp.inference import decode
from jaxcomp.runtime.sharding import put_batch, whole_batch
from jaxcomp.training import replay
from jaxcomp.training.loop import Run
from jaxcomp.training.loss import objective_of
from jaxcomp.training.optim import (
    StepSpec,
    init_state,
    on_mesh,
    split_model,
    split_optim,
    train_step,
)

ROWS = 8  # of the batch that is probed: each check needs several lengths, none needs more


def group_of(name: str) -> str:
    """The part of the model that a parameter's path belongs to."""
    if name.startswith(("decoder/", "markers_4D")):
        return name.split("/")[0].removesuffix("_4D")
    _, part, *rest = name.split("/")
    if part != "llm":
        return {"mem_ME": "memory tokens"}.get(part, part)
    if "lora" in rest:
        return "compressor: LoRA"
    if rest[0] != "layers":
        return {"emb": "compressor: embeddings", "norm": "compressor: norm"}.get(
            rest[0], "compressor: output head (unused)"
        )
    mlp = rest[1] in ("gate", "up", "down", "mlp_norm", "mlp_post_norm")
    return "compressor: MLP" if mlp else "compressor: attention"


class Preview:
    """Built under a mesh. `trained` is the finished run of the same config, if there is one."""

    def __init__(
        self,
        cfg: Config,
        run: Run,
        toks: tuple[Tokenizer, Tokenizer],
        trained: AutoEncoder | None = None,
    ):
        self.run, self.toks, self.trained = run, toks, trained
        self.mesh = jax.sharding.get_mesh()
        self.rows = whole_batch(ROWS, self.mesh)
        shown = min(cfg.data.val_passages, 4 * self.rows)
        self.cfg = dataclasses.replace(
            cfg,
            data=dataclasses.replace(cfg.data, val_passages=shown),
            eval=dataclasses.replace(cfg.eval, batch=self.rows),
        )
        self.model: Any = run.model()
        self.layout, self.trainable, self.frozen = split_model(self.model, run.trainable)
        self.params = self.trainable | self.frozen
        self.graphdef, self.state = nnx.split(self.model)
        # Not the curriculum's first ratio, nor hidden words: what the run is after.
        self.objective = objective_of(cfg.train, cfg.memory.ratio).by_labels()
        # Of one step: with all steps, everything the run will draw would be made.
        optim = dataclasses.replace(cfg.train.optim, steps=1)
        brief = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, optim=optim))
        self.drawn: Any = next(replay.train_batches(brief, *toks))
        self.batch: Batch = self.drawn.examples if cfg.train.replay else self.drawn
        self.sample = _probe(self.batch, self.rows)
        self.spoiler = np.random.default_rng(0)

    @property
    def prefix(self) -> int:
        """P: places of the decoder before the target."""
        return self.memory.seg_BM.shape[1] + 3

    @cached_property
    def memory(self) -> Memory:
        """Of the batch shown, on the host."""
        return self.read(self.sample.ctx_BGT, self.sample.ctx_len_BG)

    def read(self, ctx_BGT: np.ndarray, len_BG: np.ndarray, ratio: int | None = None) -> Memory:
        """The memory of a batch of contexts, as evaluation reads it, on the host."""
        put, ratio = put_batch((ctx_BGT, len_BG), self.mesh), ratio or self.cfg.memory.ratio
        return jax.device_get(decode.read(self.graphdef, self.state, *put, ratio))

    @cached_property
    def keys_and_values(self) -> np.ndarray:
        """What the decoder makes of the probed targets' tokens by itself: a vector each."""
        tok_BL, len_B = self.sample.tok_BOL[:, 0], self.sample.tok_len_BO[:, 0]
        put = put_batch((tok_BL, len_B), self.mesh)
        vec_BLD = jax.device_get(_keys_and_values(self.graphdef, self.state, *put))
        return vec_BLD[~padding(len_B, tok_BL.shape[1])]

    @cached_property
    def heard(self) -> Heard:
        return self.listen(self.sample)

    def listen(self, batch: Batch, ask: Ask | None = None) -> Heard:
        """`gradients.listen` to the run's objective, without dropout, on the host; by default to
        every target's loss with weight 1."""
        put = put_batch(batch, self.mesh), put_batch(ask or self.ask(batch), self.mesh)
        return jax.device_get(listen(self.layout, self.objective, self.params, *put))

    def ask(self, batch: Batch) -> Ask:
        """For every target's loss; to be changed with `_replace`."""
        none = np.full(batch.ctx_len_BG.size, -1), np.full(batch.tok_len_BO.size, -1)
        return Ask(np.ones(batch.tok_len_BO.shape, np.float32), *none)

    @cached_property
    def rebuilt(self) -> list[Rebuilt]:
        return self.rebuild(self.sample)

    def rebuild(self, batch: Batch) -> list[Rebuilt]:
        """Evaluation of the first target of each row."""
        return rebuild(self.cfg, self.model, examples(batch), self.toks[1])

    @cached_property
    def val(self) -> list[Example]:
        return eval_examples(self.cfg, "val", *self.toks)

    @cached_property
    def trained_val(self) -> list[Rebuilt]:
        """Evaluation of the trained pair; none without one."""
        if self.trained is None:
            return []
        return rebuild(self.cfg, self.trained, self.val, self.toks[1])

    @cached_property
    def step(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Every parameter by its path, before and after the run's own step on its first batch."""
        run = self.run
        adam, schedule = split_optim(run.optim, run.marker_steps, run.last_layer)
        copies = jax.tree.map(jnp.copy, self.trainable)  # the step consumes its state
        key = on_mesh(jax.random.key(run.seed)) if run.dropout else None
        state, _ = train_step(
            StepSpec(self.layout, run.objective(0), adam),
            init_state(copies, adam),
            self.frozen,
            put_batch(self.drawn, self.mesh),
            on_mesh(schedule),
            key,
        )
        before = jax.device_get(self.params)
        return before, before | jax.device_get(state.params)

    def others(self, tok: np.ndarray, which: int) -> np.ndarray:
        """A different token at every place; which: 0 compressor's vocabulary, 1 decoder's."""
        eos, size = self.toks[which].eos_id, self.toks[which].vocab_size
        new = (tok + self.spoiler.integers(1, size - 1, tok.shape)) % size
        # The end token would end a rebuild early, and be no change of what came before.
        other = np.where((tok + 1) % size != eos, tok + 1, tok + 2) % size
        return np.where(new != eos, new, other).astype(np.int32)


@partial(jax.jit, static_argnames=("graphdef",))
def _keys_and_values(graphdef: Any, state: Any, tok_BL: jax.Array, len_B: jax.Array) -> jax.Array:
    """vec_BLD' of texts that the decoder reads alone; without meaning beyond their lengths."""
    decoder = nnx.merge(graphdef, state).decoder
    slot_BL = jnp.zeros_like(tok_BL) + jnp.arange(tok_BL.shape[1], dtype=jnp.int32)
    seg_BL = (slot_BL < len_B[:, None]).astype(jnp.int32)
    _, layers = decoder.keep(decoder.embed(tok_BL), slot_BL, seg_BL, last=tok_BL.shape[1])
    return kv.flat(layers)


def examples(batch: Batch) -> list[Example]:
    """The first target of each row, to be rebuilt, as evaluation takes it."""
    out = []
    for ctx_GT, len_G, tok_OL, len_O in zip(*batch[:4], strict=True):
        ctx = [list(map(int, c_T[:t])) for c_T, t in zip(ctx_GT, len_G, strict=True)]
        out.append(Example("", "", ctx, list(map(int, tok_OL[0, : len_O[0]])), [], None))
    return out


def padding(length: np.ndarray, slots: int) -> np.ndarray:
    """Which slots lie beyond a length, one axis more than `length`."""
    return np.arange(slots) >= np.asarray(length)[..., None]


def _probe(batch: Batch, rows: int) -> Batch:
    """The batch's rows with a memory (those to rebuild first), cut to several lengths.

    Row 0 is as it was drawn, so it can be shown; row i loses about i / rows of its last segment and
    of its targets; the last row's memory is dropped.
    """
    batch = Batch(*map(np.asarray, batch))
    drawn = np.flatnonzero(batch.ctx_len_BG.sum(1) > 0)
    if not drawn.size:
        raise ConfigError(
            "train.p_blank: no row of the first batch has a memory; expected some to look at"
        )
    order = drawn[np.argsort(batch.mode_BO[drawn, 0] != REBUILD, kind="stable")]
    out = Batch(*(a[np.resize(order, rows)] for a in batch))
    ctx_len_BG, tok_len_BO = out.ctx_len_BG.copy(), out.tok_len_BO.copy()
    for i in range(1, rows):
        last = int(np.flatnonzero(ctx_len_BG[i])[-1])
        for len_X, at in ((ctx_len_BG[i], last), (tok_len_BO[i], tok_len_BO[i] > 0)):
            len_X[at] = np.maximum(1, len_X[at] - 1 - i * len_X[at] // rows)
    ctx_len_BG[-1] = 0
    ctx_BGT = np.where(padding(ctx_len_BG, out.ctx_BGT.shape[-1]), 0, out.ctx_BGT)
    tok_BOL = np.where(padding(tok_len_BO, out.tok_BOL.shape[-1]), 0, out.tok_BOL)
    return Batch(ctx_BGT, ctx_len_BG, tok_BOL, tok_len_BO, out.mode_BO)
