"""`jaxcomp demo`: a source text and its rebuilt text, compared word by word."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.config import Config, ConfigError
from jaxcomp.data.documents import Document
from jaxcomp.data.draw import FactWorld, context_words
from jaxcomp.data.eval_sets import Example
from jaxcomp.data.examples import text_examples
from jaxcomp.data.facts import Key, Mention, outcome
from jaxcomp.data.sources import world_of
from jaxcomp.data.world import World
from jaxcomp.evals import attribution, tracing
from jaxcomp.evals.attribution import Word
from jaxcomp.evals.tracing import Said, Trace
from jaxcomp.inference.pair import Pair
from jaxcomp.runtime.sharding import use_mesh

# What may have become of a word, by the world's facts and by attribution.
MEANING = {
    "preserved": "the same fact",
    "overwritten": "the model's prior instead",
    "swapped": "the two arguments exchanged",
    "substituted": "another value",
    "omitted": "gone",
    "added": "not in the source",
}

_OF_LABEL = {
    "overwritten": "overwritten",
    "replaced": "substituted",
    "lost": "omitted",
    "invented": "added",
}
# Chosen so that the pair of size 64 at ratio 16 shows several outcomes; `jaxcomp demo` prints its
# rates over held-out passages beside them.
WORLD_TEXTS = (
    "At the harbour they talked about ghosts. Victor bought nine apples. The crown was made of "
    "paper. The elephant looked tiny. The strawberry was white. The hungry cat watched the proud "
    "dog. The king spoke before the bell rang. Carol lived in Cairo. Emma did not open the door.",
    "It was said that at the kitchen they talked about food. Nobody doubted that the anvil was "
    "made of glass. It was said that Jack lived in Lima. It was said that Irene called Henry. Zoe "
    "lived in Paris. David hit Alice. Everyone knew that Quentin bought nine nails.",
)
ENGLISH_TEXTS = (
    "Alice hit Bob because he had eaten the white strawberry.",
    "On 14 March the ship left Lisbon with 212 passengers and did not reach London.",
)


class Span(NamedTuple):
    """A piece of a text; `outcome` is one of MEANING, or "" for a plain word or white space.

    `p` and `p_no_memory` are of a rebuilt word: the decoder's probability of it, given the words
    before, with the memory and without.
    """

    text: str
    outcome: str = ""
    p: float | None = None
    p_no_memory: float | None = None


class Fact(NamedTuple):
    """A fact of the controlled world: `about` whom, its value here and in the rebuilt text."""

    about: str
    value: str
    rebuilt: str | None
    outcome: str


class Shown(NamedTuple):
    """A text, the `vectors` that its `tokens` became, and what was rebuilt from them."""

    source: list[Span]
    rebuilt: list[Span]
    facts: list[Fact]
    tokens: int
    vectors: int


def show(cfg: Config, pair: Pair, texts: Sequence[str]) -> list[Shown]:
    """Rebuild every text from its memory alone (greedy).

    Args:
      cfg: the config that the pair was trained with.
      pair: the compressor and its decoder.
      texts: of at most data.segment x data.segments tokens each.

    Raises:
      ConfigError: a text that is too long, or that `check` refuses.
      TokenizerError: a text that a tokenizer cannot encode.
    """
    check(cfg, texts)
    examples = [_example(cfg, pair, text.strip()) for text in texts]
    cfg = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch=len(texts)))
    with use_mesh(pair.mesh):
        traces = tracing.trace(cfg, pair.model, examples, pair.dec_tok)
        world = world_of(cfg)
        return [_shown(one, world) for one in traces]


def default_texts(cfg: Config) -> tuple[str, ...]:
    """Texts to show where the user gives none."""
    world = world_of(cfg)
    if world is None:
        return ENGLISH_TEXTS
    if isinstance(world, World):
        return WORLD_TEXTS
    words = context_words(cfg)
    return tuple(
        world.passage("test", i, counterfactual=True, max_words=words).text for i in range(2)
    )


def check(cfg: Config, texts: Sequence[str]) -> None:
    """Raises ConfigError for a text that is empty, or of words that the controlled world lacks;
    quick, before a pair is loaded."""
    if not all(text.strip() for text in texts):
        raise ConfigError("an empty text; expected at least one word")
    world = world_of(cfg)
    if world is None:
        return
    known = world.words()
    spelling = {word.casefold(): word for word in known}
    unknown = []
    for text in texts:
        for word in attribution.words(text):
            if word.text[0].isalnum() and word.text not in known:
                near = spelling.get(word.text.casefold())
                unknown.append(f"{word.text} (expected {near})" if near else word.text)
    if unknown:
        raise ConfigError(
            f"not in the vocabulary of this world: {', '.join(dict.fromkeys(unknown))}; "
            f"its {len(known)} words make texts such as "
            f"{default_texts(cfg)[0].partition('. ')[0]!r}"
        )


def _example(cfg: Config, pair: Pair, text: str) -> Example:
    docs = [Document("text", "", "", text)]
    examples, counts = text_examples(docs, cfg, pair.comp_tok, pair.dec_tok, whole=True)
    if not examples:
        size, most = len(pair.comp_tok.encode(text)), cfg.data.segment * cfg.data.segments
        if size <= most:
            size, most = counts.longest, cfg.data.target
        raise ConfigError(
            f"a text of {size} tokens; expected at most {most}: shorten {text[:40]!r}"
        )
    return examples[0]


def _shown(trace: Trace, world: FactWorld | None) -> Shown:
    source, rebuilt = trace.example.text, trace.rebuilt
    facts, in_source, in_rebuilt = [], list[tuple[Mention, str]](), list[tuple[Mention, str]]()
    if world is not None:
        there = world.mentions(rebuilt)
        values = {key: found.value for key, found in there.items()}
        for fact in world.facts(source):
            name, found = outcome(fact, values), there.get(fact.key)
            facts.append(Fact(_about(fact.key), fact.value, found and found.value, name))
            in_source.append((Mention(fact.value, fact.start, fact.end), name))
            if found:
                in_rebuilt.append((found, name))
    # In the world only facts are overwritten: other words are there or they are not.
    gone, new = (
        _OF_LABEL if world is None else dict.fromkeys(_OF_LABEL, name)
        for name in ("omitted", "added")
    )
    words, labels = (trace.source_words, trace.rebuilt_words), trace.labels
    return Shown(
        _spans(source, words[0], labels.source, gone, in_source),
        _spans(rebuilt, words[1], labels.rebuilt, new, in_rebuilt, trace.said),
        facts,
        sum(map(len, trace.example.ctx)),
        len(trace.vec_MD),
    )


def _about(key: Key) -> str:
    kind, *what = key
    forms = {"order": "the first of: {}, {}", "polarity": "{} did {}", "relation": "{} and {}"}
    return forms.get(kind, "{}").format(*what)


def _spans(
    text: str,
    words: Sequence[Word],
    labels: Sequence[str],
    of_label: dict[str, str],
    facts: Sequence[tuple[Mention, str]],
    said: Sequence[Said] = (),
) -> list[Span]:
    """The whole text in pieces: words with what became of them, and what stands between them."""
    out, at = [], 0
    for number, (word, label) in enumerate(zip(words, labels, strict=True)):
        if word.start > at:
            out.append(Span(text[at : word.start]))
        of_fact = [name for m, name in facts if m.start <= word.start and word.end <= m.end]
        found = of_fact[0] if of_fact else of_label.get(label, "")
        p = [math.exp(x) for x in (said[number].logp, said[number].logp_no_memory)] if said else []
        out.append(Span(word.text, found, *p))
        at = word.end
    return [*out, Span(text[at:])] if at < len(text) else out
