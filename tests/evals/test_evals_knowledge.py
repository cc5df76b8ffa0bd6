import numpy as np
import pytest
from flax import nnx

from jaxcomp.config import Config
from jaxcomp.data.facts import Prompt
from jaxcomp.data.world import World
from jaxcomp.evals import knowledge as subject
from jaxcomp.evals.knowledge import knowledge
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import pretrained
from jaxcomp.training.loop import mesh_for

BASE = pretrained.ASSETS / "bases" / "llama-64-s0"


@pytest.fixture(scope="module")
def base():
    with use_mesh(mesh_for(Config())):
        yield hf.load(BASE), pretrained.tokenizer_of(BASE)


@pytest.fixture(scope="module")
def prompts():
    return World().prompts()


def test_a_pretrained_model_knows_the_world_and_a_random_one_does_not(base, prompts):
    model, tok = base
    with use_mesh(mesh_for(Config())):
        known = knowledge(model, tok, prompts, 0.95)["all"]
        fresh = Transformer(model.cfg, rngs=nnx.Rngs(params=0))
        nothing = knowledge(fresh, tok, prompts, 0.95)["all"]
    assert known.facts == nothing.facts == len(prompts)
    assert known.right > 0.9 * known.facts
    assert 0.5 * _most(prompts, 0.95) < known.bits < 1.02 * _most(prompts, 0.95)
    assert nothing.right < 0.3 * nothing.facts
    assert nothing.bits < 0.1 * _most(prompts, 0.95)


def test_bits_of_a_model_that_says_the_truth(monkeypatch, base, prompts):
    model, tok = base
    liked = iter(prompts)

    def truth(_, rows):
        out = np.full((len(rows), tok.vocab_size), -np.inf, np.float32)
        for row, p in zip(out, liked, strict=False):
            for option in p.options:
                share = 0.9 if option == p.favourite else 0.1 / (len(p.options) - 1)
                row[tok.encode(option)[0]] = np.log(share)
        return out

    monkeypatch.setattr(subject, "_BATCH", len(prompts))
    monkeypatch.setattr(subject, "_expected", truth)
    known = knowledge(model, tok, prompts, 0.9)["all"]
    assert known.right == known.facts
    assert known.bits == pytest.approx(_most(prompts, 0.9), rel=1e-5)


def test_what_is_known_does_not_depend_on_batches_or_padding(base, prompts, monkeypatch):
    model, tok = base
    with use_mesh(mesh_for(Config())):
        rows = [tok.encode(p.text) for p in prompts[:40]]
        together = subject._expected(model, [*rows, [i for row in rows[:6] for i in row]])[:40]
        monkeypatch.setattr(subject, "_BATCH", 8)
        apart = np.concatenate([subject._expected(model, rows[i : i + 8]) for i in range(0, 40, 8)])
    np.testing.assert_allclose(together, apart[: len(together)], rtol=1e-4, atol=1e-4)


def test_values_of_several_tokens_are_not_measured(base):
    model, tok = base
    two = Prompt("The apple was", ("red green", "green"), "green", "all")
    with use_mesh(mesh_for(Config())):
        assert knowledge(model, tok, [two], 0.9) == {}


def _most(prompts, strength):
    """Σ log2 V – H: what a model knows that says each value with its true probability."""
    total = 0.0
    for p in prompts:
        rest = len(p.options) - 1
        entropy = -strength * np.log2(strength) - (1 - strength) * np.log2((1 - strength) / rest)
        total += np.log2(len(p.options)) - entropy
    return total
