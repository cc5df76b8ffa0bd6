"""Floating-point operations of one step, counted from the shapes (a multiply-add is two).

Per token and parameter of a matrix: 2 forward, 2 more to carry the gradient through it, 2 more for
the gradient of the parameter itself. So a frozen tower through which gradients flow costs 4P, a
trained one 6P, one that is only run (`memory.trained` = connector) 2P. With last_layer gradients of
all layers are computed, as in a trained one. Causal attention is counted
at half its square, three times forward in training. Every slot counts, padding too: that is what a
chip computes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxcomp.compress.kinds import connector_of, kind_of
from jaxcomp.config import Config, ModelConfig
from jaxcomp.data.objectives import OBJECTIVES
from jaxcomp.models.attention import windows
from jaxcomp.sweep.grid import model as compressor_shape


class Work(NamedTuple):
    """Of one tower in one step. `model`: without recomputation, the numerator of MFU; `executed`:
    with it. tokens: slots of the whole batch."""

    tokens: int
    model: float
    executed: float


def matrix_parameters(cfg: ModelConfig) -> int:
    """Parameters of all layers' projections."""
    D, F, H = cfg.hidden_size, cfg.intermediate_size, cfg.head_dim
    N, K = cfg.num_attention_heads, cfg.num_key_value_heads
    return cfg.num_hidden_layers * (2 * D * N * H + 2 * D * K * H + 3 * D * F)


def lora_parameters(cfg: ModelConfig, rank: int) -> int:
    D, F, H = cfg.hidden_size, cfg.intermediate_size, cfg.head_dim
    N, K = cfg.num_attention_heads, cfg.num_key_value_heads
    sides = 2 * (D + N * H) + 2 * (D + K * H) + 3 * (D + F)
    return cfg.num_hidden_layers * rank * sides


def attention(cfg: ModelConfig, length: int) -> float:
    """Forward, of one row of `length` slots: scores and values, causal, within the windows."""
    windows_Y = windows(cfg)
    if windows_Y is None:
        return 2.0 * cfg.num_hidden_layers * cfg.num_attention_heads * cfg.head_dim * length**2
    width_Y = np.minimum(windows_Y.astype(float), length)
    pairs = float(np.sum(width_Y * (2 * length - width_Y))) / 2
    return 4.0 * cfg.num_attention_heads * cfg.head_dim * pairs


def lengths(cfg: Config, ratio: int) -> tuple[int, int]:
    """Slots of a compressor's row (a segment) and of a decoder's (an example's prefix, target)."""
    data = cfg.data
    vectors = data.segment // ratio
    own = len(kind_of(cfg.memory).reads([None] * data.segment, [None] * vectors))
    return own, data.segments * vectors + 3 + data.target - 1


def connector_parameters(cfg: Config) -> int:
    """Of the connector's maps; 0 without one."""
    dec = cfg.decoder.model.hidden_size
    hidden = cfg.memory.connector_hidden or 2 * dec
    return connector_of(cfg.memory).weights(compressor_shape(cfg).hidden_size, hidden, dec)


def train_step(cfg: Config) -> dict[str, Work]:
    """Work of one update by tower; the connector (below 1%) counts with the compressor."""
    batch, ratio = cfg.train.optim.batch, cfg.memory.ratio
    rank, again = cfg.memory.lora.rank, cfg.train.remat != "none"
    comp, dec = compressor_shape(cfg), cfg.decoder.model
    own, read = lengths(cfg, ratio)
    rows = batch * cfg.data.segments
    out, backward = {}, cfg.memory.trained != "connector"
    through = (4 if rank else 6) if backward else 2
    tokens, forward, model, text = 0, 0.0, 0.0, cfg.pretrain.seq_len - 1
    for count, length in [(rows, own), (batch, text)] if cfg.train.replay else [(rows, own)]:
        tokens += count * length
        forward += 2.0 * count * length * matrix_parameters(comp) + count * attention(comp, length)
        model += count * length * float(through * matrix_parameters(comp))
        model += (3 if backward else 1) * count * attention(comp, length)
        model += 6.0 * count * length * lora_parameters(comp, rank) if rank else 0.0
    if cfg.train.replay:  # logits, by a head that learns only where it is the embeddings
        learns = comp.tie_word_embeddings and not rank and cfg.memory.trained == "tower"
        model += 2.0 * batch * text * comp.vocab_size * comp.hidden_size * (3 if learns else 2)
    vectors = rows * (cfg.data.segment // ratio)
    model += 6.0 * vectors * connector_parameters(cfg)
    out["compressor"] = Work(tokens, model, model + (again and backward) * forward)
    objective = OBJECTIVES[cfg.train.objective]
    rows = batch * objective.per_example
    forward = 2.0 * rows * read * matrix_parameters(dec) + rows * attention(dec, read)
    logits = 2.0 * rows * cfg.data.target * dec.vocab_size * dec.hidden_size
    through = 6 if cfg.train.train_decoder else 4
    model = rows * read * float(through * matrix_parameters(dec)) + 3 * rows * attention(dec, read)
    model += logits * through / 2
    if taught := objective.teacher_tokens(cfg.data):
        model += batch * (2.0 * taught * matrix_parameters(dec) + attention(dec, taught))
        model += 2.0 * batch * cfg.data.target * dec.vocab_size * dec.hidden_size
    chunks = 0 < cfg.train.loss_chunk < cfg.data.target
    out["decoder"] = Work(rows * read, model, model + again * forward + chunks * logits)
    return out
