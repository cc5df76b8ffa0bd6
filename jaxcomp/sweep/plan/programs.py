"""The programs of a run, built from shapes alone: no weights, no data, no TPU.

They are the same functions, with the same static arguments, as `train.loop`, `fidelity` and
`models.generate` call; what is given in place of arrays are shapes with shardings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcomp.compress.autoencoder import build, dtypes, trainable_filter
from jaxcomp.compress.memory import Scale
from jaxcomp.config import Config
from jaxcomp.inference.decode import _prefix, read
from jaxcomp.models import generate
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import SPECS, check_model, use_mesh
from jaxcomp.sweep.grid import model as compressor_shape
from jaxcomp.training import replay
from jaxcomp.training.loss import objective_of
from jaxcomp.training.optim import (
    Layout,
    Params,
    Schedule,
    StepSpec,
    fresh_state,
    split_model,
    split_optim,
    train_step,
)


class Abstract(NamedTuple):
    """A pair on a mesh, every array a ShapeDtypeStruct with its sharding."""

    layout: Layout
    trained: Params
    frozen: Params

    def model(self) -> Any:
        return self.layout.merge(self.trained, self.frozen)


def abstract_pair(cfg: Config, mesh: Mesh) -> Abstract:
    """The pair of `cfg.compressor` as `train.compress.pair` would build it, of shapes only.

    Raises ConfigError where a size does not divide over the mesh.
    """
    shape, decoder_shape = compressor_shape(cfg), cfg.decoder.model
    check_model(shape, mesh, cfg.compressor)
    check_model(decoder_shape, mesh, "decoder")
    of = dtypes(cfg.train, cfg.memory)
    kept: list[Layout] = []

    def make() -> tuple[Params, Params]:
        rngs = nnx.Rngs(params=0)
        lora = cfg.memory.lora
        llm = Transformer(
            shape, rngs=rngs, lora=lora, dtype=of.compressor, compute_dtype=of.compute
        )
        decoder = Transformer(decoder_shape, rngs=rngs, dtype=of.decoder, compute_dtype=of.compute)
        # Where a real decoder's embeddings lie changes no shape.
        scale = Scale(jnp.zeros(decoder_shape.hidden_size), 1.0)
        pair = build(
            llm, decoder, cfg.memory, cfg.train, segment=cfg.data.segment, seed=0, scale=scale
        )
        layout, trained, frozen = split_model(pair, trainable_filter(cfg.train, cfg.memory))
        kept.append(layout)
        return trained, frozen

    with use_mesh(mesh):
        trained, frozen = jax.eval_shape(make)
    return Abstract(kept[0], _on(trained, mesh), _on(frozen, mesh))


def train_program(cfg: Config, mesh: Mesh, pair: Abstract) -> Any:
    """The update step, traced: `.lower(...)` it."""
    train = cfg.train
    objective = replay.with_replay(objective_of(train, cfg.memory.ratio), train)
    adam, _ = split_optim(train.optim, last_layer=cfg.memory.trained == "last_layer")
    whole = NamedSharding(mesh, P())
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    batch = jax.tree.map(
        lambda shape: _int32(shape, mesh, "batch"),
        replay.batch_shapes(cfg),
        is_leaf=lambda x: type(x) is tuple,  # a shape, no NamedTuple of shapes
    )
    drops = train.word_dropout > 0 or (cfg.memory.lora.rank > 0 and cfg.memory.lora.dropout > 0)
    with use_mesh(mesh):
        state = _on(jax.eval_shape(lambda p: fresh_state(p, adam), pair.trained), mesh)
        key = _on(jax.eval_shape(lambda: jax.random.key(0)), mesh) if drops else None
        return train_step.trace(
            StepSpec(pair.layout, objective, adam),
            state,
            pair.frozen,
            batch,
            Schedule(*[scalar] * len(Schedule._fields)),
            key,
        )


def compress_program(cfg: Config, mesh: Mesh, pair: Abstract, rows: int) -> tuple[Any, Any]:
    """The compressor's forward pass over `rows` texts; and the memory it gives, of shapes."""
    graphdef, state = nnx.split(pair.model())
    with use_mesh(mesh):
        ctx = _int32((rows, cfg.data.segments, cfg.data.segment), mesh, "batch")
        length = _int32((rows, cfg.data.segments), mesh, "batch")
        traced = read.trace(graphdef, state, ctx, length, cfg.memory.ratio)
        memory = _on(
            jax.eval_shape(
                lambda s, *a: read(graphdef, s, *a, cfg.memory.ratio),
                state,
                ctx,
                length,
            ),
            mesh,
        )
        return traced, memory


def decoder_programs(cfg: Config, mesh: Mesh, pair: Abstract, memory: Any) -> dict[str, Any]:
    """ "prefill" and "decode" of rebuilding the texts of `memory`: `data.target` tokens each."""
    model = pair.model()
    graphdef, state = nnx.split(model)
    whole_def, weights = nnx.split(model.decoder)
    rows, new = memory.seg_BM.shape[0], cfg.data.target
    with use_mesh(mesh):
        mode_B = _int32((rows,), mesh, "batch")
        prefix = _on(
            jax.eval_shape(lambda s, *a: _prefix(graphdef, s, *a), state, memory, mode_B),
            mesh,
        )
        ahead = generate._prefill.trace(whole_def, weights, *prefix[:3], prefix.kv_override, new)
        logits_BV, cache, seg_B1 = _on(
            jax.eval_shape(
                lambda w, *a: generate._prefill(whole_def, w, *a, new),
                weights,
                *prefix[:3],
                prefix.kv_override,
            ),
            mesh,
        )
        one = _int32((), mesh, "replicated")
        key = _on(jax.eval_shape(lambda: jax.random.key(0)), mesh)
        real = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, P()))
        decode = generate._decode.trace(
            whole_def,
            weights,
            logits_BV,
            cache,
            seg_B1,
            prefix.start_pos_B,
            mode_B,
            mode_B,
            one,
            real,
            key,
            max_new=new,
            sample=False,
        )
        return {"prefill": ahead, "decode": decode}


def _int32(shape: tuple[int, ...], mesh: Mesh, spec: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=NamedSharding(mesh, SPECS[spec]))


def _on(tree: Any, mesh: Mesh) -> Any:
    """Shapes with abstract shardings, as those of arrays on `mesh`."""

    def one(x: Any) -> Any:
        spec = x.sharding.spec if isinstance(x.sharding, NamedSharding) else P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(one, tree)
