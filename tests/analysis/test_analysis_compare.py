"""Sweeps at several prior strengths, or of several texts: rows with a known answer."""

import csv
import dataclasses
import io
import itertools
from typing import Any

import numpy as np
import pytest
from sweep.sweep_stub import config

from jaxcomp.analysis import compare_page, factor, factor_effect, stats
from jaxcomp.analysis.report import report
from jaxcomp.analysis.verdict import ABSENT, INCONCLUSIVE, PRESENT, THESE_BASES
from jaxcomp.cli import overrides
from jaxcomp.config import ConfigError, DataConfig, ModelConfig
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import collect
from jaxcomp.sweep.store import DONE, Ledger

KEPT, OVER, LOSS = (
    "counterfactual/nonfavourite/all/preserved",
    "counterfactual/overwriting",
    "counterfactual/loss",
)

pytestmark = pytest.mark.usefixtures("undrawn")
SHIPPED = {"decoder": "jaxcomp/assets/decoders/decoder-s0"}
WIDTHS = {"s": 16, "m": 32, "l": 64}  # in equal steps of log parameters


def swept_at(bases, text=0.5, base_seeds=(0, 1, 2), seeds=(0,), **world):
    cfg = config(base_seeds=base_seeds, seeds=seeds, ratios=(16,))
    sizes = {name: ModelConfig(hidden_size=width) for name, width in WIDTHS.items()}
    strengths = {"prior_strength": bases, "train_prior_strength": text}
    return dataclasses.replace(
        cfg,
        name=f"b{bases}-t{text}",
        families={"toy": sizes},
        folders=SHIPPED,
        world=dataclasses.replace(cfg.world, **strengths, **world),
    )


def fill(cfg, workdir, value, no_memory=0.0):
    """`value(size 0..2, base seed)` of facts kept."""
    ledger = Ledger(workdir)
    ledger.open(cfg)
    for job in grid.expand(cfg):
        i = list(WIDTHS).index(job.setup.size)
        kept = value(i, job.base_seed)
        metrics = {
            "params": 1000 * grid.model(job.config).hidden_size,
            "ordinary/loss": 1 - kept,
            "counterfactual/no_memory/nonfavourite/all/preserved": no_memory,
            KEPT: kept,
            OVER: 1 - kept,
            LOSS: 2 - kept,
        }
        ledger.write(job, DONE, metrics=metrics, intervals={}, timings={})
    return collect(cfg, ledger)


def swept(tmp_path, slopes, noise=0.0, bases=(0.5, 0.8, 0.95)):
    """Sweeps in which `slopes` are the changes from the smallest size to the largest."""
    rng = np.random.default_rng(0)
    out = []
    for at, slope in zip(bases, slopes, strict=True):
        wobble = noise * rng.standard_normal((3, 3))
        made = fill(
            swept_at(at),
            tmp_path / f"{at}",
            lambda i, b, s=slope, w=wobble: 0.5 + s * i / 2 + 0.01 * b + w[i, b],
        )
        out.append(made)
    return out


def kept_of(sweeps, kind="prior_strength"):
    found = factor.factor_of(kind, sweeps)
    return found, next(f for f in factor_effect.measure(found) if f.head.metric == KEPT)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_change_of_slopes_is_the_planted_one(tmp_path, order):
    # In steps of the prior strength: the line through them has slope -0.4 a unit, 0.45 in all.
    slopes = [0.1 - 0.4 * (b - 0.5) for b in (0.5, 0.8, 0.95)]
    sweeps = swept(tmp_path, slopes)
    made, kept = kept_of([sweeps[i] for i in order])
    assert [level.at for level in made.levels] == [0.5, 0.8, 0.95]
    assert [s.value for s in kept.slopes] == pytest.approx(slopes)
    (change,) = kept.of_slopes
    assert change.value.value == pytest.approx(-0.4 * 0.45)
    assert change.value.half == pytest.approx(0.0, abs=1e-9)  # base seeds shift every size alike
    (mean,) = kept.of_means
    assert mean.value.value == pytest.approx(-0.4 * 0.45 / 2)
    assert change.word == PRESENT
    # Every base seed has its slopes in falling order: one of 6 orders each.
    assert change.p_fall == pytest.approx(1 / 6**3)
    assert change.p_rise == 1.0


def test_loss_and_overwriting_mirror_the_planted_endpoint(tmp_path):
    found = factor.factor_of("prior_strength", swept(tmp_path, [0.2, 0.1, 0.0]))
    by = {f.head.metric: f.of_slopes[0] for f in factor_effect.measure(found)}
    for metric in (OVER, LOSS):
        assert by[metric].value.value == pytest.approx(-by[KEPT].value.value)
        assert by[metric].p_rise == pytest.approx(by[KEPT].p_fall)


@pytest.mark.parametrize(
    ("slopes", "noise", "word"),
    [([0.1, 0.1, 0.1], 0.001, ABSENT), ([0.1, 0.1, 0.3], 0.2, INCONCLUSIVE)],
)
def test_no_change_is_absent_only_where_a_fall_is_excluded(tmp_path, slopes, noise, word):
    (change,) = kept_of(swept(tmp_path, slopes, noise))[1].of_slopes
    assert change.value.value > -0.05  # the value alone would not decide
    assert change.word == word


@pytest.mark.parametrize(
    ("no_memory", "own", "word"),
    [(0.0, False, ABSENT), (0.49, False, INCONCLUSIVE), (0.49, True, INCONCLUSIVE)],
)
def test_nothing_is_absent_where_no_fall_could_show(tmp_path, no_memory, own, word):
    """Above the no-memory baseline of the frozen decoder, or of the decoders that runs train."""
    sweeps = []
    for at in (0.5, 0.8, 0.9):
        cfg = swept_at(at)
        cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, train_decoder=own))
        sweeps.append(fill(cfg, tmp_path / f"{at}", lambda i, b: 0.5 + 0.001 * i, no_memory))
    found, kept = kept_of(sweeps)
    assert kept.of_slopes[0].word == word
    assert ("may be a floor effect" in compare_page.claim(found, kept)) == (word == INCONCLUSIVE)


def test_a_slope_that_goes_with_the_level_is_said_to_lack_room(tmp_path):
    """The rule finds what was planted: hardly a fact at the strongest prior, so no slope there."""
    tops = {0.5: 0.4, 0.8: 0.2, 0.95: 0.03}
    found, kept = kept_of(
        [
            fill(swept_at(at), tmp_path / f"{at}", lambda i, b, t=top: t * (1 + i) / 3 + 0.001 * b)
            for at, top in tops.items()
        ]
    )
    assert kept.of_slopes[0].word == PRESENT
    assert kept.cramped == ("bases 0.95, text 0.5",)
    assert "At bases 0.95, text 0.5 no size is 5 percentage points above" in compare_page.claim(
        found, kept
    )


@pytest.mark.parametrize(
    ("base_seeds", "seeds", "half"), [((0, 1), (0,), None), ((0,), (0, 1, 2, 3), 0.0)]
)
def test_under_three_base_seeds_nothing_is_claimed(tmp_path, base_seeds, seeds, half):
    sweeps = [
        fill(
            swept_at(at, 0.5, base_seeds, seeds), tmp_path / f"{at}", lambda i, b, s=s: 0.5 + s * i
        )
        for at, s in ((0.5, 0.1), (0.8, 0.0), (0.9, -0.1))
    ]
    (change,) = kept_of(sweeps)[1].of_slopes
    assert (change.word, change.value.half) == (THESE_BASES, half)


@pytest.mark.parametrize("units", [2, 3])
def test_p_is_the_share_of_all_ways_to_place_the_levels(units):
    rng = np.random.default_rng(units)
    value_UL, weight_L = rng.standard_normal((units, 3)), np.array([-1.0, 0.25, 0.75])
    ways = [
        sum(float(np.array(order) @ weight_L) for order in chosen)
        for chosen in itertools.product(*(itertools.permutations(row) for row in value_UL))
    ]
    own = float((value_UL @ weight_L).sum())
    expected = [np.mean(np.array(ways) <= own + 1e-9), np.mean(np.array(ways) >= own - 1e-9)]
    assert factor_effect.permuted(value_UL, weight_L) == pytest.approx(expected)


def test_p_of_many_units_is_drawn_and_level_under_the_null():
    rng = np.random.default_rng(0)
    ps = [
        factor_effect.permuted(rng.standard_normal((9, 3)), np.array([-1.0, 0, 1.0]))[0]
        for _ in range(40)
    ]
    assert min(ps) > 0
    assert 0.3 < np.mean(ps) < 0.7


def test_a_missing_job_takes_its_replicate_out_of_every_level(tmp_path):
    sweeps = swept(tmp_path, [0.2, 0.1, 0.0])
    rows = [r for r in sweeps[1].rows if (r.job.setup.size, r.job.base_seed) != ("m", 2)]
    sweeps[1] = sweeps[1]._replace(rows=rows)
    _, kept = kept_of(sweeps)
    assert kept.of_slopes[0].value.n == 2
    shown: Any = kept.means[1][1]
    assert shown.n == 2  # the table still shows what there is
    rows = [r for r in sweeps[1].rows if r.job.setup.size != "m"]
    sweeps[1] = sweeps[1]._replace(rows=rows)
    found, kept = kept_of(sweeps)
    assert not kept.slopes
    assert "Not measurable" in compare_page.claim(found, kept)


def test_texts_are_compared_with_the_same_world(tmp_path):
    other = fill(
        swept_at(0.95, base_favourites=1), tmp_path / "o", lambda i, b: 0.5 - 0.1 * i + 0.01 * b
    )
    same = fill(swept_at(0.95), tmp_path / "s", lambda i, b: 0.5 + 0.1 * i + 0.01 * b)
    untrained = swept_at(0.95)
    optim = dataclasses.replace(untrained.pretrain.optim, steps=0)
    pretrain = dataclasses.replace(untrained.pretrain, optim=optim)
    untrained = dataclasses.replace(untrained, pretrain=pretrain)
    raw = fill(untrained, tmp_path / "u", lambda i, b: 0.2 + 0.1 * i + 0.01 * b)
    assert factor.kind_of(other.cfg, same.cfg) == factor.kind_of(same.cfg, untrained) == "mismatch"
    made, kept = kept_of([other, same, raw], "mismatch")
    names = ["same world", "other favourites (seed 1)", "untrained"]
    assert [x.name for x in made.levels] == names
    first, second = kept.of_slopes
    assert (first.value.value, second.value.value) == pytest.approx((-0.4, 0.0))
    assert kept.of_means[1].value.value == pytest.approx(-0.3)
    assert first.p_fall == pytest.approx(1 / 8)  # signs of three base seeds: never under 0.05
    assert first.word == INCONCLUSIVE
    assert [c.p_claim for c in (first, second)] == pytest.approx([2 / 8, second.p_fall])  # Holm
    claim = compare_page.claim(made, kept)
    assert "p = 0.25; 3 runs per size" in claim
    assert '"Yes" is out of reach with so few pretraining seeds: no p (adjusted) is under' in claim


@pytest.mark.parametrize(("texts", "words"), [(1, (PRESENT,)), (3, (INCONCLUSIVE,) * 3)])
def test_words_of_several_texts_are_adjusted_for_their_number(tmp_path, texts, words):
    """Five bases give a text a p of 1/32: under 0.05 for one text, not for three together."""
    seeds, rng = (0, 1, 2, 3, 4), np.random.default_rng(0)

    def made(slope, **world):
        wobble = 0.001 * rng.standard_normal((3, 5))
        cfg = swept_at(0.95, base_seeds=seeds, **world)
        place = tmp_path / f"{slope}-{world}"
        return fill(cfg, place, lambda i, b: 0.5 + slope * i / 2 + wobble[i, b])

    sweeps = [made(0.3), *(made(-0.1, base_favourites=n + 1) for n in range(texts))]
    factored, kept = kept_of(sweeps, "mismatch")
    assert tuple(c.word for c in kept.of_slopes) == words
    assert all(c.p_fall == pytest.approx(1 / 32) for c in kept.of_slopes)
    claim = compare_page.claim(factored, kept)
    assert ("out of reach" in claim) == (texts == 3)
    assert all(n in claim for n in [x.name for x in factored.levels[1:]])


def test_only_what_is_claimed_has_a_word(tmp_path):
    found = factor.factor_of("prior_strength", swept(tmp_path, [0.2, 0.1, 0.0]))
    for f in factor_effect.measure(found):
        words = {c.word for c in (*f.of_slopes, *f.of_means)}
        assert (words == {""}) == (f.head.metric != KEPT)


@pytest.mark.parametrize("units", [2, 6, 7])
def test_the_least_p_is_that_of_drawn_ways_where_they_are_drawn(tmp_path, units):
    found = factor.factor_of("prior_strength", swept(tmp_path, [0.2, 0.1, 0.0]))
    values_UL = np.tile([3.0, 2.0, 1.0], (units, 1))
    p, _ = factor_effect.permuted(values_UL, np.array([-1.0, 0.0, 1.0]))
    assert p >= factor_effect.least(found, units)
    if units < 7:
        assert factor_effect.least(found, units) == pytest.approx(1 / 6**units)
    else:
        assert factor_effect.least(found, units) == 1 / (stats.DRAWS + 1)


def test_the_sweep_that_is_reported_on_says_what_was_fixed(tmp_path):
    sweeps = swept(tmp_path, [0.2, 0.1, 0.0])
    own = sweeps[2].cfg  # the strongest prior, last of the levels
    fixed = dataclasses.replace(own.sweep, smallest_effect=0.4, primary_ratio=4)
    own = dataclasses.replace(own, sweep=fixed)
    made = factor.factor_of("prior_strength", [sweeps[2]._replace(cfg=own), *sweeps[:2]])
    assert [x.at for x in made.levels] == [0.5, 0.8, 0.95]
    assert made.cfg.sweep == fixed


def test_bases_that_read_nothing_have_no_text(tmp_path):
    untrained = swept_at(0.95, base_favourites=2)
    optim = dataclasses.replace(untrained.pretrain.optim, steps=0)
    untrained = dataclasses.replace(
        untrained, pretrain=dataclasses.replace(untrained.pretrain, optim=optim)
    )
    raw = fill(untrained, tmp_path / "u", lambda i, b: 0.2)
    same = fill(swept_at(0.95), tmp_path / "s", lambda i, b: 0.2)
    with pytest.raises(ConfigError, match="have no effect; leave them out"):
        factor.factor_of("mismatch", [same, raw])


def test_one_name_for_two_shapes_is_refused(tmp_path):
    first, second = swept(tmp_path, [0.2, 0.1], bases=(0.5, 0.8))
    families = {"toy": second.cfg.families["toy"] | {"m": ModelConfig(hidden_size=48)}}
    odd = second._replace(cfg=dataclasses.replace(second.cfg, families=families))
    assert factor.kind_of(first.cfg, odd.cfg) == "prior_strength"
    with pytest.raises(ConfigError, match=r"toy/m of b0\.8-t0\.5 has another shape"):
        factor.factor_of("prior_strength", [first, odd])


def test_real_text_has_no_prior_strength(tmp_path):
    sweeps = swept(tmp_path, [0.2, 0.1], bases=(0.5, 0.8))
    text = DataConfig(source="text", path="nowhere.txt")
    sweeps = [r._replace(cfg=dataclasses.replace(r.cfg, data=text)) for r in sweeps]
    with pytest.raises(ConfigError, match=r"data\.source=text, which has no prior"):
        factor.factor_of(factor.kind_of(sweeps[0].cfg, sweeps[1].cfg), sweeps)


def test_prior_strengths_of_the_bases_are_against_one_decoder():
    """configs/paradox.py: found by its hash at one prior strength, by folder at the others."""
    found, named, other = (overrides.load(f"configs/paradox.py{a}") for a in ("", ":bases=0.5", ""))
    assert (found.folders, list(named.folders)) == ({}, ["decoder"])
    for one, two in ((found, named), (named, found)):
        assert factor.kind_of(one, two) == "prior_strength"
    second = {"decoder": "jaxcomp/assets/decoders/decoder-s1"}
    for cfg in (
        dataclasses.replace(named, folders=second),
        dataclasses.replace(named, folders={"decoder": "somewhere"}),
        dataclasses.replace(
            named, folders={}
        ),  # its text is of another prior strength, so it is another one
    ):
        with pytest.raises(ConfigError, match="in its decoder"):
            factor.kind_of(other, cfg)
    text = overrides.load("configs/paradox.py:bases=0.5,text=0.8")
    assert factor.kind_of(overrides.load("configs/paradox.py:bases=0.5"), text) == "prior_strength"


def test_what_differs_says_what_is_compared():
    first = swept_at(0.5)
    assert factor.kind_of(first, swept_at(0.8)) == "prior_strength"
    assert factor.kind_of(first, swept_at(0.8, 0.8)) == "prior_strength"
    moved = dataclasses.replace(swept_at(0.8, 0.8), folders={"decoder": "somewhere"})
    assert (
        factor.kind_of(first, moved) == "prior_strength"
    )  # each text to train on has a decoder of its own
    decoder = dataclasses.replace(first.decoder, seed=1)
    assert factor.kind_of(first, dataclasses.replace(first, decoder=decoder)) == "decoder"
    for other in (
        dataclasses.replace(swept_at(0.8), decoder=decoder),
        swept_at(0.8, base_favourites=1),
        dataclasses.replace(first, data=dataclasses.replace(first.data, eval_passages=7)),
    ):
        with pytest.raises(ConfigError, match="expected sweeps that differ in one thing"):
            factor.kind_of(first, other)


def test_prior_strengths_are_one_line(tmp_path):
    def made(*strengths):
        places = [(s, tmp_path / "-".join(map(str, s))) for s in strengths]
        return [fill(swept_at(*s), place, lambda i, b: 0.5 + 0.1 * i) for s, place in places]

    both = factor.factor_of("prior_strength", made((0.8, 0.8), (0.5, 0.5), (0.95, 0.95)))
    assert [x.at for x in both.levels] == [0.5, 0.8, 0.95]
    texts = factor.factor_of("prior_strength", made((0.5, 0.8), (0.5, 0.5)))
    assert [x.at for x in texts.levels] == [0.5, 0.8]
    # Of a text to train on there is one decoder a prior strength, which the claim says.
    bases = factor.factor_of("prior_strength", made((0.5, 0.5), (0.8, 0.5)))
    for each, alone in ((both, True), (texts, True), (bases, False)):
        found = next(f for f in factor_effect.measure(each) if f.head.metric == KEPT)
        assert ("single decoder of its own" in compare_page.claim(each, found)) == alone
    for mixed in (((0.5, 0.5), (0.8, 0.5), (0.8, 0.8)), ((0.5, 0.5), (0.5, 0.5))):
        with pytest.raises(ConfigError, match="one line"):
            factor.factor_of("prior_strength", made(*mixed))


def test_the_report_has_the_claim_the_table_and_the_figure(tmp_path):
    sweeps = swept(tmp_path, [0.2, 0.1, 0.0], 0.001)
    others = [(r.cfg, tmp_path / f"{at}") for r, at in zip(sweeps[1:], (0.8, 0.95), strict=True)]
    report(sweeps[0].cfg, tmp_path / "0.5", others)
    folder = tmp_path / "0.5/report"
    page = (folder / "report.md").read_text()
    assert "Does a stronger prior make fidelity fall more with size?" in page
    assert "points: yes (change -19." in page
    assert "No p can be under 0.0046" in page  # (1/6)^3
    assert (folder / "prior_strength-16x.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO((folder / "prior_strength.csv").read_text())))
    assert len(rows) == 3 * 3 * 3  # strengths x metrics x sizes
    one = next(r for r in rows if (r["at"], r["metric"], r["size"]) == ("0.8", KEPT, "l"))
    mean = np.mean([r.metrics[KEPT] for r in sweeps[1].rows if r.job.setup.size == "l"])
    assert float(one["mean"]) == pytest.approx(mean, abs=1e-5)
    assert float(one["low"]) < mean < float(one["high"])
    fewer = swept_at(0.8)
    fewer = dataclasses.replace(fewer, sweep=dataclasses.replace(fewer.sweep, sizes=("s",)))
    with pytest.raises(ConfigError, match="expected the same families and sizes"):
        report(sweeps[0].cfg, tmp_path / "0.5", [(fewer, tmp_path / "0.8")])
