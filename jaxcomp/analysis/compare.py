"""Several sweeps of one grid that differ in one thing: does it change what size does?

The thing is a *factor*, each sweep one *level* of it: the strength of the world's prior (a dose),
or the text that the compressors' base models were pretrained on. All numbers are of counterfactual
passages, which are the same at every level.

**Slope** of a level: the least-squares line of a metric over the logarithm of compressor parameters
inside a family, taken from the smallest size to the largest, mean over families; in the metric's
own unit. **Mean** of a level: over its sizes.

**Change** of either over the levels. Dose: the least-squares line of the levels' slopes (or means)
over the dose, taken from the weakest to the strongest. Text: each level less the first. All are
sums of columns with fixed weights, so the intervals are those of `stats.estimate`, from draws of
base seeds and passages. p: the levels change places inside each unit (a base seed where there are
three, else a run), in all ways up to `stats.EXACT`, else in `stats.DRAWS` ways by chance
(Fisher 1935); of a text against the first, these two levels alone. Each other text is a claim of
its own, so their words are by Holm's method: adjusted p, and bounds at 1 - 0.05 / their number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.analysis import compare_runs, stats
from jaxcomp.analysis.paired_tests import holm
from jaxcomp.analysis.tables import floor_of, own_floors, points
from jaxcomp.analysis.verdict import change_word
from jaxcomp.config import Config, ConfigError, to_dict
from jaxcomp.data.sources import source_of
from jaxcomp.evals.metrics import LOSS, OVERWRITING, PRIMARY, Headline, headline, of_role
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results
from jaxcomp.training.identity import SIDE_FIELDS, differences

STRENGTHS = ("world.prior_strength", "world.train_prior_strength")
TEXTS = ("world.base_favourites", "world.base_scrambled", "pretrain.optim.steps")
DECODERS = ("decoder", "folders.decoder")
# Of a grid, or of no consequence.
_ANY = (*SIDE_FIELDS, "sweep", "families", "compressor", "base_seed", "seed", "memory.ratio")


class Level(NamedTuple):
    """One sweep; `at` is its dose, or its place in the order of texts."""

    name: str
    at: float
    results: Results


class Factor(NamedTuple):
    title: str
    file: str  # dose | mismatch
    ordered: bool  # its levels are numbers
    levels: tuple[Level, ...]
    cfg: Config  # of the sweep that is reported on: what was fixed before running

    @property
    def claims(self) -> int:
        """How many are tested together: one of a dose, one of each text but the first."""
        return 1 if self.ordered else len(self.levels) - 1

    @property
    def own_decoders(self) -> bool:
        """Does each level have a decoder of its own? It learns from the text to train on."""
        return len({x.results.cfg.world.train_prior_strength for x in self.levels}) > 1

    @property
    def heads(self) -> tuple[Headline, ...]:
        """The primary endpoint, overwriting and the loss."""
        facts = source_of(self.cfg).facts
        loss = headline("counterfactual/loss") if facts else of_role(self.cfg, LOSS)
        return of_role(self.cfg, PRIMARY), of_role(self.cfg, OVERWRITING), loss

    @property
    def ratios(self) -> list[int]:
        return sorted(set.intersection(*(set(grid.ratios(x.results.cfg)) for x in self.levels)))


class Change(NamedTuple):
    """How a level's slope (or mean) changes."""

    name: str  # "weakest to strongest", or a level's name
    value: stats.Estimate
    p_fall: float
    p_rise: float
    p_claim: float  # p_fall, adjusted for `Factor.claims`
    word: str  # of the claim that it falls; "" where none is made


class Found(NamedTuple):
    """One metric at one ratio."""

    head: Headline
    ratio: int
    means: tuple[tuple[stats.Estimate | None, ...], ...]  # levels x setups
    setups: tuple[tuple[str, str, float], ...]  # family, size, parameters
    slopes: tuple[stats.Estimate, ...]  # one a level; empty where there is no whole replicate
    of_slopes: tuple[Change, ...]
    of_means: tuple[Change, ...]
    units: int = 0  # what is independent (stats.Sample.units)
    cramped: tuple[str, ...] = ()  # of a claim: levels at which no fall of that size could show


# --- which sweeps are levels ------------------------------------------------------------------


def kind_of(first: Config, other: Config) -> str:
    """What the other sweep is to the first: "dose", "mismatch", or "decoder" (another one).

    Raises ConfigError where more than one thing differs.
    """
    found = [
        path for path, *_ in differences(to_dict(first), to_dict(other)) if not _under(path, _ANY)
    ]
    kinds = {kind for path in found for kind, fields in _KINDS.items() if _under(path, fields)}
    if "dose" in kinds and all(p == "folders.decoder" for p in found if _under(p, DECODERS)):
        kinds -= {"decoder"}  # asked below: one decoder may be named by its folder or found
    strays = [p for p in found if not any(_under(p, fields) for fields in _KINDS.values())]
    if strays or len(kinds) > 1:
        raise ConfigError(
            f"--beside: {other.name} differs from {first.name} in {', '.join(found)}; expected "
            "sweeps that differ in one thing: the decoder, the prior's strength "
            "(world.*_strength), or the text of the bases (world.base_*, pretrain.optim.steps)"
        )
    # Doses of the text to train on have a decoder each (Factor.own_decoders).
    of_bases = first.world.train_prior_strength == other.world.train_prior_strength
    if kinds == {"dose"} and of_bases and not compare_runs.same_decoder(first, other):
        raise ConfigError(
            f"--beside: {other.name} differs from {first.name} in the dose of the bases and in its "
            "decoder (by the hash on its card, or that it will have); expected one decoder: name "
            "its folder in both (folders.decoder, as configs/paradox.py does)"
        )
    return kinds.pop() if kinds else "decoder"


_KINDS = {"dose": STRENGTHS, "mismatch": TEXTS, "decoder": DECODERS}


def _under(path: str, fields: Sequence[str]) -> bool:
    return any(path == field or path.startswith(f"{field}.") for field in fields)


def factor_of(kind: str, sweeps: Sequence[Results]) -> Factor:
    """The sweeps as levels of a dose or of a mismatch. Raises ConfigError where they are not
    sweeps of the same sizes, or are no one line of doses."""
    for other in sweeps[1:]:
        compare_runs.same_sizes(sweeps[0].cfg, other.cfg)
    return _doses(sweeps) if kind == "dose" else _texts(sweeps)


def _doses(sweeps: Sequence[Results]) -> Factor:
    text = next((r.cfg for r in sweeps if not source_of(r.cfg).facts), None)
    if text is not None:
        raise ConfigError(
            f"--beside: {text.name} is of data.source={text.data.source}, which has no prior to "
            "strengthen: world.*_strength has no effect there; expected sweeps of the world"
        )
    worlds = [r.cfg.world for r in sweeps]
    bases = [w.prior_strength for w in worlds]
    texts = [w.train_prior_strength for w in worlds]
    line = sorted(zip(bases, texts, strict=True))
    one = len(set(texts)) == 1 or len(set(bases)) == 1
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(line))
    if len(set(line)) < len(line) or not (one or rising):
        said = "; ".join(f"bases {b:g}, text {t:g}" for b, t in line)
        raise ConfigError(
            f"--beside: doses {said}; expected one line of them: sweeps that differ in "
            "world.prior_strength, in world.train_prior_strength, or in both together"
        )
    title = "prior strength of the bases' text"
    if len(set(texts)) > 1:
        title = (
            "prior strength of the text to train on"
            if len(set(bases)) == 1
            else "prior strength of all text"
        )
    doses = texts if len(set(bases)) == 1 else bases
    levels = [
        Level(f"bases {b:g}, text {t:g}", dose, r)
        for b, t, dose, r in zip(bases, texts, doses, sweeps, strict=True)
    ]
    levels.sort(key=lambda level: level.at)
    return Factor(title, "dose", True, tuple(levels), sweeps[0].cfg)


def _texts(sweeps: Sequence[Results]) -> Factor:
    names = [_text_of(r.cfg, sweeps[0].cfg) for r in sweeps]
    if len(set(names)) < len(names):
        raise ConfigError(f"--beside: texts {', '.join(names)}; expected each of them once")
    order = sorted(range(len(names)), key=lambda i: (names[i] != SAME, i))
    levels = tuple(Level(names[i], float(at), sweeps[i]) for at, i in enumerate(order))
    return Factor("text of the bases", "mismatch", False, levels, sweeps[0].cfg)


SAME = "same world"


def _text_of(cfg: Config, first: Config) -> str:
    world, steps = cfg.world, cfg.pretrain.optim.steps
    said = [f"other favourites (seed {world.base_favourites})"] if world.base_favourites else []
    said += ["scrambled"] if world.base_scrambled else []
    if steps == 0:
        if said:
            raise ConfigError(
                f"--beside: the bases of {cfg.name} are untrained (pretrain.optim.steps=0), so "
                "world.base_favourites and world.base_scrambled have no effect; leave them out"
            )
        return "untrained"
    if first.pretrain.optim.steps not in (0, steps):
        said.append(f"{steps} steps")
    return ", ".join(said) or SAME


# --- numbers ----------------------------------------------------------------------------------


def measure(factor: Factor) -> list[Found]:
    """Every metric of `factor.heads` at every ratio that all levels have."""
    return [_found(factor, h, r) for h in factor.heads for r in factor.ratios]


def claimed(factor: Factor, head: Headline, ratio: int) -> bool:
    """Is a word said of it? Of the primary endpoint at the primary ratio alone."""
    return (head, ratio) == (factor.heads[0], factor.cfg.sweep.primary_ratio)


def least(factor: Factor, units: int) -> float:
    """The smallest p that so few levels and units can give, before any adjustment."""
    ways = (math.factorial(len(factor.levels)) if factor.ordered else 2) ** units
    return 1 / ways if ways <= stats.EXACT else 1 / (stats.DRAWS + 1)


def _found(factor: Factor, head: Headline, ratio: int) -> Found:
    each = [points(level.results.rows, head.metric, ratio) for level in factor.levels]
    params = {(p.family, p.size): p.params for ps in each for p in ps}
    setups = tuple((f, s, x) for (f, s), x in sorted(params.items(), key=lambda kv: kv[1]))
    means = tuple(
        tuple(stats.mean([p for p in ps if (p.family, p.size) == s[:2]]) for s in setups)
        for ps in each
    )
    sample = _sample(grid.sizes(factor.cfg, ratio), each)
    if not len(sample.base_R):
        return Found(head, ratio, means, setups, (), (), ())
    slope_C = _slope(sample.setups[: len(sample.setups) // len(each)], params)
    mean_C = np.full(len(slope_C), 1 / len(slope_C))
    L = len(each)
    slopes = tuple(stats.estimate(sample, np.kron(one_L, slope_C)) for one_L in np.eye(L))
    smallest, cramped = None, ()
    if claimed(factor, head, ratio):
        cramped = _cramped(factor, sample, head.metric, ratio)
        smallest = 0.0 if cramped else factor.cfg.sweep.smallest_effect
    of_slopes, of_means = (
        _changes(factor, sample, column_C, smallest) for column_C in (slope_C, mean_C)
    )
    return Found(head, ratio, means, setups, slopes, of_slopes, of_means, sample.units, cramped)


def _floor(results: Results, metric: str, ratio: int) -> float:
    """Without memory; the highest, where runs have decoders of their own."""
    own = own_floors(results, metric, ratio).values()
    return max([floor_of(results, metric) or 0.0, *own])


def _sample(sizes: stats.Sizes, each: Sequence[Sequence[stats.Point]]) -> stats.Sample:
    """Whole replicates that every level has; columns level by level, smallest size first."""
    keys = set.intersection(
        *({(b[0].base_seed, b[0].seed) for b in stats.replicates(ps, sizes)} for ps in each)
    )
    parts = [stats.sample([p for p in ps if (p.base_seed, p.seed) in keys], sizes) for ps in each]
    sums = [part.sums_2RCW for part in parts if part.sums_2RCW is not None]
    # The same denominators in every run: the passages of the levels are the same.
    same = len(sums) == len(parts) and all(
        s.shape == sums[0].shape and np.array_equal(s[1], sums[0][1]) for s in sums
    )
    return stats.Sample(
        tuple(setup for part in parts for setup in part.setups),
        parts[0].base_R,
        np.concatenate([part.value_RC for part in parts], axis=1),
        np.concatenate(sums, axis=2) if same else None,
    )


def _slope(setups: Sequence[tuple[str, str]], params: dict[tuple[str, str], float]) -> np.ndarray:
    """Weights of one level's columns, so that their sum is the slope."""
    families = sorted({family for family, _ in setups})
    weight_C = np.zeros(len(setups))
    for family in families:
        at = [i for i, setup in enumerate(setups) if setup[0] == family]
        weight_C[at] = _line(np.log([params[setups[i]] for i in at])) / len(families)
    return weight_C


def _line(x: np.ndarray) -> np.ndarray:
    """Weights of values at `x` whose sum is their least-squares line from lowest to highest x."""
    centred = x - x.mean()
    return centred * (x.max() - x.min()) / (centred @ centred)


def _cramped(factor: Factor, sample: stats.Sample, metric: str, ratio: int) -> tuple[str, ...]:
    """Levels at which no size is the smallest effect above the decoder's floor."""
    smallest = factor.cfg.sweep.smallest_effect
    best_L = sample.value_RC.mean(axis=0).reshape(len(factor.levels), -1).max(axis=1)
    return tuple(
        level.name
        for level, best in zip(factor.levels, best_L, strict=True)
        if best < _floor(level.results, metric, ratio) + smallest
    )


def _changes(
    factor: Factor, sample: stats.Sample, column_C: np.ndarray, smallest: float | None
) -> tuple[Change, ...]:
    """`smallest` as for `change_word`; None where no claim is made."""
    L = len(factor.levels)
    if factor.ordered:
        asked = [("weakest to strongest", _line(np.array([x.at for x in factor.levels])))]
    else:
        asked = [(x.name, np.eye(L)[i] - np.eye(L)[0]) for i, x in enumerate(factor.levels) if i]
    value_UL = stats.unit_means(sample).reshape(-1, L, len(column_C)) @ column_C
    ps: dict[str, tuple[float, float]] = {}
    for name, weight_L in asked:
        used_L = np.ones(L, bool) if factor.ordered else weight_L != 0
        ps[name] = permuted(value_UL[:, used_L], weight_L[used_L])
    adjusted = holm({name: p_fall for name, (p_fall, _) in ps.items()})
    out = []
    for name, weight_L in asked:
        contrast_C, p, word = np.kron(weight_L, column_C), adjusted[name], ""
        if smallest is not None:
            word = change_word(sample, contrast_C, p, smallest, factor.claims)
        out.append(Change(name, stats.estimate(sample, contrast_C), *ps[name], p, word))
    return tuple(out)


def permuted(value_UL: np.ndarray, weight_L: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """One-sided p of the weighted sum of levels, mean over units, where the levels of each unit
    change places: that it is as low, and as high, as it was found."""
    orders_PL = np.array(list(itertools.permutations(range(value_UL.shape[1]))))
    sum_UP = value_UL[:, orders_PL] @ weight_L
    units, count = sum_UP.shape
    exact = count**units <= stats.EXACT
    if exact:
        null = np.zeros(1)
        for sum_P in sum_UP:
            null = (null[:, None] + sum_P[None, :]).ravel()
    else:
        rng = np.random.default_rng(seed)
        null = sum((rng.choice(s, size=stats.DRAWS) for s in sum_UP), np.zeros(stats.DRAWS))
    # The first order is the one that was found; drawn ways do not hold it, so it is counted too.
    found, own = sum_UP[:, 0].sum(), 0 if exact else 1
    tiny = 1e-9 * max(1.0, math.fabs(found))
    low, high = np.sum(null <= found + tiny), np.sum(null >= found - tiny)
    return float((low + own) / (len(null) + own)), float((high + own) / (len(null) + own))
