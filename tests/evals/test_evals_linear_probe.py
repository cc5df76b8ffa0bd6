import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxcomp.config import Config, DataConfig, MemoryConfig
from jaxcomp.data.batches import data_tokenizer, eval_examples
from jaxcomp.evals import attribution, linear_probe
from jaxcomp.evals.linear_probe import LOST, OVERRIDDEN, Question, Reading, Share

VALUES = ("red", "green", "blue")
CODES = np.random.default_rng(7).normal(size=(64, 12))  # a direction for each name
CFG = Config(data=DataConfig(segment=48, target=52, eval_passages=40), memory=MemoryConfig(ratio=4))


def traced(example, rebuilt, vec_MD) -> Any:
    """As tracing.trace accounts for it, without a decoder."""
    words = [attribution.words(text) for text in (example.text, rebuilt)]
    before, after = ([w.text for w in found] for found in words)
    labels = attribution.attribute(before, after, attribution.align(before, after), ())
    return SimpleNamespace(
        example=example, rebuilt=rebuilt, source_words=words[0], labels=labels, vec_MD=vec_MD
    )


def code(name: str) -> np.ndarray:
    names = (*VALUES, *(f"thing-{i}" for i in range(12)))
    return CODES[names.index(name)]


def planted(stored: str, *, facts=120, wrong=0.5, seed=0) -> list[Question]:
    """Slots whose vectors hold, beside noise and their entity: the true value (`value`), what the
    decoder said (`said`), or neither (`nothing`)."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(facts):
        entity = f"thing-{rng.integers(12)}"
        value, other = rng.choice(VALUES, 2, replace=False)
        said = str(other) if rng.random() < wrong else str(value)
        x_F = code(entity) + 0.3 * rng.normal(size=12)
        if stored != "nothing":
            x_F = x_F + 2 * code(str(value) if stored == "value" else said)
        out.append(Question("colour", entity, str(value), "black", said, False, x_F))
    return out


def one(asked) -> Reading:
    (reading,) = linear_probe.read_out(asked)
    return reading


def rate(share: Share | None) -> float:
    assert share is not None
    return share.rate


def test_a_value_that_the_memory_holds_was_overridden():
    reading = one(planted("value"))
    assert reading.verdict == OVERRIDDEN
    assert rate(reading.every) > 0.95
    assert rate(reading.wrong) > 0.95
    assert rate(reading.as_decoder) < 0.1
    assert rate(reading.control) < 0.55
    assert reading.wrong is not None
    assert reading.wrong.beyond_chance > 0.9
    assert (reading.facts, reading.entities, reading.values) == (120, 12, 3)


def test_a_memory_that_holds_what_the_decoder_said_lost_the_value():
    """The returned facts show that the probe can read; of the wrong ones it reads the decoder's."""
    reading = one(planted("said", wrong=0.25, facts=140))
    assert reading.verdict == LOST
    assert rate(reading.returned) > 0.9
    assert rate(reading.as_decoder) > 0.9
    assert rate(reading.wrong) < 0.1


def test_a_probe_that_reads_less_than_the_decoder_gives_no_verdict():
    reading = one(planted("nothing"))
    assert reading.verdict is None
    assert reading.reason == "the probe cannot read those that came back either"
    assert reading.every is not None
    assert reading.every.low < reading.every.chance + 0.05
    nobody = one(planted("nothing", wrong=1.0))  # nor does the decoder
    assert (nobody.returned, nobody.verdict) == (None, LOST)


def test_entities_are_held_out():
    """Each entity has one value and its own direction: a probe that had seen it would be right."""
    rng, asked = np.random.default_rng(0), []
    for i in range(120):
        entity, value = f"thing-{i % 12}", VALUES[i % 12 // 4]
        x_F = code(entity) + 0.01 * rng.normal(size=12)
        asked.append(Question("colour", entity, value, "black", None, False, x_F))
    x_WF, value_W = np.stack([q.x_F for q in asked]), [q.value for q in asked]
    assert linear_probe.LogisticRegression().fit(x_WF, value_W).score(x_WF, value_W) == 1.0
    assert rate(one(asked).every) < 0.6


def test_the_order_of_the_facts_changes_nothing():
    asked = planted("value", facts=60)
    assert one(asked) == one(asked[::-1])


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (planted("value", facts=49), "49 facts, under 50"),
        ([q._replace(value="red") for q in planted("value")], "one value only in a training part"),
        (
            [q._replace(entity=str(i % 7)) for i, q in enumerate(planted("value"))],
            "7 entities, under 8",
        ),
        (planted("value", wrong=0.1), "9 facts came back wrong, under 20"),
    ],
)
def test_too_little_to_tell(asked, reason):
    reading = one(asked)
    assert (reading.verdict, reading.reason) == (None, reason)
    assert (reading.every is None) == (reading.wrong is None)


def test_chance_is_the_better_of_two_guesses():
    true = np.array(["a", "a", "a", "b"])
    share = linear_probe._share(
        true, np.array(["a", "a", "b", "b"]), true[:1].repeat(4), true != ""
    )
    assert share is not None
    assert (share.count, share.n) == (3, 4)
    assert share.chance == 0.75  # "a" of all; dealt out: 3/4 x 1/2 + 1/4 x 1/2 = 1/2
    assert share.beyond_chance == 0.0
    # Wilson's interval of 3 of 4, by its formula.
    z, p, n = 1.959964, 0.75, 4
    middle, half = (p + z * z / 2 / n), z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    assert share.low == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-6)
    assert share.high == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-6)
    dealt = linear_probe._share(true, true, np.full(4, "c"), true != "")
    assert dealt is not None
    assert dealt.chance == pytest.approx(0.75**2 + 0.25**2)


@pytest.mark.parametrize("segments", [1, 2])
def test_a_slot_is_read_from_the_block_it_stands_in(segments):
    """Each vector holds the words of its own block: the middle third of the features must hold the
    value's, also where a second segment begins with a block of its own."""
    T = 48 if segments == 1 else 18  # 18 = 4 whole blocks of 4 tokens and one of 2
    cfg = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, segment=T, segments=segments))
    tok = data_tokenizer(cfg)
    examples = eval_examples(cfg, "counterfactual", tok, tok)
    traces, met = [], 0
    for example in examples:
        blocks = [ids[i : i + 4] for ids in example.ctx for i in range(0, len(ids), 4)]
        vec_MD = np.zeros((len(blocks), tok.vocab_size))
        for m, block in enumerate(blocks):
            vec_MD[m, block] = 1
        traces.append(traced(example, example.text, vec_MD))
    asked, left_out = linear_probe.questions(cfg, tok, traces)
    assert len(asked) + sum(left_out.values()) == sum(len(e.passage.facts) for e in examples)
    for q in asked:
        assert q.x_F.shape == (3 * tok.vocab_size,)
        assert q.said == q.value  # rebuilt is the source
        if q.kind != "polarity":
            token = tok.encode(f"a {q.value}")[-1]
            assert q.x_F[tok.vocab_size + token] == 1
            met += 1
    assert met > 30


def test_a_value_beside_another_entity_was_moved_and_is_not_wrong():
    """ "Alice lived in Rome" for "Bob lived in Rome": the fact is lost, the value is there."""
    tok = data_tokenizer(CFG)
    found = {"entity": [], "both": [], "value": []}
    for example in eval_examples(CFG, "counterfactual", tok, tok):
        for fact in example.passage.facts:
            entity, value, text = fact.key[-1], fact.value, example.text
            other = {"home": "Zoe", "colour": "ink"}.get(fact.kind, "")
            if other in ("", entity):
                continue
            for name, rebuilt in (
                ("entity", text.replace(entity, other)),
                ("both", text.replace(entity, other).replace(value, "Lyon")),
                ("value", text.replace(value, "Lyon")),
            ):
                trace = traced(example, rebuilt, np.zeros((12, 2)))
                asked, _ = linear_probe.questions(CFG, tok, [trace])
                mine = [q for q in asked if (q.kind, q.entity) == (fact.kind, entity)]
                found[name] += [(q.said, q.moved) for q in mine]
    assert len(found["entity"]) > 5
    assert set(found["entity"]) == {(None, True)}
    assert set(found["both"]) == {(None, False)}
    assert set(found["value"]) == {("Lyon", False)}
    asked = [q._replace(moved=i < 30, said=None) for i, q in enumerate(planted("value"))]
    reading = one(asked)
    assert reading.moved == 30
    assert reading.wrong is not None
    assert reading.wrong.n == len(asked) - 30


def test_without_blocks_the_whole_memory_is_read():
    memory = dataclasses.replace(CFG.memory, positions="consecutive")
    cfg, tok = dataclasses.replace(CFG, memory=memory), data_tokenizer(CFG)
    (example, *_) = eval_examples(cfg, "ordinary", tok, tok)
    vec_MD = np.ones((3, 2))
    asked, _ = linear_probe.questions(cfg, tok, [traced(example, "", vec_MD)])
    assert asked
    for q in asked:
        assert q.x_F.tolist() == [1.0] * 6 + [0.0] * (2 * 12 - 6)
        assert q.said is None
