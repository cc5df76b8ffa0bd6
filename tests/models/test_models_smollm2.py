"""The real SmolLM2-135M against what transformers computed with it in float32 (make_golden.py)."""

import json

import jax
import numpy as np
import pytest
import smollm2
from conftest import mesh_of
from golden_cases import our_greedy, our_logits
from scipy.special import log_softmax

from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.models import hf
from jaxcomp.runtime.sharding import use_mesh

if not (smollm2.folder() / hf.WEIGHTS).is_file():
    pytest.skip(smollm2.MISSING, allow_module_level=True)


@pytest.fixture(scope="module")
def golden():
    return json.loads(smollm2.GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model():
    # Elsewhere compiling takes the time, here computing, which this makes twice as fast.
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    with use_mesh(mesh_of((1, 1, 1))):
        yield hf.load(smollm2.folder())
    jax.config.update("jax_disable_most_optimizations", quick)


def test_the_text_has_the_same_tokens(golden):
    tokenizer = load_tokenizer(smollm2.folder())
    assert tokenizer.encode(smollm2.TEXT) == golden["text"]
    assert tokenizer.encode_batch(smollm2.PROMPTS) == golden["prompts"]


def test_the_text_has_the_same_loss(model, golden, mesh):
    text = golden["text"]
    assert len(text) > 300
    logits_LV = our_logits(model, [text], "left").astype(np.float64)
    logp_LV = log_softmax(logits_LV[:-1], axis=-1)
    loss = -logp_LV[np.arange(len(text) - 1), text[1:]].mean()
    assert abs(loss - golden["loss"]) < 5e-5  # nats a token: equal to four decimals


def test_the_prompts_are_continued_by_the_same_tokens(model, golden, mesh):
    found_BL = our_greedy(model, golden["prompts"], "left", smollm2.NEW)
    expected_BL = np.array(golden["greedy"])
    assert expected_BL.shape == (20, smollm2.NEW)
    different = {
        f"{prompt!r} at token {int(np.argmax(found != expected))}": f"least lead {lead}"
        for prompt, found, expected, lead in zip(
            smollm2.PROMPTS, found_BL, expected_BL, golden["least_lead"], strict=True
        )
        if (found != expected).any()
    }
    assert not different
