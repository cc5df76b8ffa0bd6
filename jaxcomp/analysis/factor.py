"""The factor in which several sweeps of one grid differ, and the level of each sweep.

The factor is the strength of the world's prior, or the text that the compressors' base models were
pretrained on. Another decoder is no factor: see compare_runs.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.analysis import arms, compare_runs
from jaxcomp.config import Config, ConfigError, to_dict
from jaxcomp.data.sources import source_of, world_config
from jaxcomp.evals.metrics import LOSS, OVERWRITING, PRIMARY, Headline, headline, of_role
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results
from jaxcomp.training.identity import SIDE_FIELDS, differences, own_text, under

STRENGTHS = ("world.prior_strength", "world.train_prior_strength")
TEXTS = ("world.base_favourites", "world.base_scrambled", "pretrain.optim.steps")
DECODERS = ("decoder", "folders.decoder")
# Of a grid, or of no consequence.
_ANY = (*SIDE_FIELDS, "sweep", "families", "compressor", "base_seed", "seed", "memory.ratio")


class Level(NamedTuple):
    """One sweep; `at` is its prior strength, or its place in the order of texts."""

    name: str
    at: float
    results: Results


class Factor(NamedTuple):
    title: str
    file: str  # prior_strength | mismatch
    ordered: bool  # its levels are numbers
    levels: tuple[Level, ...]
    cfg: Config  # of the sweep that is reported on: what was fixed before running

    @property
    def claims(self) -> int:
        """Number of claims tested together: one for strengths, one for each text but the first."""
        return 1 if self.ordered else len(self.levels) - 1

    @property
    def own_decoders(self) -> bool:
        """Does each level have a decoder of its own? In the controlled world it learns from the
        text that compressors are trained on."""
        return len({_of_decoder(x.results.cfg) for x in self.levels}) > 1

    @property
    def heads(self) -> tuple[Headline, ...]:
        """The primary endpoint, overwriting and the loss."""
        facts = source_of(self.cfg).facts
        loss = headline("counterfactual/loss") if facts else of_role(self.cfg, LOSS)
        return of_role(self.cfg, PRIMARY), of_role(self.cfg, OVERWRITING), loss

    @property
    def ratios(self) -> list[int]:
        return sorted(set.intersection(*(set(grid.ratios(x.results.cfg)) for x in self.levels)))


def kind_of(first: Config, other: Config) -> str:
    """Return the one thing in which two sweeps differ: "prior_strength", "mismatch" or "decoder";
    "arms" in a world with groups of people, where several may.

    Raises:
      ConfigError: more than one thing differs.
    """
    if source_of(first).groups:
        arms.check(first, other)
        return "arms"
    found = [
        path for path, *_ in differences(to_dict(first), to_dict(other)) if not under(path, _ANY)
    ]
    kinds = {kind for path in found for kind, fields in _KINDS.items() if under(path, fields)}
    if "prior_strength" in kinds and all(
        p == "folders.decoder" for p in found if under(p, DECODERS)
    ):
        kinds -= {"decoder"}  # checked below: one decoder may be named by its folder or found
    strays = [p for p in found if not any(under(p, fields) for fields in _KINDS.values())]
    if strays or len(kinds) > 1:
        raise ConfigError(
            f"--compare: {other.name} differs from {first.name} in {', '.join(found)}; expected "
            "sweeps that differ in one thing: the decoder, the prior's strength "
            "(world.*_strength), or the pretraining text (world.base_*, pretrain.optim.steps)"
        )
    # Each strength of the training text has its own decoder (Factor.own_decoders).
    of_bases = _of_decoder(first) == _of_decoder(other)
    if kinds == {"prior_strength"} and of_bases and not compare_runs.same_decoder(first, other):
        raise ConfigError(
            f"--compare: {other.name} differs from {first.name} in the prior strength of the "
            "pretraining text and in its decoder (by the hash on its card); expected one "
            "decoder: name its folder in both (folders.decoder, as configs/paradox.py does)"
        )
    return kinds.pop() if kinds else "decoder"


def _of_decoder(cfg: Config) -> float:
    """The prior strength of the text that the decoder is adapted on."""
    return world_config(own_text(cfg)).train_prior_strength


_KINDS = {"prior_strength": STRENGTHS, "mismatch": TEXTS, "decoder": DECODERS}


def factor_of(kind: str, sweeps: Sequence[Results]) -> Factor:
    """Return the sweeps as levels of a prior strength or of a pretraining text.

    Raises:
      ConfigError: the sizes differ, or the prior strengths do not lie on one line.
    """
    for other in sweeps[1:]:
        compare_runs.same_sizes(sweeps[0].cfg, other.cfg)
    return _strengths(sweeps) if kind == "prior_strength" else _texts(sweeps)


def _strengths(sweeps: Sequence[Results]) -> Factor:
    text = next((r.cfg for r in sweeps if not source_of(r.cfg).facts), None)
    if text is not None:
        raise ConfigError(
            f"--compare: {text.name} is of data.source={text.data.source}, which has no prior to "
            "strengthen: world.*_strength has no effect there; expected sweeps of the world"
        )
    worlds = [world_config(r.cfg) for r in sweeps]
    bases = [w.prior_strength for w in worlds]
    texts = [w.train_prior_strength for w in worlds]
    line = sorted(zip(bases, texts, strict=True))
    one = len(set(texts)) == 1 or len(set(bases)) == 1
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(line))
    if len(set(line)) < len(line) or not (one or rising):
        said = "; ".join(f"bases {b:g}, text {t:g}" for b, t in line)
        raise ConfigError(
            f"--compare: prior strengths {said}; expected one line of them: sweeps that differ in "
            "*.prior_strength, in *.train_prior_strength, or in both together"
        )
    title = "prior strength of the pretraining text"
    if len(set(texts)) > 1:
        title = (
            "prior strength of the text to train on"
            if len(set(bases)) == 1
            else "prior strength of all text"
        )
    strengths = texts if len(set(bases)) == 1 else bases
    levels = [
        Level(f"bases {b:g}, text {t:g}", strength, r)
        for b, t, strength, r in zip(bases, texts, strengths, sweeps, strict=True)
    ]
    levels.sort(key=lambda level: level.at)
    return Factor(title, "prior_strength", True, tuple(levels), sweeps[0].cfg)


def _texts(sweeps: Sequence[Results]) -> Factor:
    names = [_text_of(r.cfg, sweeps[0].cfg) for r in sweeps]
    if len(set(names)) < len(names):
        raise ConfigError(f"--compare: texts {', '.join(names)}; expected each of them once")
    order = sorted(range(len(names)), key=lambda i: (names[i] != SAME, i))
    levels = tuple(Level(names[i], float(at), sweeps[i]) for at, i in enumerate(order))
    return Factor("pretraining text", "mismatch", False, levels, sweeps[0].cfg)


SAME = "same world"


def _text_of(cfg: Config, first: Config) -> str:
    world, steps = cfg.world, cfg.pretrain.optim.steps
    said = [f"other favourites (seed {world.base_favourites})"] if world.base_favourites else []
    said += ["scrambled"] if world.base_scrambled else []
    if steps == 0:
        if said:
            raise ConfigError(
                f"--compare: the bases of {cfg.name} are untrained (pretrain.optim.steps=0), so "
                "world.base_favourites and world.base_scrambled have no effect; leave them out"
            )
        return "untrained"
    if first.pretrain.optim.steps not in (0, steps):
        said.append(f"{steps} steps")
    return ", ".join(said) or SAME
