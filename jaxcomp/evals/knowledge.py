"""What the models of a trained pair know of a controlled world (metrics/knowledge.py)."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.config import Config
from jaxcomp.data.facts import Prompt
from jaxcomp.data.people import NEUTRAL, UNSEEN
from jaxcomp.data.sources import world_config, world_of
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.evals.metric import Values
from jaxcomp.evals.metrics.knowledge import MODELS
from jaxcomp.inference.scoring import padded
from jaxcomp.models import hf
from jaxcomp.models.generate import read
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import on_host, put_batch, whole_batch
from jaxcomp.training.identity import base_text

_BATCH = 512
_CONTROLS = (NEUTRAL, UNSEEN)  # no text prefers their favourites


class Known(NamedTuple):
    """Of one group of facts: how many there are, and what a model knows of them."""

    facts: int
    right: int
    bits: float


def knowledge(
    model: Transformer, tok: Tokenizer, prompts: Sequence[Prompt], strength: float
) -> dict[str, Known]:
    """What `model` knows of each group of facts, under the active mesh.

    Args:
        prompts: the world's; their group "all" is added up here.
        strength: P(favourite) in the pretraining text; under 1 / values: uniform.

    Returns {} where a value is not one token, so that its probability is not one number.
    """
    options = {o: tok.encode(f" {o}" if tok.byte_level else o) for p in prompts for o in p.options}
    if any(len(ids) != 1 for ids in options.values()):
        return {}
    found: dict[str, Known] = defaultdict(lambda: Known(0, 0, 0.0))
    for start in range(0, len(prompts), _BATCH):
        part = prompts[start : start + _BATCH]
        logp_BV = _expected(model, [tok.encode(p.text) for p in part])
        for prompt, logp_V in zip(part, logp_BV, strict=False):
            logp_O = logp_V[[options[o][0] for o in prompt.options]]
            liked = prompt.options.index(prompt.favourite)
            likely = max(strength, 1 / len(logp_O))
            p_O = np.full(len(logp_O), (1 - likely) / (len(logp_O) - 1))
            p_O[liked] = likely
            bits = np.log2(len(logp_O)) + p_O @ logp_O / np.log(2)
            mine = Known(1, int(logp_O.argmax() == liked), float(bits))
            found[prompt.group] = _sum(found[prompt.group], mine)
    # A model that is surer than it should be of facts that it does not know knows nothing of them.
    groups = {group: known._replace(bits=max(known.bits, 0.0)) for group, known in found.items()}
    every = [known for group, known in groups.items() if group not in _CONTROLS]
    return groups | {"all": functools.reduce(_sum, every)}


def _sum(one: Known, other: Known) -> Known:
    return Known(one.facts + other.facts, one.right + other.right, one.bits + other.bits)


def of_pair(cfg: Config, model: AutoEncoder, toks: tuple[Tokenizer, Tokenizer]) -> Values:
    """The metrics of a trained pair whose `cfg.folders` names its pretrained compressor, under the
    active mesh; {} for a source whose facts are not known."""
    text = base_text(cfg)
    world = world_of(text)
    if world is None:
        return {}
    prompts, strength = world.prompts(), world_config(text).prior_strength
    comp_tok, dec_tok = toks
    models = (
        (hf.load(cfg.folders[cfg.compressor]), comp_tok),
        (model.compressor.llm, comp_tok),
        (model.decoder, dec_tok),
    )
    out: Values = {}
    for name, (llm, tok) in zip(MODELS, models, strict=True):
        for group, known in knowledge(llm, tok, prompts, strength).items():
            out[f"knowledge/{name}/{group}/accuracy"] = known.right / known.facts
            if group not in _CONTROLS:
                out[f"knowledge/{name}/{group}/bits"] = known.bits
    before, after = (out.get(f"knowledge/{name}/all/bits") for name in ("base", "tower"))
    if before is not None and after is not None:
        out["knowledge/retained"] = after / before if before > 1 else None
    return out


def _expected(model: Transformer, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """ln p of every token after each row (B x V, float32)."""
    mesh = jax.sharding.get_mesh()
    tok_BL, len_B = padded(rows, whole_batch(_BATCH, mesh), step=8)
    slot_L = np.arange(tok_BL.shape[1], dtype=np.int32)
    seg_BL = (slot_L < len_B[:, None]).astype(np.int32)
    pos_BL = np.broadcast_to(slot_L, tok_BL.shape)
    tok_BL, pos_BL, seg_BL, len_B = put_batch((tok_BL, pos_BL, seg_BL, len_B), mesh)
    found = read(model, model.embed(tok_BL), pos_BL, seg_BL, len_B, room=1)
    return on_host(jax.nn.log_softmax(found.logits_BV.astype(jnp.float32)))
