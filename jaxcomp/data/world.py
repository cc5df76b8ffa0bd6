"""The controlled world: a seeded generator of short passages whose facts are all known.

A passage is a handful of sentences about things, animals, persons, places and events. Each sentence
carries one or two *facts*: a value that its entity has by a strong prior (`prior_strength`) but may
not have here. Any text, also a rebuilt and damaged one, is read back into facts (facts.py), so
every fact has exactly one outcome, without a judge.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxcomp.config import WorldConfig
from jaxcomp.data import lexicon as lx
from jaxcomp.data.draw import COUNTERFACTUAL_RATE, Draw, Passage, generator, in_split
from jaxcomp.data.facts import ATTRIBUTES, VALUES, Fact, Key, Mention, Prompt, mentions, read


def own_world(config: WorldConfig) -> WorldConfig:
    """The world itself: what the decoder and all training and held-out passages are of."""
    return dataclasses.replace(config, base_favourites=0, base_scrambled=False)


def bases_world(config: WorldConfig) -> WorldConfig:
    """The world that the compressors' base models read of (`base_favourites`)."""
    seed = config.base_favourites or config.seed
    return dataclasses.replace(config, seed=seed, base_favourites=0)


class _Clause(NamedTuple):
    """A sentence's words with values in place, and its facts without character positions."""

    clause: str
    facts: tuple[tuple[str, Fact], ...]  # (the words to find in the clause, fact)


class World:
    """See the module's docstring. All methods are pure functions of the configuration."""

    section = "world"  # of Config
    decoder_text = training_text = staticmethod(own_world)
    base_text = staticmethod(bases_world)

    @staticmethod
    def lm_identity(config: WorldConfig) -> dict[str, Any]:
        """What determines the text that language models read."""
        scrambled = {"scrambled": True} if config.base_scrambled else {}
        return {"seed": config.seed, "prior_strength": config.prior_strength} | scrambled

    def __init__(self, config: WorldConfig | None = None):
        self.config = config or WorldConfig()
        self._shuffled = {k: self._permute(k, v) for k, v in VALUES.items()}
        self._persons = self._permute("person", tuple(lx.PERSONS))
        self._events = self._permute("event", lx.EVENTS)
        self._rank = {p: i for i, p in enumerate(self._persons)}
        self._time = {e: i for i, e in enumerate(self._events)}
        self._makers: dict[str, Callable[[Draw], _Clause]] = {
            **{kind: self._attribute(kind) for kind in ATTRIBUTES},
            "relation": self._relation,
            "modifier": self._modifier,
            "polarity": self._polarity,
            "order": self._order,
        }

    def passage(
        self,
        split: str,
        index: int,
        *,
        prior_strength: float | None = None,
        counterfactual: bool = False,
        max_words: int = 64,
    ) -> Passage:
        """Passage `index` of a split ("train", "val" or "test"), at most `max_words` words long.

        Words count as the world's tokenizer counts: every word and every full stop is one. There is
        always one sentence, of up to 12 words (`LONGEST_SENTENCE`), also where that is too long.
        """
        prior = self.config.prior_strength
        favoured = prior if prior_strength is None else prior_strength
        if counterfactual:
            favoured = 1.0 - COUNTERFACTUAL_RATE
        name = f"{self.config.seed}/{split}/{index}/{favoured}/{max_words}"
        rng = generator(name)
        while True:
            draw = Draw(rng, favoured, prior)
            text, facts, clauses = self._write(draw, max_words)
            if in_split(text, split):
                break
        bits = draw.bits
        return Passage(index, text, facts, self._continue(draw, clauses, max_words), bits)

    def favourite(self, key: Key) -> str | None:
        """This world's favourite for an entity's fact; None for relation and order, which have two
        values made of their arguments."""
        kind, entity = key[0], key[-1]
        tables = {"modifier": lx.MOOD_OF, "polarity": lx.ACTION_IS}
        table = ATTRIBUTES[kind][0] if kind in ATTRIBUTES else tables.get(kind)
        return None if table is None else self._favourite(kind, table[entity])

    def read(self, text: str) -> dict[Key, str]:
        """Facts of any text, however damaged (`facts.read`)."""
        return read(text)

    def mentions(self, text: str) -> dict[Key, Mention]:
        """`read` with places."""
        return mentions(text)

    def prompts(self) -> list[Prompt]:
        """The words before the value, of every entity and every kind whose value stands last. As in
        every passage, a topic comes first."""
        found, opening = [], ""
        for kind, (table, values, form) in ATTRIBUTES.items():
            if not form.endswith("{value}"):
                continue
            for entity, natural in table.items():
                text = form.removesuffix(" {value}").format(entity=entity)
                favourite = self._favourite(kind, natural)
                before = opening if kind != "topic" else ""
                found.append(Prompt(f"{before}{text[0].upper()}{text[1:]}", values, favourite))
                opening = opening or f"{found[0].text} {favourite}. "
        return found

    def facts(self, text: str) -> list[Fact]:
        """The facts of any text, in its order; for a passage, its `facts`."""
        found = sorted(mentions(text).items(), key=lambda item: item[1].start)
        moods = [(key, m) for key, m in found if key[0] == "modifier"]
        out = []
        for key, (value, start, end) in found:
            kind, options = key[0], VALUES.get(key[0], ())
            favourite, swap = self.favourite(key) or "", ""
            if kind == "modifier":  # the other animal of its sentence
                others = [m for k, m in moods if k != key and "." not in _between(text, m, start)]
                swap = others[0].value if others else ""
            elif kind == "relation":
                deed = value.split()[1]
                agent, patient = sorted(key[1:], key=self._rank.__getitem__)
                options = (f"{agent} {deed} {patient}", f"{patient} {deed} {agent}")
            elif kind == "order":
                options = tuple(sorted(key[1:], key=self._time.__getitem__))
            if kind in ("relation", "order"):
                favourite, swap = options[0], options[value == options[0]]
            out.append(Fact(kind, key, value, favourite, swap, options, start, end))
        return out

    def words(self) -> list[str]:
        """Every word the world can write, sorted; the world's tokenizer makes each one token."""
        tables = [v for kind, v in VALUES.items() if kind != "polarity"]
        tables += [t for t, _, _ in ATTRIBUTES.values()]
        phrases = [w for table in tables for w in table]
        phrases += [*lx.ACTION_IS, *lx.EVENTS, *lx.DEEDS, *lx.GAZES, *lx.OPENINGS]
        phrases += [re.sub(r"{\w+}", "", form) for _, _, form in ATTRIBUTES.values()]
        phrases += ["did not before after . The At"]
        return sorted({w for p in phrases for w in _words(p)})

    # Writing

    def _write(self, draw: Draw, max_words: int):
        text, facts, clauses = "", [], []
        kinds = self._left(draw)
        while not clauses or (kinds and len(_words(text)) + LONGEST_SENTENCE <= max_words):
            kind = draw.pick(kinds) if clauses else "topic"
            sentence = self._makers[kind](draw)
            clauses.append(sentence)
            text, found = _append(text, sentence, draw.opening())
            facts += found
            kinds = self._left(draw)
        return text, tuple(facts), clauses

    def _continue(self, draw: Draw, clauses: list[_Clause], max_words: int) -> str:
        """More of the same story: every other sentence repeats a fact of the passage."""
        text = ""
        while len(_words(text)) + LONGEST_SENTENCE <= max_words:
            kinds = self._left(draw)
            again = not kinds or draw.pick((True, False))
            sentence = draw.pick(clauses) if again else self._makers[draw.pick(kinds)](draw)
            text, _ = _append(text, sentence, draw.opening())
        return text

    def _left(self, draw: Draw) -> list[str]:
        """Kinds of which the passage can still have a new fact: its entities come up once each."""
        used = {kind: len(items) for kind, items in draw.used.items()}
        return [k for k, (count, each) in _SUPPLY.items() if used.get(k, 0) + each <= count]

    def _permute(self, kind: str, values: Sequence[str]) -> tuple[str, ...]:
        order = list(values)
        if self.config.seed:
            random.Random(f"{self.config.seed}/{kind}").shuffle(order)
        return tuple(order)

    def _favourite(self, kind: str, natural: str) -> str:
        return self._shuffled[kind][VALUES[kind].index(natural)]

    def _attribute(self, kind: str) -> Callable[[Draw], _Clause]:
        table, values, form = ATTRIBUTES[kind]

        def make(draw: Draw) -> _Clause:
            entity = draw.fresh(kind, tuple(table))
            favourite = self._favourite(kind, table[entity])
            value = draw.value(favourite, values)
            who = draw.pick(tuple(lx.PERSONS)) if "{who}" in form else ""
            clause = form.format(entity=entity, value=value, who=who)
            fact = Fact(kind, (kind, entity), value, favourite, "", values)
            return _Clause(clause, ((value, fact),))

        return make

    def _relation(self, draw: Draw) -> _Clause:
        first = draw.fresh("relation", tuple(lx.PERSONS))
        second = draw.fresh("relation", tuple(lx.PERSONS))
        deed = draw.pick(lx.DEEDS)
        # Drawing two persons in order and then the direction meets each clause twice.
        draw.bits -= 1.0
        agent, patient = sorted((first, second), key=self._rank.__getitem__)
        usual, turned = f"{agent} {deed} {patient}", f"{patient} {deed} {agent}"
        value = draw.value(usual, (usual, turned))
        swap = turned if value == usual else usual
        key = ("relation", *sorted((first, second)))
        fact = Fact("relation", key, value, usual, swap, (usual, turned))
        return _Clause(value, ((value, fact),))

    def _modifier(self, draw: Draw) -> _Clause:
        animals = [draw.fresh("modifier", tuple(lx.SIZE_OF)) for _ in range(2)]
        liked = [self._favourite("modifier", lx.MOOD_OF[a]) for a in animals]
        first = draw.value(liked[0], lx.MOODS)
        # Two equal moods could not be exchanged: the second is drawn among the seven that are left.
        left = tuple(m for m in lx.MOODS if m != first)
        second = draw.value(liked[1], left) if liked[1] != first else draw.pick(left)
        clause = f"the {first} {animals[0]} {draw.pick(lx.GAZES)} the {second} {animals[1]}"
        rows = zip(animals, (first, second), (second, first), liked, strict=True)
        facts = (
            (f"{mine} {a}", Fact("modifier", ("modifier", a), mine, favourite, his, lx.MOODS))
            for a, mine, his, favourite in rows
        )
        return _Clause(clause, tuple(facts))

    def _polarity(self, draw: Draw) -> _Clause:
        person, action = draw.pick(tuple(lx.PERSONS)), draw.fresh("polarity", tuple(lx.ACTION_IS))
        favourite = self._favourite("polarity", lx.ACTION_IS[action])
        value = draw.value(favourite, lx.POLARITIES)
        clause = f"{person} did {'not ' if value == 'no' else ''}{action}"
        words = "did not" if value == "no" else "did"
        fact = Fact("polarity", ("polarity", person, action), value, favourite, "", lx.POLARITIES)
        return _Clause(clause, ((words, fact),))

    def _order(self, draw: Draw) -> _Clause:
        pair = (draw.fresh("order", lx.EVENTS), draw.fresh("order", lx.EVENTS))
        draw.bits -= 1.0  # as in _relation
        usual, late = sorted(pair, key=self._time.__getitem__)
        first = draw.value(usual, (usual, late))
        second = late if first == usual else usual
        before = draw.pick((True, False))
        clause = f"{first} before {second}" if before else f"{second} after {first}"
        fact = Fact("order", ("order", *sorted(pair)), first, usual, second, (usual, late))
        return _Clause(clause, ((clause, fact),))


# kind -> (entities there are, entities a fact takes); a passage has one topic, at its beginning.
_SUPPLY: dict[str, tuple[int, int]] = {
    **{kind: (len(table), 1) for kind, (table, _, _) in ATTRIBUTES.items() if kind != "topic"},
    "relation": (len(lx.PERSONS), 2),
    "modifier": (len(lx.SIZE_OF), 2),
    "polarity": (len(lx.ACTION_IS), 1),
    "order": (len(lx.EVENTS), 2),
}


def scrambled(text: str, seed: str) -> str:
    """`text` with the words of each sentence in an order drawn by `seed`, its full stop last."""
    rng, out = random.Random(seed), []
    for sentence in filter(None, (s.split() for s in text.split("."))):
        rng.shuffle(sentence)
        out.append(f"{' '.join(sentence)}.")
    return " ".join(out)


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+|\.", text)


LONGEST_SENTENCE = 4 + 7 + 1  # "It was said that", "the sad cat passed the shy dog", full stop


def _between(text: str, other: Mention, start: int) -> str:
    return text[min(other.start, start) : max(other.start, start)]


def _append(text: str, sentence: _Clause, opening: str) -> tuple[str, list[Fact]]:
    """The text with `sentence` appended, and its facts with their character positions."""
    clause = (
        f"{opening} {sentence.clause}"
        if opening
        else sentence.clause[0].upper() + sentence.clause[1:]
    )
    base = len(text) + 1 if text else 0
    facts = []
    for words, fact in sentence.facts:
        # rindex: the value stands at or after its entity, and an opening never holds a value.
        at = base + clause.lower().rindex(words.lower())
        length = len(fact.value) if fact.kind == "modifier" else len(words)
        facts.append(fact._replace(start=at, end=at + length))
    return f"{text} {clause}." if text else f"{clause}.", facts
