"""Where every parameter of ours stands in Hugging Face's files.

Hugging Face stores a linear projection as [out, in] with heads flattened; ours is [in..., out...]
with heads apart. The text tower of Llama-3.2-Vision is a Llama whose files hold more: layers of
cross-attention among its own, which without an image do nothing, and rows of the embedding for the
image.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import ModelConfig
from jaxcomp.models.block import PROJECTIONS
from jaxcomp.models.config import VISION
from jaxcomp.models.model import layer_leaves, top_leaves

LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    **{f"{name}_bias": f"self_attn.{name}_proj.bias" for name in "qkv"},
    **{name: f"self_attn.{name}_proj.weight" for name in "qkvo"},
    **{name: f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
}


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


# Of Llama-3.2-Vision: as published, as transformers 4 and as transformers 5 write it.
_VISION = (
    Tower("language_model.model.", "language_model.lm_head.weight"),
    Tower("model.language_model.", "lm_head.weight"),
    Tower("language_model.", "lm_head.weight"),
)
_IMAGE_ROWS = 8


def tower(config: dict[str, Any], names: Container[str]) -> Tower:
    """The language model of a checkpoint with this config.json and these tensor names."""
    if config.get("model_type") != VISION:
        return Tower()
    text = config["text_config"]
    found = next((t for t in _VISION if t.emb in names), _VISION[0])
    crossed = set(text["cross_attention_layers"])
    return found._replace(
        layers=tuple(y for y in range(text["num_hidden_layers"]) if y not in crossed),
        ignored=(
            *(f"{found.prefix}layers.{y}." for y in sorted(crossed)),
            *(f"{start}{name}" for start in ("", "model.") for name in _OTHER_TOWERS),
        ),
        extra_rows=_IMAGE_ROWS,
    )


def module_tower(config: dict[str, Any]) -> Tower:
    """The language model's names as modules of transformers' model class, which adapters go by."""
    if config.get("model_type") != VISION:
        return Tower()
    return tower(config, (_VISION[1].emb,))


_OTHER_TOWERS = ("vision_model.", "multi_modal_projector.")


class Weight(NamedTuple):
    """Where one parameter of ours stands in the files."""

    names: tuple[str, ...]  # one a layer, or one alone
    stacked: bool
    shape: tuple[int, ...]  # ours, without the layer axis
    inputs: int | None  # leading axes that are contracted (0: a bias); None: stored as it is
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
    for name, leaf in layer_leaves(cfg).items():
        names = tuple(f"{tower.prefix}layers.{y}.{LAYER_NAMES[name]}" for y in layers)
        inputs = None
        if name in PROJECTIONS:
            x, w, _ = PROJECTIONS[name].eq.replace("->", ",").split(",")
            inputs = sum(letter in x for letter in w)
        elif name.endswith("_bias"):
            inputs = 0
        table[f"layers.{name}"] = Weight(names, True, leaf.shape, inputs, leaf.spec)
    return table
