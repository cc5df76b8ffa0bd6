"""What is measured is the decoder's own likelihood, whatever shares the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from inference.inference_runs import texts, trained, trained_pair

import jaxcomp
from jaxcomp.data.batches import CONTINUE
from jaxcomp.evals.qa import conditions
from jaxcomp.evals.qa.conditions import CONDITIONS, batches, measure, prepare, room
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.selection import SELECTIONS, Question, keepers
from jaxcomp.inference.pair import QUESTION, Score
from jaxcomp.runtime.sharding import put_batch, use_mesh

NEW = 8


@pytest.fixture(scope="module")
def pair():
    return trained_pair()


def items():
    """Made up: passages of the controlled world, one of them short (and asked about twice), one of
    two segments."""
    answers = [("Alice", "Simon"), ("the goat", "Ann"), ("red", "very small indeed"), ("a b", "c")]
    answers += [("small", "large")]
    passages = [texts()[0], "The goat looked small.", f"{texts()[1]} {texts()[2]}", texts()[3]]
    passages += passages[1:2]
    return [
        Item(f"i{n}", "who ?" * (n + 1), passage, answer[:1], answer[1:], ("blue",) * (n == 1))
        for n, (passage, answer) in enumerate(zip(passages, answers, strict=True))
    ]


@pytest.fixture(scope="module")
def asked(pair):
    found, left_out = prepare(pair, items(), max_new=NEW)
    assert not left_out
    return found


@pytest.fixture(scope="module")
def measured(pair, asked):
    """Of each item, from one batch; what is asked about twice is compressed once."""
    (part,) = batches(asked, 8)
    assert [a.segments for a in part] == [2, 1, 1, 1, 1]
    compressed, real = [], pair.compress
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair, "compress", lambda texts: compressed.append(texts) or real(texts))
        found = measure(pair, part, max_new=NEW, also=["sage", "attention-sentences"])
    (each,) = compressed
    assert sorted(each) == sorted({a.item.context for a in part})
    return {a.item.id: readings for a, readings in zip(part, found, strict=True)}


def by_hand(pair, prefix_tokens, label_tokens, before=None):
    """-ln p from one full forward pass of one row without any padding; `before` is a prefix."""
    decoder = pair.model.decoder
    tokens = [*prefix_tokens, *label_tokens]
    slot_BL = np.arange(len(tokens), dtype=np.int32)[None]
    start = 0 if before is None else int(before.start_pos_B[0])
    arrays = np.array([tokens], np.int32), start + slot_BL, 0 * slot_BL + 1
    tok_BL, pos_BL, seg_BL = put_batch(arrays, pair.mesh)
    x_BLD = decoder.embed(tok_BL)
    if before is not None:
        x_BLD = jnp.concatenate([before.x_BPD, x_BLD], axis=1)
        pos_BL = jnp.concatenate([before.pos_BP, pos_BL], axis=1)
        seg_BL = jnp.concatenate([before.seg_BP, seg_BL], axis=1)
    logits_LV = decoder.unembed(decoder(x_BLD, pos_BL, seg_BL))[0]
    logp_LV = np.asarray(jax.nn.log_softmax(logits_LV), np.float64)[-len(label_tokens) - 1 : -1]
    return -sum(logp_V[t] for logp_V, t in zip(logp_LV, label_tokens, strict=True))


@pytest.mark.parametrize("condition", [*CONDITIONS, "sage", "attention-sentences"])
def test_a_likelihood_is_that_of_one_full_forward_pass(pair, measured, condition):
    before = None
    # Of two segments; a short passage, which a selection keeps whole.
    item = items()[2 if condition in ("memory", "sage", "attention-sentences") else 1]
    tail = QUESTION.format(question=item.question)
    prompt = item.context + tail if condition == "text" else tail
    if condition == "rebuilt":
        prompt = pair.reconstruct(pair.compress(item.context))[0] + tail
    if condition in SELECTIONS:
        # One vector for 16 tokens of the compressor, in each of the two segments.
        budget = sum(-(-n // 16) for n in pair.compress(item.context).tokens_G.tolist())
        asked = [Question(item.id, item.context, item.question)]
        kept = keepers(pair, [condition], asked)[condition][0](budget)
        assert measured[item.id][condition].kept == kept.tokens
        assert 0 < len(kept.text) < len(item.context) / 2
        prompt = kept.text + tail
    with use_mesh(pair.mesh):
        if condition == "memory":
            memory = pair.compress(item.context)
            placed = pair._place([memory], int(memory.segments_B[0]))
            mode_B = put_batch(np.full(1, CONTINUE, np.int32), pair.mesh)
            before = pair.model.prefix(placed, mode_B)
        ids = pair.dec_tok.encode(prompt)
        scores = measured[item.id][condition].options
        joined = pair.dec_tok.encode(f"{prompt} {item.options[-1]}")
        assert joined[: len(ids)] == ids
        assert len(scores) == len(item.options)
        assert scores[-1].tokens == len(joined) - len(ids)
        expected = by_hand(pair, ids, joined[len(ids) :], before)
        assert scores[-1].nats == pytest.approx(expected, rel=2e-5)


def test_the_conditions_differ(measured):
    for readings in measured.values():
        nats = [readings[c].options[0].nats for c in CONDITIONS]
        assert min(abs(a - b) for a, b in zip(nats, [*nats[1:], nats[0]], strict=True)) > 1e-3


def test_a_batch_of_one_equals_a_batch_of_many(pair, asked, measured):
    short = asked[1]
    assert any(len(a.text_ids) > len(short.text_ids) + 32 for a in asked)
    (alone,) = measure(pair, [short], max_new=NEW)
    for condition in CONDITIONS:
        together = measured[short.item.id][condition]
        assert alone[condition].answer == together.answer
        for a, b in zip(alone[condition].options, together.options, strict=True):
            assert a.tokens == b.tokens
            assert a.nats == pytest.approx(b.nats, rel=1e-5)


def test_padding_changes_no_likelihood(pair):
    short, long = [20, 21, 22], list(range(5, 70))
    options = [[7, 8], [9]]
    (alone,) = pair.likelihoods(pair.plain([short]), [options])
    beside = pair.likelihoods(pair.plain([long, short]), [options, options])[1]
    wide = pair.likelihoods(pair.plain([short]), [[[7, 8], [9], list(range(4, 24))]])[0]
    for a, b, c in zip(alone, beside, wide, strict=False):
        assert a.nats == pytest.approx(b.nats, rel=1e-5)
        assert a.nats == pytest.approx(c.nats, rel=1e-5)
    assert alone[0].nats != pytest.approx(
        pair.likelihoods(pair.plain([long]), [options])[0][0].nats
    )


def test_an_answer_from_memory_is_what_ask_answers(pair, measured):
    for item in items()[1:3]:
        memory = pair.compress(item.context)
        said = pair.ask(memory, item.question, max_new=NEW)
        assert [measured[item.id]["memory"].answer] == said


@pytest.mark.slow  # a second proof: tests/inference/test_inference_pair.py
def test_a_sharded_pair_gives_the_same(asked, measured):
    wide = jaxcomp.load(trained(), mesh=mesh_of((2, 4, 1)), batch=4)
    part = [a for a in asked if a.segments == 1]
    memory = wide.compress([a.item.context for a in part])
    ((_, remembered),) = wide.asked(memory, [a.tail for a in part])
    read = wide.plain([a.text_ids for a in part])
    for condition, prefix in (("text", read), ("memory", remembered)):
        found, _ = conditions._judged(wide, prefix, [a.options for a in part], 1)
        for one, options in zip(part, found, strict=True):
            for a, b in zip(options, measured[one.item.id][condition].options, strict=True):
                assert a.nats == pytest.approx(b.nats, rel=1e-4)


def test_room_is_what_a_prefix_leaves(pair):
    memory = pair.compress(items()[2].context)
    ((_, prefix),) = pair.asked(memory, [""])
    most = pair.model.decoder.cfg.max_position_embeddings
    assert int(prefix.start_pos_B[0]) + room(pair, memory.tokens_G.tolist()) == most


def test_a_short_memory_takes_the_room_of_the_training(pair, monkeypatch):
    one, two = room(pair, [9]), room(pair, [9, 9])
    monkeypatch.setattr(pair, "traits", pair.traits._replace(segments=2))
    assert room(pair, [9]) == two == one - pair.segment


def test_what_cannot_be_asked_is_left_out_and_counted(pair):
    one = items()[0]
    long = " ".join(texts())  # five texts, beyond 256 positions even alone
    bad = [
        one._replace(context=long),
        one._replace(answers=("The Goat!",), world=("goat",)),
        one._replace(answers=("Alice", "goat"), world=("the fox", "Goat.")),
        one._replace(world=(), others=("fox", "the fox")),
        one._replace(world=("the",)),
        one._replace(world=("?!",)),
        one._replace(answers=(), world=()),
        one._replace(question="café ?"),  # the world's tokenizer has no é
    ]
    found, left_out = prepare(pair, [*bad, one], max_new=NEW)
    assert [a.item for a in found] == [one]
    assert left_out == {
        "a text too long for the decoder": 1,
        "answers that normalise to the same": 3,
        "an answer that normalises to nothing": 2,
        "no answer": 1,
        "a text that a tokenizer cannot say": 1,
    }
    # A memory takes whole segments of positions, so it can be too long where its text is not.
    (two,) = [a for a in prepare(pair, items(), max_new=NEW)[0] if a.segments == 2]
    left = room(pair, [pair.segment] * 2) - len(two.tail_ids)
    assert prepare(pair, [two.item], max_new=left)[0] == [two]
    found, left_out = prepare(pair, [two.item], max_new=left + 1)
    assert (found, left_out) == ([], {"a memory too long for the decoder": 1})
    with pytest.raises(Exception, match="max_position_embeddings"):
        pair.ask(pair.compress(long), one.question)


def test_an_answers_tokens_are_what_it_adds(pair):
    tok = pair.dec_tok
    ids = tok.encode("who ?")
    # By itself " Alice" begins with a mark of its own, as every string of this tokenizer does.
    assert conditions._added(tok, "who ?", ids, " Alice") == tok.encode("Alice")
    assert tok.encode(" Alice") != tok.encode("Alice")
    assert conditions._added(tok, "who", [*tok.encode("who"), 9], " ?") == tok.encode(" ?")


def test_no_batch_is_too_large_and_none_is_lost(asked, monkeypatch):
    many = [
        a._replace(item=a.item._replace(id=f"{n:02d}-{a.item.id}")) for n in range(9) for a in asked
    ]
    for most in (1, 3, 4, 32):
        parts = list(batches(many, most))
        assert sorted(a.item.id for p in parts for a in p) == sorted(a.item.id for a in many)
        assert max(map(len, parts)) <= most
        segments = [a.segments for p in parts for a in p]
        assert segments == sorted(segments, reverse=True)
    longest = max(len(a.text_ids) for a in many)
    monkeypatch.setattr(conditions, "_TOKENS", 3 * longest)
    assert len(next(iter(batches(many, 32)))) == 2


def test_an_item_without_rivals_has_no_likelihoods(pair, asked):
    alone = asked[0].item._replace(world=())
    (one,), _ = prepare(pair, [alone], max_new=NEW)
    assert one == asked[0]._replace(item=alone, options=[])
    assert conditions._judged(pair, pair.plain([one.tail_ids]), [one.options], 1)[0] == [()]


def test_an_answer_may_be_begun_and_ends_where_it_is_told(pair, asked, monkeypatch):
    item = asked[1].item._replace(world=(), others=(), answer_prefix="It is the")
    (one,), _ = prepare(pair, [item], max_new=NEW)
    assert one.tail == f"{QUESTION.format(question=item.question)} It is the"
    assert pair.dec_tok.decode(one.text_ids) == item.context + one.tail
    assert pair.dec_tok.decode(one.tail_ids) == one.tail
    stops = []
    monkeypatch.setattr(
        pair, "answers", lambda prefix, max_new, stop: stops.append(stop) or ["a\nb"]
    )
    (found,) = measure(pair, [one], max_new=NEW, stop="")
    assert {found[c].answer for c in CONDITIONS} == {"a\nb"}
    assert stops == [""] * len(CONDITIONS)


def test_a_rebuilt_text_is_cut_to_the_decoders_room(pair, asked):
    one = asked[0]
    most = pair.model.decoder.cfg.max_position_embeddings - max(NEW, *map(len, one.options))
    text = " ".join(texts())
    assert len(pair.dec_tok.encode(text + one.tail)) > most
    ids, cut = conditions._fitting(pair, text, one, NEW)
    assert cut
    assert most - 8 <= len(ids) <= most
    said = pair.dec_tok.decode(ids)
    assert said.endswith(one.tail)
    assert text.startswith(said.removesuffix(one.tail))
    assert conditions._fitting(pair, one.item.context, one, NEW) == (one.text_ids, False)
    # What a tokenizer cannot say is not read.
    assert conditions._fitting(pair, "caf\u00e9", one, NEW) == (one.tail_ids, True)


def test_one_reading_judges_as_two_do(pair, asked):
    prefix = pair.plain([a.text_ids for a in asked[:3]])
    options = [[[7, 8], [9], []] for _ in range(3)]
    scores, answers = pair.judged(prefix, options, max_new=NEW)
    assert answers == pair.answers(prefix, max_new=NEW)
    for found, alone in zip(scores, pair.likelihoods(prefix, options), strict=True):
        assert [s.tokens for s in found] == [2, 1, 0]
        np.testing.assert_allclose([s.nats for s in found], [s.nats for s in alone], rtol=1e-5)


def test_a_likelihood_that_is_no_number_is_refused(pair, asked, monkeypatch):
    monkeypatch.setattr(
        type(pair), "_scored",
        lambda self, found, options: [[Score(float("nan"), 1)] * 3 for _ in options],
    )  # fmt: skip
    with pytest.raises(EvalError, match="item i0: -ln p of its answers from nothing is nan"):
        measure(pair, asked[:1], max_new=1)
