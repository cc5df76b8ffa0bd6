"""Sizes at equal loss: made runs in which what each size keeps at a loss is known."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxcomp.analysis import checkpoints_page
from jaxcomp.analysis.checkpoints_page import write
from jaxcomp.analysis.document import Answer
from jaxcomp.analysis.equal_loss import blocks, by_size, differing
from jaxcomp.analysis.verdict import ABSENT, PRESENT, THESE_BASES
from jaxcomp.cli import overrides
from jaxcomp.evals.checkpoints import Followed, Row

CFG = overrides.load("configs/tiny.py:full")
KEPT, FLOOR = (
    "counterfactual/nonfavourite/all/preserved",
    "counterfactual/no_memory/nonfavourite/all/preserved",
)

pytestmark = pytest.mark.usefixtures("undrawn")
SIZES = ("24", "40", "64")


def run(size, base_seed, kept_at, shift=0.0, passages=8, **changes):
    """Seven checkpoints; the larger the faster; what is kept is `kept_at(loss)`."""
    cfg = dataclasses.replace(CFG, compressor=f"llama/{size}", base_seed=base_seed, **changes)
    rows = []
    for i, loss in enumerate(np.linspace(2.0 - shift, 0.5 - shift, 7)):
        kept = float(kept_at(loss))
        metrics = {"ordinary/loss": float(loss), KEPT: kept, FLOOR: 0.0}
        made = [(10 * kept, 10.0)] * passages
        rows.append(Row(100 * (i + 1), metrics, made))
    return Followed(Path("."), cfg, rows, 0)


def runs(effects, base_seeds=(0, 1, 2), **kw):
    """`effects` are what each size keeps beside the first, at any loss."""
    return [
        run(size, b, lambda x, e=e, b=b: 0.6 - 0.2 * x + e + 0.01 * b, 0.1 * i, **kw)
        for b in base_seeds
        for i, (size, e) in enumerate(zip(SIZES, effects, strict=True))
    ]


@pytest.mark.parametrize(
    ("effects", "word"),
    [((0.0, -0.05, -0.1), PRESENT), ((0.0, 0.0, 0.0), ABSENT), ((0.0, 0.05, 0.1), ABSENT)],
)
def test_the_claim_is_what_was_planted(effects, word):
    found = by_size(runs(effects))
    for at in found:
        # All sizes are read at one loss, so what loss does to fidelity is gone.
        base = 0.6 - 0.2 * at.loss + 0.01
        assert [v.value for v in at.values] == pytest.approx([base + e for e in effects])
        assert [v.n for v in at.values] == [3, 3, 3]
        assert at.word == word
    assert found[0].loss > found[-1].loss > 0.5
    params = [p for _, _, p in found[0].setups]
    assert params == sorted(params)


def test_a_fall_that_is_only_the_loss_is_no_fall():
    """At the end of training the largest keeps least, but only because its loss is higher."""
    late = [
        run(size, b, lambda x: 0.6 - 0.2 * x, shift=-0.2 * i)
        for b in range(3)
        for i, size in enumerate(SIZES)
    ]
    ends = [r.rows[-1].metrics[KEPT] for r in late[:3]]
    assert ends == sorted(ends, reverse=True)
    last = by_size(late)[-1]
    assert last.word == ABSENT
    assert len({round(v.value, 9) for v in last.values}) == 1


def test_one_run_of_each_size_decides_nothing_and_its_interval_is_over_passages():
    found = by_size(runs((0.0, -0.05, -0.1), base_seeds=(0,)))[-1]
    assert found.word == THESE_BASES
    assert set(found.over) == {"passages of its one run"}
    for value, bounds in zip(found.values, found.bounds, strict=True):
        assert bounds == pytest.approx((value.value, value.value))  # all passages alike


def test_training_seeds_of_one_base_decide_nothing():
    made = [r for seed in range(4) for r in runs((0.0, -0.05, -0.1), base_seeds=(0,), seed=seed)]
    found = by_size(made)[-1]
    assert (found.word, found.worst, found.trend.rho) == (THESE_BASES, None, pytest.approx(-1))
    claim = blocks(made)[0]
    assert isinstance(claim, Answer)
    assert (claim.sign, claim.why[:41]) == (
        "Inconclusive",
        "One pretraining seed; Spearman's rho with",
    )


def test_passages_are_read_at_the_loss_too():
    """The interpolated sums give the interpolated rate."""
    rng = np.random.default_rng(0)
    made = runs((0.0, 0.0, 0.0), base_seeds=(0,))
    for r in made:
        for i, row in enumerate(r.rows):
            kept = rng.integers(0, 4, 40).astype(float)
            metrics = row.metrics | {KEPT: kept.sum() / 120}
            r.rows[i] = row._replace(metrics=metrics, passages=[(k, 3.0) for k in kept])
    for at in by_size(made):
        made_bounds: Any = at.bounds
        for value, bounds in zip(at.values, made_bounds, strict=True):
            assert bounds[0] < value.value < bounds[1]
            assert bounds[1] - bounds[0] < 0.25


def test_rounding_does_not_decide_whether_passages_count():
    """One fact a passage at both checkpoints: between them it is still one, to the last bit."""
    made = runs((0.0, 0.0, 0.0))
    for r in made:
        for i, row in enumerate(r.rows):
            r.rows[i] = row._replace(passages=[(0.3, 1.0), (0.7, 3.0)] * 20)
    assert all("passages" in over for at in by_size(made) for over in at.over)


def test_runs_of_other_passages_do_without_them():
    made = [*runs((0.0, 0.0, 0.0))[:-1], run("64", 2, lambda x: 0.5, 0.2, passages=5)]
    assert all("passages" not in over for at in by_size(made) for over in at.over)


def test_a_replicate_without_all_sizes_is_left_out():
    found = by_size(runs((0.0, -0.05, -0.1))[:-1])[-1]
    assert found.trend.replicates == 2
    assert found.word == THESE_BASES
    assert [v.n for v in found.values] == [3, 3, 2]


def test_only_runs_that_differ_in_size_and_seeds_are_compared():
    made = runs((0.0, 0.0, 0.0))
    assert differing([r.cfg for r in made]) == []
    optim = dataclasses.replace(CFG.train.optim, lr=1.0)
    pretrain = dataclasses.replace(CFG.pretrain.optim, steps=7)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("memory.ratio", {"memory": dataclasses.replace(CFG.memory, ratio=64)}),
        ("train.optim.lr", {"train": dataclasses.replace(CFG.train, optim=optim)}),
        ("train.objective", {"train": dataclasses.replace(CFG.train, objective="continue")}),
        ("pretrain.optim.steps", {"pretrain": dataclasses.replace(CFG.pretrain, optim=pretrain)}),
        ("folders.decoder", {"folders": {"decoder": "jaxcomp/assets/decoders/decoder-s1"}}),
    ]
    for path, changes in cases:
        other = run("24", 3, lambda x: 0.5, **changes)
        assert differing([r.cfg for r in [*made, other]]) == [path]
        (said,) = blocks([*made, other])
        assert "Not compared by size" in str(said)
        assert path in str(said)
    shape = dataclasses.replace(CFG.families["llama"]["24"], hidden_size=32)
    families = {"llama": CFG.families["llama"] | {"24": shape}}
    other = run("24", 3, lambda x: 0.5, families=families)
    assert differing([made[0].cfg, other.cfg]) == ["families.llama/24"]
    side = dataclasses.replace(CFG.train, checkpoint_every=7, remat="full", loss_chunk=8)
    assert differing([made[0].cfg, run("24", 3, lambda x: 0.5, train=side, name="x").cfg]) == []
    shipped = {"decoder": "jaxcomp/assets/decoders/decoder-s0"}  # the one that CFG finds by itself
    assert differing([made[0].cfg, run("24", 3, lambda x: 0.5, folders=shipped).cfg]) == []
    assert blocks(made[:1]) == []
    assert by_size([run("24", b, lambda x: 0.5) for b in range(3)]) == []


def test_the_document_has_the_claim_and_the_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints_page, "overlaps", lambda runs: {})
    write(runs((0.0, -0.05, -0.1)), tmp_path)
    text = (tmp_path / "checkpoints.md").read_text()
    assert "larger compressors have fewer counterfactual facts preserved? Yes.** 3 pretr" in text
    assert (tmp_path / "equal-loss.png").read_bytes().startswith(b"\x89PNG")
