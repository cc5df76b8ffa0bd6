import dataclasses
from typing import Any, cast

import jax
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx

from jaxcomp.compress.autoencoder import build
from jaxcomp.config import Config, DataConfig, EvalConfig, MemoryConfig, ModelConfig
from jaxcomp.data.batches import data_tokenizer, eval_examples
from jaxcomp.data.tokenizer import train_tokenizer
from jaxcomp.evals import attribution, tracing
from jaxcomp.evals.attribution import Word
from jaxcomp.evals.evaluate import Rebuilder
from jaxcomp.inference import decode
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch, use_mesh

CFG = Config(
    data=DataConfig(segment=48, target=52, eval_passages=5),
    memory=MemoryConfig(ratio=4),
    eval=EvalConfig(batch=5),
)
SHAPE = ModelConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    intermediate_size=32,
)


class Fixture:
    """A tiny random pair of the world, and five passages traced through it."""

    def __init__(self):
        self.tok = data_tokenizer(CFG)
        shape = dataclasses.replace(SHAPE, vocab_size=-(-self.tok.vocab_size // 4) * 4)
        llm, decoder = (Transformer(shape, rngs=nnx.Rngs(seed)) for seed in (1, 2))
        self.model = build(llm, decoder, CFG.memory, CFG.train, segment=CFG.data.segment, seed=3)
        self.examples = eval_examples(CFG, "counterfactual", self.tok, self.tok)
        self.traces = self.trace(CFG, self.examples)

    def trace(self, cfg, examples):
        return list(tracing.trace(cfg, self.model, examples, self.tok))


class Own:
    """The memories of the five passages, and the tokens that the decoder wrote after them."""

    def __init__(self, world):
        self.pair = Rebuilder(CFG, world.model, world.tok)
        ((_, self.batch),) = self.pair.batches(world.examples)
        self.memory = self.pair.read(self.batch)
        self.blank = decode.no_memory(self.memory)
        self.tok_BL = np.asarray(self.pair.free(self.batch, self.memory).tok_BL)
        ends = [decode.until_end(row, world.tok.eos_id) for row in self.tok_BL]
        self.ids, self.len_B = [ids for ids, _ in ends], np.array([n for _, n in ends], np.int32)

    def nll(self, memory, tok_BL):
        args = put_batch((tok_BL, self.len_B), jax.sharding.get_mesh())
        mode_B = self.batch.mode_BO[:, 0]
        found = decode.forced(self.pair.graphdef, self.pair.state, memory, mode_B, *args)
        return np.asarray(found.nll_BL), np.asarray(found.entropy_BL)

    def expected(self, memory, other_BL):
        args = put_batch((self.tok_BL, other_BL, self.len_B), jax.sharding.get_mesh())
        mode_B = self.batch.mode_BO[:, 0]
        return tracing.expected(self.pair.graphdef, self.pair.state, memory, mode_B, *args)


@pytest.fixture(scope="module")
def world():
    with use_mesh(mesh_of((1, 1, 1))):
        yield Fixture()


@pytest.fixture(scope="module")
def own(world):
    return Own(world)


@pytest.fixture(scope="module")
def bytes_tok(tmp_path_factory):
    """One token a byte, and a few longer ones."""
    return train_tokenizer(["the cat sat"] * 3, 262, tmp_path_factory.mktemp("bpe"))


def contested(trace):
    texts = [w.text for w in trace.source_words], [w.text for w in trace.rebuilt_words]
    return attribution.contested(*texts, attribution.align(*texts))


def test_what_is_expected_is_what_teacher_forcing_finds(world, own, monkeypatch):
    """Against decode.forced, with the logits in chunks; and of another token, against a text that
    really holds it."""
    monkeypatch.setattr(decode, "LOGITS_ELEMENTS", 20 * 5 * world.model.decoder.cfg.vocab_size)
    cast(Any, tracing.expected).clear_cache()  # compiled for these shapes already, without chunks
    other_BL = (own.tok_BL + 7) % world.tok.vocab_size
    for m in (own.memory, own.blank):
        found, (nll_BL, entropy_BL) = own.expected(m, other_BL), own.nll(m, own.tok_BL)
        np.testing.assert_allclose(found.logp_BL, -nll_BL, atol=1e-5)
        np.testing.assert_allclose(found.entropy_BL, entropy_BL, atol=1e-5)
        for at in (0, 3, int(own.len_B.min()) - 1):
            instead_BL = own.tok_BL.copy()
            instead_BL[:, at] = other_BL[:, at]
            there_BL = own.nll(m, instead_BL)[0]
            np.testing.assert_allclose(found.other_BL[:, at], -there_BL[:, at], atol=1e-5)
        assert np.all(np.asarray(found.logp_BL)[np.arange(52) >= own.len_B[:, None]] == 0)


def test_labels_follow_the_decoder_without_memory_and_sums_the_tokens(world, own):
    nll_BL = [own.nll(m, own.tok_BL)[0] for m in (own.memory, own.blank)]
    labels = []
    for b, trace in enumerate(world.traces):
        assert trace.rebuilt == world.tok.decode(own.ids[b])
        links, asked = contested(trace), 0
        for link in links:
            margin = trace.said[link.rebuilt].margin_no_memory
            labels.append(trace.labels.rebuilt[link.rebuilt])
            asked += margin is not None
            assert (labels[-1] == "overwritten") == ((margin or 0.0) > 0)
        assert trace.unattributed == len(links) - asked
        spans = tracing.token_spans(world.tok, own.ids[b], trace.rebuilt)
        for k, nll in enumerate(nll_BL):
            for word, said in zip(trace.rebuilt_words, trace.said, strict=True):
                mine = tracing.tokens_of(word, spans)
                assert said[1 + k] == pytest.approx(-nll[b, mine].sum(), abs=1e-4)
    assert 0 < labels.count("overwritten") < len(labels)


def assert_same(one, other):
    assert (one.rebuilt, one.labels) == (other.rebuilt, other.labels)
    assert one.loss == pytest.approx(other.loss, rel=1e-4)
    for a, b in zip(one.said, other.said, strict=True):
        a, b = np.array(a, float), np.array(b, float)
        np.testing.assert_allclose(a, b, atol=1e-4, equal_nan=True)
    np.testing.assert_allclose(one.vec_MD, other.vec_MD, atol=1e-5)


def test_passages_neither_depend_on_their_batch_nor_on_their_order(world):
    alone = world.trace(dataclasses.replace(CFG, eval=EvalConfig(batch=2)), world.examples[::-1])
    assert [t.example for t in alone[::-1]] == world.examples
    for one, other in zip(world.traces, alone[::-1], strict=True):
        assert_same(one, other)


@pytest.mark.slow
def test_another_mesh_gives_the_same(world):
    with use_mesh(mesh_of((1, 2, 2))):
        found = Fixture().traces
    for one, other in zip(world.traces, found, strict=True):
        assert (one.rebuilt, one.labels) == (other.rebuilt, other.labels)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


@pytest.mark.parametrize("text", ["the cat sat", "a 😀é b", "", " x\n"])
def test_tokens_cover_their_text(bytes_tok, text):
    ids = bytes_tok.encode(text)
    spans = tracing.token_spans(bytes_tok, ids, text)
    assert len(spans) == len(ids)
    for at in range(len(text)):
        holders = [k for k, (start, end) in enumerate(spans) if start <= at < end]
        assert holders == list(range(holders[0], holders[-1] + 1))
        assert text[at] in bytes_tok.decode(ids[holders[0] : holders[-1] + 1])
    for word in attribution.words(text):
        mine = tracing.tokens_of(word, spans)
        assert word.text in bytes_tok.decode([ids[k] for k in mine])


def test_tokens_that_are_no_text_hold_none(bytes_tok):
    ids = [bytes_tok.pad_id, *bytes_tok.encode("a b"), bytes_tok.eos_id]
    spans = tracing.token_spans(bytes_tok, ids, "a b")
    assert spans[0] == (0, 0)
    assert spans[-1] == (3, 3)
    assert tracing.tokens_of(Word("a", 0, 1), spans) == [1]


def test_where_two_spellings_part(bytes_tok):
    tok, eos = bytes_tok, bytes_tok.eos_id

    def parting(text, word, other, ids=None, end=(eos,)):
        ids = tok.encode(text) if ids is None else ids
        start = text.index(word)
        found = tracing.parting(
            tok, [*ids, *end], text, tracing.token_spans(tok, ids, text),
            Word(word, start, start + len(word)), other,
        )  # fmt: skip
        return found and (found.at, tok.decode([found.token]) or found.token)

    assert parting("my pig x", "pig", "pug") == (4, "u")
    # A word that goes on where the other ends parts at what comes after it.
    assert parting("my pig x", "pig", "piglet") == (6, "l")
    assert parting("my pig", "pig", "pi") == (5, eos)
    assert parting("my pig", "pig", "piglet") == (6, "l")
    # Cut off before it could end: what would have followed is not known.
    assert parting("my pig", "pig", "piglet", end=()) is None
    # The tokens before the word are not those of its text: no one token decides.
    spelled = [tok.encode(c)[0] for c in "the"]
    assert len(tok.encode("the")) < 3
    assert parting("the pig", "pig", "pug", ids=[*spelled, *tok.encode(" pig")]) is None
