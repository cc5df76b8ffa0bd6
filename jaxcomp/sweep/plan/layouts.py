"""Candidate layouts of a step on a slice, ranked by estimate; only the best are compiled.

The estimates choose what to compile and nothing else: what a table says of memory comes from the
compiler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from jaxcomp.config import Config, ConfigError, MeshConfig, ModelConfig
from jaxcomp.models.model import count_params
from jaxcomp.sweep.grid import model as compressor_shape
from jaxcomp.sweep.plan import flops
from jaxcomp.sweep.plan.topology import Slice

_SPARE = 0.85  # of a chip's memory that an estimate may fill: compilers add copies of their own


class Layout(NamedTuple):
    """Mesh, micro-batches of a step, and what is kept for the backward pass."""

    mesh: tuple[int, int, int]  # replica, fsdp, tp
    accumulate: int
    remat: str

    def applied(self, cfg: Config) -> Config:
        """`cfg` with this layout."""
        optim = dataclasses.replace(cfg.train.optim, accumulate=self.accumulate)
        train = dataclasses.replace(cfg.train, optim=optim, remat=self.remat)
        return dataclasses.replace(cfg, train=train, mesh=MeshConfig(*self.mesh))

    def rows(self, cfg: Config) -> int:
        """Examples that a chip holds at a time."""
        return cfg.train.optim.batch // (self.mesh[0] * self.mesh[1] * self.accumulate)


class Estimate(NamedTuple):
    layout: Layout
    memory: float  # bytes a chip
    compute: float  # seconds of a step, each of these four as if it were alone
    hbm: float
    links: float  # what moves beside computing
    waited: float  # what moves while the cores wait: sums over tp, on some chips weights too

    @property
    def seconds(self) -> float:
        """The largest of the three that overlap, and a tenth of the others: nothing hides quite."""
        parts = (self.compute, self.hbm, self.links)
        return 0.9 * max(parts) + 0.1 * sum(parts) + self.waited


def ranked(cfg: Config, where: Slice) -> list[Estimate]:
    """Every layout that could fit, fastest first; then, if none could, the smallest first.

    Raises ConfigError where no mesh divides the model and the batch.
    """
    every = [estimate(cfg, where, layout) for layout in _layouts(cfg, where)]
    if not every:
        raise ConfigError(
            f"{cfg.compressor} on {where.name}: no mesh of {where.chips} chips divides the batch "
            f"of {cfg.train.optim.batch} and the models' widths and heads; change "
            "train.optim.batch or take another slice"
        )
    room = _SPARE * where.chip.hbm
    fitting = [e for e in every if e.memory <= room]
    if not fitting:
        return sorted(every, key=lambda e: e.memory)
    best = min(e.seconds for e in fitting)

    def order(e: Estimate) -> tuple[float, int, float]:
        # Equal to two hundredths: larger products, then more room.
        return round(50 * e.seconds / best), e.layout.accumulate, e.memory

    return sorted(fitting, key=order)


def candidates(cfg: Config, where: Slice) -> list[Layout]:
    """The layouts to compile, at most two: the best, and one that needs far less memory."""
    order = ranked(cfg, where)
    first = order[0]
    leaner = [e for e in order[1:] if e.memory < 0.6 * first.memory]
    return [first.layout, *(e.layout for e in leaner[:1])]


def _layouts(cfg: Config, where: Slice) -> Iterator[Layout]:
    models = (compressor_shape(cfg), cfg.decoder.model)
    batch = cfg.train.optim.batch
    chips = where.chips
    for tp in (1, 2, 4, 8):
        if chips % tp or any(_uneven(m, tp) for m in models):
            continue
        for fsdp in _divisors(chips // tp):
            ways = chips // tp
            if not where.carries((ways // fsdp, fsdp, tp)):
                continue
            if any(m.hidden_size % fsdp for m in models) or batch % ways:
                continue
            for accumulate in _divisors(batch // ways):
                for remat in ("none", "full"):
                    yield Layout((ways // fsdp, fsdp, tp), accumulate, remat)


def _uneven(m: ModelConfig, tp: int) -> bool:
    cut = (m.vocab_size, m.num_attention_heads, m.num_key_value_heads, m.intermediate_size)
    return any(n % tp for n in cut)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def estimate(cfg: Config, where: Slice, layout: Layout) -> Estimate:
    """Memory and time of a step under `layout`, from shapes alone."""
    run = layout.applied(cfg)
    work = flops.train_step(run)
    compute = sum(w.executed for w in work.values()) / where.chips / where.chip.flops
    hbm = traffic(run, layout) / where.chip.hbm_speed
    links, waited = _links(run, where, layout)
    return Estimate(layout, _memory(run, layout), compute, hbm, links, waited)


class _Sizes(NamedTuple):
    """Bytes of a run's parameters, whole: frozen (in train.dtype) and trained (float32)."""

    frozen: float
    trained: float
    width: int  # bytes of a number in train.dtype


def _sizes(cfg: Config) -> _Sizes:
    comp, dec = compressor_shape(cfg), cfg.decoder.model
    width = 2 if cfg.train.dtype == "bfloat16" else 4
    rank = cfg.memory.lora.rank
    trained = 4.0 * flops.connector_parameters(cfg)
    learns = {
        "tower": flops.lora_parameters(comp, rank) if rank else count_params(comp),
        "last_layer": flops.matrix_parameters(comp),  # moments are held for all of them
        "connector": 0,
    }[cfg.memory.trained]
    trained += 4.0 * learns
    frozen = float(width * count_params(comp))
    if not rank and cfg.memory.trained != "connector":
        frozen = 4.0 * (count_params(comp) - learns)
    if cfg.train.train_decoder:
        trained += 4.0 * count_params(dec)
    else:
        frozen += width * count_params(dec)
    return _Sizes(frozen, trained, width)


def _towers(cfg: Config) -> list[tuple[ModelConfig, int, int]]:
    """Both towers, with the slots of an example and the passes over them: one where no gradient
    goes through, else forward, backward and recomputation."""
    own, read = flops.lengths(cfg, cfg.memory.ratio)
    passes = 3 if cfg.train.remat != "none" else 2
    first = 1 if cfg.memory.trained == "connector" else passes
    comp, dec = compressor_shape(cfg), cfg.decoder.model
    slots = own * cfg.data.segments + (cfg.pretrain.seq_len if cfg.train.replay else 0)
    return [(comp, slots, first), (dec, read, passes)]


def _memory(cfg: Config, layout: Layout) -> float:
    """Parameters, two moments and a gradient; kept activations; what one layer and the loss need
    at a time; the gathered output head."""
    _, fsdp, tp = layout.mesh
    sizes, rows = _sizes(cfg), layout.rows(cfg)
    # A second gradient is added up over micro-batches.
    copies = 4 if layout.accumulate == 1 else 5
    total = (sizes.frozen + copies * sizes.trained) / (fsdp * tp)
    largest = 0.0
    for model, length, passes in _towers(cfg):
        slots = rows * length
        layer = slots * _activations(model, tp) * sizes.width
        kept = slots * model.hidden_size * sizes.width
        if passes > 1:
            total += model.num_hidden_layers * (kept if layout.remat == "full" else layer)
        weights = flops.matrix_parameters(model) / model.num_hidden_layers * sizes.width / tp
        largest = max(largest, 2 * layer + 3 * weights * (fsdp > 1))
    dec = cfg.decoder.model
    chunk = min(cfg.train.loss_chunk or cfg.data.target, cfg.data.target)
    logits = 3 * rows * chunk * dec.vocab_size * 4 / tp
    head = 2 * dec.vocab_size * dec.hidden_size * sizes.width / tp * (fsdp > 1)
    return total + max(largest, logits) + head


def _activations(m: ModelConfig, tp: int) -> float:
    """Numbers a slot that a layer keeps for its backward pass: inputs of norms and projections,
    with the float32 copies that XLA keeps too (fitted to a compiled 8B step: 30 GiB)."""
    heads = (2 * m.num_attention_heads + 2 * m.num_key_value_heads) * m.head_dim
    return 10 * m.hidden_size + (4 * heads + 7 * m.intermediate_size) / tp


def traffic(cfg: Config, layout: Layout) -> float:
    """Bytes of a chip's memory that one step reads and writes, on paper.

    Weights are read once a pass (forward, backward, recomputation) and micro-batch, and written
    once where they were gathered; a projection's input and output move once a pass; logits four
    times; the optimiser reads and writes its four arrays.
    """
    _, fsdp, tp = layout.mesh
    sizes, rows = _sizes(cfg), layout.rows(cfg)
    total = 8.0 * sizes.trained / (fsdp * tp)
    for model, length, passes in _towers(cfg):
        weights = flops.matrix_parameters(model) * sizes.width / tp
        moved = _activations(model, tp) * model.num_hidden_layers * sizes.width
        each = weights * (2 if fsdp > 1 else 1) + rows * length * moved
        total += layout.accumulate * passes * each
    dec = cfg.decoder.model
    head = dec.vocab_size * dec.hidden_size * sizes.width / tp
    logits = rows * cfg.data.target * dec.vocab_size * 4 / tp
    return total + layout.accumulate * (4 * logits + 3 * head)


def _links(cfg: Config, where: Slice, layout: Layout) -> tuple[float, float]:
    """Seconds on the links that hide behind computing, and those that do not: weights, gradients
    and (with tp) activations."""
    replica, fsdp, tp = layout.mesh
    sizes, rows = _sizes(cfg), layout.rows(cfg)
    towers = _towers(cfg)
    whole = sum(flops.matrix_parameters(model) for model, *_ in towers)
    most = 3 if layout.remat != "none" else 2
    # Mean over the weights: a tower that no gradient goes through is gathered once.
    times = [flops.matrix_parameters(model) * min(passes, most) for model, _, passes in towers]
    passes = sum(times) / whole
    gathered = layout.accumulate * passes * (sizes.frozen + sizes.trained / 2) / tp
    gathered *= where.gather_factor(fsdp)
    seconds = gathered * (fsdp - 1) / fsdp / where.speed(fsdp)
    ways = replica * fsdp
    seconds += 2 * sizes.trained / tp * (ways - 1) / ways / where.speed(ways)
    seconds, waited = (seconds, 0.0) if where.chip.hides else (0.0, seconds)
    if tp > 1:
        for model, length, passes in towers:
            # Two sums over tp a layer and pass: after attention and after the MLP.
            sums = 2 * passes * model.num_hidden_layers * layout.accumulate
            moved = rows * length * model.hidden_size * sizes.width * 2 * (tp - 1) / tp
            waited += sums * moved / where.speed(tp)
    return seconds, waited
