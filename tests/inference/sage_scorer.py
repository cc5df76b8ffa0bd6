"""A tiny random scorer as a Hugging Face folder, for the tests of selection."""

import dataclasses

import jax
import numpy as np
from conftest import mesh_of
from flax import nnx

from jaxcomp.config import ModelConfig
from jaxcomp.data.tokenizer import train_tokenizer
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import use_mesh

ONE = mesh_of((1, 1, 1))
CFG = ModelConfig(
    model_type="llama",
    vocab_size=320,
    hidden_size=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    intermediate_size=24,
    num_hidden_layers=3,
    max_position_embeddings=512,
)
TEXT = (
    "The goat of Oda Brenn stood in the red barn. Nobody fed it on Sunday. In 1912 the mayor, "
    "Tilo Hark, bought a house near the river. It was small. Café owners complained 😀 at once. "
) * 3
QUESTIONS = ["Who bought a house?", "Where did the goat stand?", "When?"]


def write_scorer(folder, model_type="llama"):
    """The folder, with a tokenizer of 320 tokens and weights far from uniform attention."""
    train_tokenizer([TEXT], 320, folder)
    with use_mesh(ONE):
        model = Transformer(dataclasses.replace(CFG, model_type=model_type), rngs=nnx.Rngs(3))
        graphdef, state = nnx.split(model)
        state = jax.tree.map(lambda x: x * 2.0 if x.ndim > 2 else x, state)
        hf.save(nnx.merge(graphdef, state), folder, dtype=np.float32)
    return folder
