import dataclasses
from typing import Any, cast

import jax
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx

from jaxcomp.compress.autoencoder import build
from jaxcomp.config import Config, DataConfig, EvalConfig, MemoryConfig, ModelConfig
from jaxcomp.data.batches import batch_examples, data_tokenizer, eval_examples
from jaxcomp.data.tokenizer import train_tokenizer
from jaxcomp.evals import attribution, tracing
from jaxcomp.evals.attribution import Word
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


@pytest.fixture(scope="module")
def world():
    with use_mesh(mesh_of((1, 1, 1))):
        yield Fixture()


@pytest.fixture(scope="module")
def bytes_tok(tmp_path_factory):
    """One token a byte, and a few longer ones."""
    return train_tokenizer(["the cat sat"] * 3, 262, tmp_path_factory.mktemp("bpe"))


def texts_of(trace):
    return [w.text for w in trace.source_words], [w.text for w in trace.rebuilt_words]


def own_rows(world):
    """The memories of the five passages, and the tokens that the decoder wrote after them."""
    graphdef, state = nnx.split(world.model)
    (batch, _), mesh = next(batch_examples(world.examples, 5, CFG)), jax.sharding.get_mesh()
    put = put_batch(batch, mesh)
    memory = decode.read(graphdef, state, put.ctx_BGT, put.ctx_len_BG, 4)
    mode_B = put.mode_BO[:, 0]
    free = decode.free(
        graphdef, state, memory, mode_B, jax.random.key(0), max_new=52, eos_id=world.tok.eos_id
    )
    tok_BL = np.asarray(free.tok_BL)
    steps = [decode.until_end(row, world.tok.eos_id)[1] for row in tok_BL]
    len_B = np.array(steps, np.int32)

    def forced(memory, tok_BL):
        args = put_batch((tok_BL, len_B), mesh)
        return decode.forced(graphdef, state, memory, mode_B, *args)

    def expected(memory, tok_BL, other_BL):
        args = put_batch((tok_BL, other_BL, len_B), mesh)
        return tracing.expected(graphdef, state, memory, mode_B, *args)

    return memory, tok_BL, len_B, forced, expected


def test_what_is_expected_is_what_teacher_forcing_finds(world, monkeypatch):
    """Against reconstruction.forced, with the logits in chunks; and of another token, against a
    text that really holds it."""
    monkeypatch.setattr(decode, "LOGITS_ELEMENTS", 20 * 5 * world.model.decoder.cfg.vocab_size)
    cast(Any, tracing.expected).clear_cache()  # compiled for these shapes already, without chunks
    memory, tok_BL, len_B, forced, expected = own_rows(world)
    other_BL = (tok_BL + 7) % world.tok.vocab_size
    for m in (memory, decode.no_memory(memory)):
        found, known = expected(m, tok_BL, other_BL), forced(m, tok_BL)
        np.testing.assert_allclose(found.logp_BL, -known.nll_BL, atol=1e-5)
        np.testing.assert_allclose(found.entropy_BL, known.entropy_BL, atol=1e-5)
        for at in (0, 3, int(len_B.min()) - 1):
            instead_BL = tok_BL.copy()
            instead_BL[:, at] = other_BL[:, at]
            there = forced(m, instead_BL).nll_BL[:, at]
            np.testing.assert_allclose(found.other_BL[:, at], -there, atol=1e-5)
    assert np.all(np.asarray(found.logp_BL)[np.arange(52) >= len_B[:, None]] == 0)


def test_labels_follow_the_floor_and_sums_the_tokens(world):
    memory, tok_BL, _, forced, _ = own_rows(world)
    blank = decode.no_memory(memory)
    nll_BL = [np.asarray(forced(m, tok_BL).nll_BL) for m in (memory, blank)]
    overwritten = contested = 0
    for b, trace in enumerate(world.traces):
        ids = decode.until_end(tok_BL[b], world.tok.eos_id)[0]
        assert trace.rebuilt == world.tok.decode(ids)
        texts = texts_of(trace)
        links = attribution.contested(texts[0], texts[1], attribution.align(texts[0], texts[1]))
        contested += len(links)
        asked = 0
        for link in links:
            said = trace.said[link.rebuilt]
            label = trace.labels.rebuilt[link.rebuilt]
            asked += said.margin_floor is not None
            assert (label == "overwritten") == ((said.margin_floor or 0.0) > 0)
            overwritten += label == "overwritten"
        assert trace.undecided == len(links) - asked
        spans = tracing.token_spans(world.tok, ids, trace.rebuilt)
        for k, nll in enumerate(nll_BL):
            for word, said in zip(trace.rebuilt_words, trace.said, strict=True):
                mine = tracing.tokens_of(word, spans)
                assert said[1 + k] == pytest.approx(-nll[b, mine].sum(), abs=1e-4)
    assert 0 < overwritten < contested


def test_the_floor_prefers_the_word_it_would_have_said(world):
    """The margin, against the decoder really reading the source's token in that place."""
    memory, tok_BL, _, forced, _ = own_rows(world)
    blank, met = decode.no_memory(memory), 0
    base_BL = np.asarray(forced(blank, tok_BL).nll_BL)
    for b, trace in enumerate(world.traces):
        ids = decode.until_end(tok_BL[b], world.tok.eos_id)[0]
        spans = tracing.token_spans(world.tok, ids, trace.rebuilt)
        texts = texts_of(trace)
        for link in attribution.contested(
            texts[0], texts[1], attribution.align(texts[0], texts[1])
        )[:2]:
            margin = trace.said[link.rebuilt].margin_floor
            if margin is None:
                continue
            word, other = trace.rebuilt_words[link.rebuilt], texts[0][link.source]
            found = tracing.parting(
                world.tok, [*ids, world.tok.eos_id], trace.rebuilt, spans, word, other
            )
            assert found is not None
            instead_BL = tok_BL.copy()
            instead_BL[b, found.at] = found.token
            there = np.asarray(forced(blank, instead_BL).nll_BL)[b, found.at]
            assert margin == pytest.approx(there - base_BL[b, found.at], abs=1e-4)
            met += 1
    assert met >= 4


def test_passages_neither_depend_on_their_batch_nor_on_their_order(world):
    alone = world.trace(dataclasses.replace(CFG, eval=EvalConfig(batch=2)), world.examples[::-1])
    for one, other in zip(world.traces, alone[::-1], strict=True):
        assert one.example == other.example
        assert (one.rebuilt, one.labels) == (other.rebuilt, other.labels)
        assert one.loss == pytest.approx(other.loss, abs=1e-5)
        for a, b in zip(one.said, other.said, strict=True):
            np.testing.assert_allclose(
                np.array(a, float), np.array(b, float), atol=1e-4, equal_nan=True
            )
        np.testing.assert_allclose(one.vec_MD, other.vec_MD, atol=1e-5)


@pytest.mark.slow
def test_another_mesh_gives_the_same(world):
    with use_mesh(mesh_of((1, 2, 2))):
        found = Fixture().traces
    for one, other in zip(world.traces, found, strict=True):
        assert (one.rebuilt, one.labels) == (other.rebuilt, other.labels)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_the_loss_is_that_of_teacher_forcing_the_source(world):
    graphdef, state = nnx.split(world.model)
    (batch, _) = next(batch_examples(world.examples, 5, CFG))
    put = put_batch(batch, jax.sharding.get_mesh())
    memory = decode.read(graphdef, state, put.ctx_BGT, put.ctx_len_BG, 4)
    found = decode.forced(
        graphdef, state, memory, put.mode_BO[:, 0], put.tok_BOL[:, 0], put.tok_len_BO[:, 0]
    )
    known = np.asarray(found.nll_BL).sum(1) / batch.tok_len_BO[:, 0]
    assert [t.loss for t in world.traces] == pytest.approx(known.tolist(), rel=1e-5)


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
