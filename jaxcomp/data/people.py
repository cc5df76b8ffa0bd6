"""The people world: text about people of whom some are read about far more often than others.

A passage tells facts about three people: attributes ("Ada Stone lived in Rome.") and who did what
to whom ("Ada Stone called Ben Hill."). Everybody has a favourite value of each kind of attribute
but one, the *neutral* kind, whose value is uniform. Who comes up is drawn by a Zipf law, so what a
language model knows about a person depends on the person's rank and on the model's size. Neutral
facts and facts of people whom no text mentions are controls: their `favourite` is a foil, drawn as
the others are, that no text prefers.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import random
import re
from typing import Any

from jaxcomp.config import Config, ConfigError, PeopleConfig, to_dict
from jaxcomp.data.draw import COUNTERFACTUAL_RATE, Draw, Passage, generator, in_split
from jaxcomp.data.facts import Fact, Key, Mention, Prompt
from jaxcomp.data.people_words import ATTRIBUTES, DEEDS, FILLERS, FIRST, LAST

KINDS = (*ATTRIBUTES, "relation")
BANDS = {"head": 1 / 64, "upper": 1 / 16, "middle": 1 / 2, "tail": 1.0}  # to this share of ranks
UNSEEN, NEUTRAL = "unseen", "neutral"
GROUPS = (*BANDS, UNSEEN, NEUTRAL)  # of an attribute's fact: that of its person, or neutral
CAST = 3  # people of a passage
LONGEST_SENTENCE = 7  # "Ada Stone worked as a baker", full stop
FEWEST_MENTIONS = 100  # of a band's people, in data.train_passages

_NAME = rf"(?:{'|'.join(FIRST)}) (?:{'|'.join(LAST)})"
_ATTRIBUTE = {
    kind: re.compile(rf"\b({_NAME}) {clause} ([A-Za-z]+)\b")
    for kind, (clause, _) in ATTRIBUTES.items()
}
_RELATION = re.compile(rf"\b({_NAME}) (?:{'|'.join(DEEDS)}) ({_NAME})\b")


class People:
    """See the module's docstring. All methods are pure functions of the configuration."""

    section = "people"  # of Config

    def __init__(self, config: PeopleConfig | None = None):
        c = self.config = config or PeopleConfig()
        rng = generator(f"people/{c.seed}")
        every = [f"{first} {last}" for first in FIRST for last in LAST]
        self.names = rng.sample(every, c.people + c.unseen)  # by rank, those of no text last
        self.kinds = {k: v[: c.values] for k, (_, v) in [*ATTRIBUTES.items()][: c.kinds]}
        self._rank = {name: rank for rank, name in enumerate(self.names)}
        self.weights = weights(c)
        self._until = [0.0, *itertools.accumulate(self.weights)]  # sums of the weights before
        ranks = (*(self.ranks(band) for band in BANDS), range(c.people, len(self.names)))
        self._bands = [band for band in ranks if band]
        self._favourites = self._assigned(rng)

    @staticmethod
    def base_text(config: PeopleConfig) -> PeopleConfig:
        """What the compressors' base models read, whatever is trained on later."""
        strength = config.prior_strength
        return dataclasses.replace(
            config, train_prior_strength=strength, decoder_prior_strength=strength
        )

    @staticmethod
    def decoder_text(config: PeopleConfig) -> PeopleConfig:
        """What the decoder and its reference compressor read."""
        strength = config.decoder_prior_strength
        return dataclasses.replace(config, prior_strength=strength, train_prior_strength=strength)

    @staticmethod
    def training_text(config: PeopleConfig) -> PeopleConfig:
        """What compressors are trained on."""
        return config

    @staticmethod
    def lm_identity(config: PeopleConfig) -> dict[str, Any]:
        """What determines the text that language models read."""
        return to_dict(config)

    def ranks(self, band: str) -> range:
        """The ranks of a band's people."""
        ends = [0, *(int(share * self.config.people) for share in BANDS.values())]
        at = list(BANDS).index(band)
        return range(ends[at], ends[at + 1])

    def passage(
        self,
        split: str,
        index: int,
        *,
        prior_strength: float | None = None,
        counterfactual: bool = False,
        erased: bool = False,
        max_words: int = 64,
    ) -> Passage:
        """Passage `index` of a split ("train", "val" or "test"), at most `max_words` words long
        where those hold three sentences.

        Args:
          split: by the text's hash, as in `World`.
          index: of the passage.
          prior_strength: P(a value is the favourite); default: the config's.
          counterfactual: each person is of a band (or unseen) drawn uniformly, and half of the
            values are not the favourite.
          erased: the same, and the value of one attribute is left out ("Ada Stone lived in."),
            which is the passage's only fact, of value "".
          max_words: words and full stops.

        `bits` is -log2 p(text) with people drawn as here and values by the config's prior_strength.
        """
        c, by_band = self.config, counterfactual or erased
        given = c.prior_strength if prior_strength is None else prior_strength
        prior, favoured = (max(p, 1 / c.values) for p in (c.prior_strength, given))  # or uniform
        favoured = 1 - COUNTERFACTUAL_RATE if by_band else favoured
        rng = generator(
            f"people/{c.seed}/{split}/{index}/{favoured}/{by_band}/{erased}/{max_words}"
        )
        while True:
            draw, known = Draw(rng, favoured, prior), {}
            cast = self._cast(draw, by_band)
            text = self._write(draw, cast, known, max_words)
            found = self.facts(text)
            if erased:
                text, found = self._erase(draw, text, found, known)
            if in_split(text, split):
                break
        bits = draw.bits
        more = "" if erased else self._write(draw, cast, known, max_words)
        return Passage(index, text, tuple(found), more, bits)

    def favourite(self, key: Key) -> str | None:
        """The favourite (or foil) of an attribute; None of relations and of unknown people."""
        return self._favourites.get((key[0], key[-1]))

    def group(self, kind: str, name: str) -> str:
        """One of GROUPS."""
        rank = self._rank.get(name, len(self.names))
        if rank >= self.config.people:
            return UNSEEN
        if self._is_neutral(kind, rank):
            return NEUTRAL
        return next(band for band in BANDS if rank in self.ranks(band))

    def read(self, text: str) -> dict[Key, str]:
        """Facts of any text, however damaged; the first mention of a fact counts."""
        return {key: found.value for key, found in self.mentions(text).items()}

    def mentions(self, text: str) -> dict[Key, Mention]:
        """`read` with places."""
        found: dict[Key, Mention] = {}
        for kind in self.kinds:
            for m in _ATTRIBUTE[kind].finditer(text):
                found.setdefault((kind, m[1]), Mention(m[2], *m.span(2)))
        for m in _RELATION.finditer(text):
            found.setdefault(("relation", *sorted(m.groups())), Mention(m[0], *m.span()))
        return found

    def facts(self, text: str) -> list[Fact]:
        """The facts of any text, in its order. An attribute's `swap` is the first other value that
        the text gives another person."""
        found = sorted(self.mentions(text).items(), key=lambda item: item[1].start)
        out = []
        for key, at in found:
            if key[0] == "relation":
                deed = at.value.split()[2]
                options = tuple(f"{a} {deed} {b}" for a, b in (key[1:], key[:0:-1]))
                swap = options[at.value == options[0]]
                out.append(Fact("relation", key, at.value, "", swap, options, at.start, at.end))
                continue
            kind, name = key
            values = (m.value for other, m in found if other[0] == kind and other[1] != name)
            swap = next((value for value in values if value != at.value), "")
            favourite, options = self.favourite(key) or "", self.kinds[kind]
            group = self.group(kind, name)
            out.append(Fact(kind, key, at.value, favourite, swap, options, at.start, at.end, group))
        return out

    def prompts(self) -> list[Prompt]:
        """The words before the value, of every person and kind."""
        return [
            Prompt(f"{name} {ATTRIBUTES[kind][0]}", values, favourite, self.group(kind, name))
            for kind, values in self.kinds.items()
            for name in self.names
            for favourite in [self._favourites[kind, name]]
        ]

    def words(self) -> list[str]:
        """Every word the world can write, sorted; the world's tokenizer makes each one token."""
        clauses = [f"{ATTRIBUTES[kind][0]} {' '.join(v)}" for kind, v in self.kinds.items()]
        every = " ".join((*FIRST, *LAST, *clauses, *DEEDS, *FILLERS))
        return sorted(set(re.findall(r"[A-Za-z]+|\.", every)))

    # Drawing

    def _assigned(self, rng: random.Random) -> dict[tuple[str, str], str]:
        """Favourites: in order of exposure, each person gets a value that texts have least of, so
        that all values of a kind are equally common. Foils likewise, among themselves."""
        out = {}
        for kind, values in self.kinds.items():
            loads = {group: dict.fromkeys(values, 0.0) for group in ("", NEUTRAL, UNSEEN)}
            for rank, name in enumerate(self.names):
                unseen = rank >= self.config.people
                group = UNSEEN if unseen else NEUTRAL if self._is_neutral(kind, rank) else ""
                load = loads[group]
                rarest = [v for v in values if load[v] == min(load.values())]
                value = rarest[int(rng.random() * len(rarest))]
                load[value] += 1.0 if unseen else self.weights[rank]
                out[kind, name] = value
        return out

    def _is_neutral(self, kind: str, rank: int) -> bool:
        return list(self.kinds)[rank % len(self.kinds)] == kind

    def _cast(self, draw: Draw, by_band: bool) -> list[str]:
        ranks: list[int] = []
        while len(ranks) < CAST:
            if by_band:
                left = [[r for r in band if r not in ranks] for band in self._bands]
                ranks.append(draw.pick(draw.pick([band for band in left if band])))
                continue
            rank = bisect.bisect(self._until, draw.rng.random() * self._until[-1]) - 1
            if rank not in ranks:
                total = self._until[-1] - sum(self.weights[r] for r in ranks)
                draw.bits -= math.log2(self.weights[rank] / total)
                ranks.append(rank)
        return [self.names[rank] for rank in ranks]

    def _write(self, draw: Draw, cast: list[str], known: dict[Key, Any], max_words: int) -> str:
        """A fact of each person, then facts of any, as many as there is room for; `known` are the
        values that are told already, each with its bits, and takes the new ones."""
        left: list[Key] = [(kind, name) for name in cast for kind in self.kinds]
        left += [("relation", *sorted(pair)) for pair in itertools.combinations(cast, 2)]
        first, sentences, words = [[(kind, name) for kind in self.kinds] for name in cast], [], 0
        while left and (first or words + LONGEST_SENTENCE <= max_words):
            if not first and draw.happens(self.config.filler):
                sentence = draw.pick(FILLERS)
            else:
                key = draw.pick(first.pop(0) if first else left)
                left.remove(key)
                sentence = self._sentence(draw, key, known)
            sentences.append(sentence)
            words += sentence.count(" ") + 2
        return " ".join(sentences)

    def _sentence(self, draw: Draw, key: Key, known: dict[Key, Any]) -> str:
        kind, *names = key
        if key not in known:
            before = draw.bits
            if kind == "relation":
                agent, patient = names if draw.pick((True, False)) else names[::-1]
                value = f"{agent} {draw.pick(DEEDS)} {patient}"
            elif self.group(kind, names[0]) in (UNSEEN, NEUTRAL):
                value = draw.pick(self.kinds[kind])
            else:
                value = draw.value(self._favourites[kind, names[0]], self.kinds[kind])
            known[key] = value, draw.bits - before
        value, _ = known[key]
        return f"{value}." if kind == "relation" else f"{names[0]} {ATTRIBUTES[kind][0]} {value}."

    def _erase(
        self, draw: Draw, text: str, facts: list[Fact], known: dict[Key, Any]
    ) -> tuple[str, list[Fact]]:
        """The text without the value of one of its attributes, and that fact."""
        fact = draw.pick([f for f in facts if f.kind != "relation"])
        draw.bits -= known[fact.key][1]
        at = fact.start - 1  # the space before it
        return text[:at] + text[fact.end :], [fact._replace(value="", swap="", start=at, end=at)]


def weights(config: PeopleConfig) -> list[float]:
    """How often people come up, by rank, as multiples of the first one's."""
    first = 1 + config.zipf_shift
    return [(first / (first + rank)) ** config.zipf for rank in range(config.people)]


def check(cfg: Config, words: int) -> None:
    """Raises ConfigError for a world that cannot be written in passages of `words` words."""
    c = cfg.people
    names = len(FIRST) * len(LAST)
    if c.people + c.unseen > names:
        raise ConfigError(
            f"people.people = {c.people} and people.unseen = {c.unseen} are {c.people + c.unseen} "
            f"people; expected at most {names}, as many as there are names"
        )
    sentences = [len(ATTRIBUTES[kind][0].split()) + 4 for kind in [*ATTRIBUTES][: c.kinds]]
    needed = max(sum(sentences) + 6, CAST * LONGEST_SENTENCE)  # a relation has 6 words
    if words < needed:
        raise ConfigError(
            f"a passage has at most {words} words (data.segment, data.target and half of seq_len); "
            f"expected at least {needed}, which hold a fact of each of people.kinds = {c.kinds} "
            "kinds and a relation"
        )
    weight, start = weights(c), 0
    for band, share in BANDS.items():
        stop = int(share * c.people)
        mentions = CAST * cfg.data.train_passages * sum(weight[start:stop]) / sum(weight)
        if mentions < FEWEST_MENTIONS:
            raise ConfigError(
                f"people.zipf = {c.zipf}: the people of ranks {start} to {stop - 1} (band {band}) "
                f"would be mentioned {mentions:.0f} times in data.train_passages = "
                f"{cfg.data.train_passages}; expected at least {FEWEST_MENTIONS}: choose a smaller "
                "exponent or more passages"
            )
        start = stop
