"""Names of our parameters in Hugging Face's files.

Hugging Face stores a linear projection as [out, in] with heads flattened; ours is [in..., out...]
with heads apart. The files of a multimodal model hold more than its language model: other towers,
and in Llama-3.2-Vision layers of cross-attention among its own, which without an image do nothing,
and rows of the embedding for the image.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import ModelConfig
from jaxcomp.models.block import PROJECTIONS, layer_leaves
from jaxcomp.models.families import MULTIMODAL, family
from jaxcomp.models.model import top_leaves


class Tower(NamedTuple):
    """The names of a language model inside a checkpoint, and which of its layers are read."""

    prefix: str = "model."
    head: str = "lm_head.weight"
    layers: tuple[int, ...] = ()  # stored numbers of our layers 0, 1, ...; (): the same
    ignored: tuple[str, ...] = ()  # beginnings of names that are not the language model's
    extra_rows: int = 0  # of the stored embedding, after the vocabulary's

    @property
    def emb(self) -> str:
        return f"{self.prefix}embed_tokens.weight"


# Of a multimodal model: as published, as transformers 4 and as transformers 5 write it.
_INSIDE = (
    Tower("language_model.model.", "language_model.lm_head.weight"),
    Tower("model.language_model.", "lm_head.weight"),
    Tower("language_model.", "lm_head.weight"),
)


def tower(config: dict[str, Any], names: Container[str]) -> Tower:
    """The language model of a checkpoint with this config.json and these tensor names."""
    outer = MULTIMODAL.get(config.get("model_type", ""))
    if outer is None:
        return Tower()
    found = next((t for t in _INSIDE if t.emb in names), _INSIDE[0])
    text = config["text_config"]
    crossed = set(text["cross_attention_layers"]) if outer.cross_attention else set()
    return found._replace(
        layers=tuple(y for y in range(text["num_hidden_layers"]) if y not in crossed)
        if crossed
        else (),
        ignored=(
            *(f"{found.prefix}layers.{y}." for y in sorted(crossed)),
            *(f"{start}{name}" for start in ("", "model.") for name in outer.others),
        ),
        extra_rows=outer.extra_rows,
    )


def module_tower(config: dict[str, Any]) -> Tower:
    """The language model's names as modules of transformers' model class, which adapters go by."""
    return tower(config, (_INSIDE[1].emb,))


class Weight(NamedTuple):
    """Where one parameter of ours stands in the files."""

    names: tuple[str, ...]  # one a layer, or one alone
    stacked: bool
    shape: tuple[int, ...]  # ours, without the layer axis
    inputs: int | None  # leading axes that are contracted (0: none); None: stored as it is
    spec: str
    extra_rows: int = 0

    @property
    def stored(self) -> tuple[int, ...]:
        if self.inputs is None:
            return (self.shape[0] + self.extra_rows, *self.shape[1:])
        outputs = math.prod(self.shape[self.inputs :])
        return (outputs, math.prod(self.shape[: self.inputs])) if self.inputs else (outputs,)

    def to_stored(self, x: np.ndarray) -> np.ndarray:
        """One layer's values, ours, as the file holds them."""
        if self.inputs is None:
            return x
        flat = x.reshape(math.prod(self.shape[: self.inputs]), -1).T
        return flat if self.inputs else flat[:, 0]


def weights(cfg: ModelConfig, tower: Tower) -> dict[str, Weight]:
    """Every parameter by its name in `model.init_params`."""
    tops = {"emb": tower.emb, "norm": f"{tower.prefix}norm.weight", "head": tower.head}
    table = {
        name: Weight((tops[name],), False, leaf.shape, None, leaf.spec)
        for name, leaf in top_leaves(cfg).items()
    }
    table["emb"] = table["emb"]._replace(extra_rows=tower.extra_rows)
    layers = tower.layers or range(cfg.num_hidden_layers)
    stored_as = family(cfg.model_type).layer_names
    for name, leaf in layer_leaves(cfg).items():
        names = tuple(f"{tower.prefix}layers.{y}.{stored_as[name]}" for y in layers)
        inputs = None
        if name in PROJECTIONS:
            x, w, _ = PROJECTIONS[name].eq.replace("->", ",").split(",")
            inputs = sum(letter in x for letter in w)
        elif len(leaf.shape) > 1:  # heads apart: a bias, or a norm over all heads
            inputs = 0
        table[f"layers.{name}"] = Weight(names, True, leaf.shape, inputs, leaf.spec)
    return table
