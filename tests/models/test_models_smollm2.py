"""The real SmolLM2-135M against what transformers computed with it in float32 (make_golden.py)."""

import json

import jax
import numpy as np
import pytest
from conftest import mesh_of
from golden_cases import SMOLLM2, SMOLLM2_GOLDEN, our_greedy, our_logits
from scipy.special import log_softmax

from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.models import hf
from jaxcomp.runtime.sharding import use_mesh

if not (SMOLLM2 / hf.WEIGHTS).is_file():
    missing = "needs smollm2-135m: JAXCOMP_ASSETS=DIR, which holds it"
    pytest.skip(missing, allow_module_level=True)


@pytest.fixture(scope="module")
def golden():
    return json.loads(SMOLLM2_GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model():
    # Elsewhere compiling takes the time, here computing, which this makes twice as fast.
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    with use_mesh(mesh_of((1, 1, 1))):
        yield hf.load(SMOLLM2)
    jax.config.update("jax_disable_most_optimizations", quick)


def test_the_text_has_the_same_tokens(golden):
    tokenizer = load_tokenizer(SMOLLM2)
    assert tokenizer.encode(golden["text"]) == golden["text_ids"]
    assert tokenizer.encode_batch(golden["prompts"]) == golden["prompt_ids"]


def test_the_text_has_the_same_loss(model, golden, mesh):
    text = golden["text_ids"]
    logits_LV = our_logits(model, [text], "left").astype(np.float64)
    logp_LV = log_softmax(logits_LV[:-1], axis=-1)
    loss = -logp_LV[np.arange(len(text) - 1), text[1:]].mean()
    assert abs(loss - golden["loss"]) < 5e-5  # nats a token: equal to four decimals


def test_the_prompts_are_continued_by_the_same_tokens(model, golden, mesh):
    expected_BL = np.array(golden["greedy"])
    found_BL = our_greedy(model, golden["prompt_ids"], "left", expected_BL.shape[1])
    np.testing.assert_array_equal(found_BL, expected_BL)
