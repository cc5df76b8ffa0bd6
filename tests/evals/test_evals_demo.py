"""The demo: texts beside what the shipped pairs rebuild, held to their cards."""

import pytest

import jaxcomp
from jaxcomp.config import Config, ConfigError, DataConfig, PeopleConfig
from jaxcomp.data.facts import OUTCOMES, mentions, outcome
from jaxcomp.data.people import People
from jaxcomp.data.world import World
from jaxcomp.evals import demo
from jaxcomp.evals.demo import MEANING
from jaxcomp.inference.load import config_at, place_of, read_about, shipped
from jaxcomp.inference.pair import Pair

NAME = "demo/llama-64-r16"


@pytest.fixture(scope="module")
def pair() -> Pair:
    return jaxcomp.load(NAME)


def test_the_facts_of_a_text_are_the_facts_of_its_passage():
    world = World()
    for index in range(50):
        passage = world.passage("test", index, counterfactual=True)
        assert world.facts(passage.text) == list(passage.facts)
        for fact, found in zip(passage.facts, mentions(passage.text).values(), strict=True):
            assert (fact.value, fact.start, fact.end) == found


def test_every_word_stands_in_its_text_and_every_fact_has_its_outcome(pair: Pair):
    world, texts = World(), list(demo.WORLD_TEXTS)
    rebuilt = pair.reconstruct(pair.compress(texts))
    for text, back, shown in zip(
        texts, rebuilt, demo.show(config_at(NAME), pair, texts), strict=True
    ):
        assert "".join(span.text for span in shown.source) == text
        assert "".join(span.text for span in shown.rebuilt) == back
        assert [f.outcome for f in shown.facts] == [
            outcome(fact, world.read(back)) for fact in world.facts(text)
        ]
        assert {span.outcome for span in shown.source} <= {"", *MEANING}
        assert all(0 <= s.p <= 1 for s in shown.rebuilt if s.p is not None)
    (strawberry,) = [
        s for s in demo.show(config_at(NAME), pair, texts)[0].facts if s.about == "strawberry"
    ]
    assert (strawberry.value, strawberry.rebuilt, strawberry.outcome) == (
        "white",
        "red",
        "overwritten",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  ", "an empty text"),
        ("The purple dragon slept.", "of this world: dragon, slept; its"),
        ("The Cherry was red.", r"Cherry \(expected cherry\)"),
        ("The strawberry was white. " * 20, "100 tokens; expected at most 64"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_error(pair: Pair, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        demo.show(config_at(NAME), pair, [text])


def test_an_unknown_name_lists_the_pairs_that_ship():
    with pytest.raises(ValueError, match=r"demo/llama-64-r5.*demo/llama-24-r16"):
        jaxcomp.load("demo/llama-64-r5")


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_a_shipped_pair_is_what_its_card_says(name: str):
    world, found = World(), jaxcomp.load(name)
    passages = [world.passage("test", i, counterfactual=True) for i in range(256)]
    rebuilt = found.reconstruct(found.compress([p.text for p in passages]))
    outcomes = [
        outcome(fact, world.read(text))
        for p, text in zip(passages, rebuilt, strict=True)
        for fact in p.facts
        if not fact.is_favourite
    ]
    metrics = read_about(place_of(name)).metrics
    for each in OUTCOMES:
        rate = outcomes.count(each) / len(outcomes)
        # The card was measured before the weights were rounded to bfloat16.
        assert rate == pytest.approx(metrics[f"counterfactual/nonfavourite/all/{each}"], abs=0.005)


def test_texts_of_people_are_of_their_world():
    data = DataConfig(source="people", segment=64, target=65)
    cfg = Config(data=data, people=PeopleConfig(people=256, unseen=64))
    texts = demo.default_texts(cfg)
    demo.check(cfg, texts)
    world = People(cfg.people)
    assert all(len(world.facts(text)) > 5 for text in texts)
    with pytest.raises(ConfigError, match=r"Nowhere; its \d+ words"):
        demo.check(cfg, ["Ada Stone lived in Nowhere."])
