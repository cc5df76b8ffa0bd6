import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from sweep.sweep_stub import config

from jaxcomp.analysis import charts, compare_runs, document, figures, stats
from jaxcomp.analysis import tables as results
from jaxcomp.analysis.answer import answer
from jaxcomp.analysis.report import report
from jaxcomp.analysis.stats import Point
from jaxcomp.config import Config, ConfigError, DataConfig
from jaxcomp.evals import bootstrap
from jaxcomp.evals.bootstrap import ratio_interval
from jaxcomp.evals.metrics import headlines
from jaxcomp.sweep import collect, grid
from jaxcomp.sweep.store import DONE, FAILED, Ledger

pytestmark = pytest.mark.usefixtures("undrawn")


def fill(cfg, workdir, trend=-0.1, skip=(), failed=()):
    """A ledger in which loss falls with size and facts kept follow `trend`."""
    ledger = Ledger(workdir)
    rng = np.random.default_rng(0)
    for job in grid.expand(cfg):
        if job.id in skip:
            continue
        if job.id in failed:
            ledger.write(job, FAILED, error="ValueError: <planted> | failure")
            continue
        size = grid.model(job.config).hidden_size
        base = {h.metric: float(rng.random()) for h in headlines(cfg)}
        step = np.log2(size) + 0.01 * rng.random()
        metrics = base | {
            "params": size * 100,
            "params_body": size,
            "val_loss": 1.0 / 3,
            "ordinary/loss": 2 - 0.1 * step,
            "ordinary/no_memory/loss": 2.5,
            "ordinary/passage_bits": 60.0,
            "counterfactual/nonfavourite/all/preserved": 0.9 + trend * step,
        }
        ledger.write(job, DONE, metrics=metrics, intervals={}, timings={"train_s": rng.random()})


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_report_of_a_planted_paradox(tmp_path, drawn):
    cfg = config(base_seeds=(0, 1, 2, 3, 4, 5))
    fill(cfg, tmp_path)
    written = report(cfg, tmp_path)
    assert written.sentence.startswith("Does a larger compressor lose faithfulness? Yes.")
    assert "(6 pretraining seeds)" in written.sentence
    assert (written.done, written.failed, written.missing) == (24, (), ())
    folder = tmp_path / "report"
    html, short = ((folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert not re.search(r"<script[^>]*src=|<link|@import", html)  # nothing from elsewhere
    assert "default-src &#39;none&#39;" in html
    assert len(html) < 2e6
    for name in ("main", "main-dark", "mechanisms"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.png").stat().st_size < 150_000
    assert (folder / "main.pdf").read_bytes().startswith(b"%PDF")
    assert "**Does a larger compressor lose faithfulness? Yes.**" in short
    assert "sign flips" in html


@pytest.mark.parametrize("trend", [0.1, 0.0])
def test_the_answer_follows_the_numbers(tmp_path, trend):
    cfg = config(base_seeds=(0, 1, 2, 3, 4, 5))
    fill(cfg, tmp_path, trend)
    found = answer(collect.collect(cfg, Ledger(tmp_path)))
    assert found.sign == "No"
    assert "a fall by 5 percentage points is excluded" in found.why
    assert ("preserved rises" in found.why) == (trend > 0)
    assert "toy s → m: loss " in found.numbers


def test_an_answer_without_a_primary_ratio_or_a_finished_size(tmp_path):
    cfg = config(ratios=(4,))
    fill(cfg, tmp_path)
    found = answer(collect.collect(cfg, Ledger(tmp_path)))
    assert (found.sign, found.why) == (
        "Inconclusive",
        "The primary ratio, 16x, is not in this grid.",
    )
    cfg = config()
    fill(cfg, tmp_path / "b", skip=[j.id for j in grid.expand(cfg) if j.setup.size == "s"])
    found = answer(collect.collect(cfg, Ledger(tmp_path / "b")))
    assert "No pretraining seed has a finished run of every size" in found.why


def test_one_size_is_no_comparison_and_is_not_called_unfinished(tmp_path):
    cfg = config(base_seeds=(0,), seeds=(0,))
    one = dataclasses.replace(cfg, sweep=dataclasses.replace(cfg.sweep, sizes=("s",)))
    fill(one, tmp_path)
    assert report(one, tmp_path).sentence == (
        "Does a larger compressor lose faithfulness? Inconclusive. This sweep has one size only; a "
        "comparison needs two or more. Run two or more sizes (--sweep.sizes=s,m)."
    )
    page = (tmp_path / "report/report.html").read_text()
    assert "settle it:</strong> Run two or more sizes (--sweep.sizes=s,m)." in page
    alone = dataclasses.replace(cfg, families={"toy": {"s": cfg.families["toy"]["s"]}})
    found = answer(collect.collect(alone, Ledger(tmp_path)))
    assert found.settle == "Add a size to `families`."


def test_a_ratio_without_a_finished_size_is_not_called_underpowered(tmp_path):
    cfg = config(base_seeds=(0, 1, 2))
    fill(cfg, tmp_path, skip=[j.id for j in grid.expand(cfg) if j.setup.ratio == 4])
    found = answer(collect.collect(cfg, Ledger(tmp_path)))
    assert found.others == "Other ratios (Holm-adjusted): not measured for every size at 4x."


def test_an_unfinished_sweep_says_what_is_missing_and_what_failed(tmp_path):
    cfg = config()
    fill(cfg, tmp_path, skip=["toy-s-r4-b0-s0"], failed=["toy-m-r4-b1-s0"])
    written = report(cfg, tmp_path)
    assert written.missing == ("toy-s-r4-b0-s0",)
    assert "2 pretraining seeds per size cannot answer it" in written.sentence
    page = (tmp_path / "report/report.html").read_text()
    assert "1 of 8 jobs is missing from this report." in page
    assert "toy-m-r4-b1-s0: ValueError: &lt;planted&gt; | failure" in page
    assert "&lt;planted&gt; \\| failure" in (tmp_path / "report/report.md").read_text()
    assert page.index("1 of 8 jobs failed") < page.index("Inconclusive")
    assert len(rows((tmp_path / "report/results.csv").read_text())) == 6


def test_a_report_needs_neither_data_nor_models(tmp_path, monkeypatch):
    file = tmp_path / "text.txt"
    file.write_text("Some text.")
    data = DataConfig(source="text", path="text.txt")
    cfg = dataclasses.replace(config(), data=data)
    monkeypatch.chdir(tmp_path)
    Ledger(tmp_path / "w").open(cfg)
    fill(cfg, tmp_path / "w")
    assert report(cfg, tmp_path / "w").done == 8
    made = (tmp_path / "w/report/results.csv").read_bytes()
    file.unlink()
    monkeypatch.chdir("/")
    assert report(cfg, tmp_path / "w").done == 8
    assert (tmp_path / "w/report/results.csv").read_bytes() == made


def other_decoder(cfg):
    reference = dataclasses.replace(cfg.decoder.reference, hidden_size=72)
    return dataclasses.replace(
        cfg, name="second", decoder=dataclasses.replace(cfg.decoder, reference=reference)
    )


@pytest.mark.parametrize(("trend", "claimed"), [(-0.1, "yes"), (0.1, "no"), (0.0, "no")])
def test_an_effect_is_claimed_only_where_both_decoders_show_it(tmp_path, trend, claimed):
    cfg = config(base_seeds=(0, 1, 2, 3, 4, 5))
    fill(cfg, tmp_path / "a")
    assert report(cfg, tmp_path / "a").done == 24
    second = other_decoder(cfg)
    fill(second, tmp_path / "b", trend)
    report(cfg, tmp_path / "a", [(second, tmp_path / "b")])
    page = (tmp_path / "a/report/report.md").read_text()
    row = next(
        r for r in page.splitlines() if r.startswith("| counterfactual facts preserved | 16x")
    )
    assert row.endswith(f"| {claimed} |")
    assert ("counterfactual facts preserved falls at 16x" in page) == (claimed == "yes")
    assert "loss falls at 16x" in page
    with pytest.raises(ConfigError, match="has the same decoder"):
        report(cfg, tmp_path / "a", [(cfg, tmp_path / "b")])
    fewer = dataclasses.replace(second, sweep=dataclasses.replace(cfg.sweep, sizes=("s",)))
    with pytest.raises(ConfigError, match="expected the same families and sizes"):
        report(cfg, tmp_path / "a", [(fewer, tmp_path / "b")])


def test_several_decoders_are_different_ones_and_all_must_show_it(tmp_path):
    cfg = config(base_seeds=(0, 1, 2, 3, 4, 5))
    second = other_decoder(cfg)
    decoder = dataclasses.replace(cfg.decoder, seed=5)
    third = dataclasses.replace(cfg, name="third", decoder=decoder)
    for name, made, trend in (("a", cfg, -0.1), ("b", second, -0.1), ("c", third, 0.1)):
        fill(made, tmp_path / name, trend)
    others = [(second, tmp_path / "b"), (third, tmp_path / "c")]
    report(cfg, tmp_path / "a", others)
    page = (tmp_path / "a/report/report.md").read_text()
    (said,) = (x for x in page.splitlines() if "against all 3 decoders" in x)
    assert "loss falls at 16x" in said
    assert "facts kept" not in said  # it rises against the third
    again = dataclasses.replace(second, name="again")
    with pytest.raises(ConfigError, match="second and again have the same decoder"):
        report(cfg, tmp_path / "a", [*others, (again, tmp_path / "b")])


def test_nothing_is_written_where_a_later_comparison_is_refused(tmp_path):
    shipped = {"decoder": "jaxcomp/assets/decoders/decoder-s0"}
    cfg = dataclasses.replace(config(ratios=(16,)), folders=shipped)
    stronger, scrambled = (
        dataclasses.replace(cfg, world=dataclasses.replace(cfg.world, **world))
        for world in ({"prior_strength": 0.5}, {"base_scrambled": True})
    )
    for name, made in (("a", cfg), ("b", stronger), ("c", scrambled)):
        fill(made, tmp_path / name)
    others = [(stronger, tmp_path / "b"), *[(scrambled, tmp_path / "c")] * 2]
    with pytest.raises(ConfigError, match="expected each of them once"):
        report(cfg, tmp_path / "a", others)
    assert not (tmp_path / "a/report").exists()
    report(cfg, tmp_path / "a", others[:2])
    assert {"prior_strength.csv", "mismatch.csv"} <= {
        p.name for p in (tmp_path / "a/report").iterdir()
    }


def test_no_effect_is_claimed_where_the_order_of_sizes_changes():
    def made(values, bases=3, seeds=1):
        return [
            Point("a", s, 10.0**i, b, t, v + 0.001 * b)
            for i, (s, v) in enumerate(zip("wxyz", values, strict=True))
            for b in range(bases)
            for t in range(seeds)
        ]

    one, other = made((1.0, 2.0, 3.0, 4.0)), made((1.0, 2.0, 4.0, 3.0))
    first, second = stats.trend(one), stats.trend(other)
    assert stats.way(first) == stats.way(second) == "rises"
    orders = compare_runs.order(one), compare_runs.order(other)
    assert orders == ("a w < x < y < z", "a w < x < z < y")
    assert compare_runs.Pair("kept", 16, first, second, (orders[0], orders[0])).claimed
    assert not compare_runs.Pair("kept", 16, first, second, orders).claimed
    few = stats.trend(made((1.0, 2.0, 3.0, 4.0), bases=2, seeds=2))  # four runs, two bases
    assert not compare_runs.Pair("kept", 16, first, few, (orders[0], orders[0])).claimed
    assert compare_runs.cell(few) == "+1.00"


def test_the_rate_is_tuned_per_setup_over_its_replicates(tmp_path):
    cfg = config(ratios=(16,), lr_grid=(0.5, 1.0, 2.0), lr_ratios=(16,), base_seeds=(0, 1))
    ledger = Ledger(tmp_path)
    # Replicate 0 alone would take 0.5, and 1 has its best rate at 2; size m diverged once at 2.
    losses = {0: {0.5: 1.0, 1.0: 1.2, 2.0: 1.4}, 1: {0.5: 2.0, 1.0: 1.1, 2.0: 1.0}}
    for job in grid.expand(cfg):
        loss = losses[job.base_seed][job.lr_multiple]
        diverged = (job.setup.size, job.base_seed, job.lr_multiple) == ("m", 1, 2.0)
        metrics = {"params": 1, "params_body": 1, "val_loss": None if diverged else loss}
        ledger.write(job, DONE, metrics={"val_loss": None} if diverged else metrics)
    tuned = [r.tuned for r in collect.collect(cfg, ledger).rows]
    assert [t and t[0].lr_multiple for t in tuned] == [1.0] * 4
    assert "m,16,1,0" in results.lr_grid_csv(collect.collect(cfg, ledger))
    (tmp_path / "ledger" / "toy-s-r16-b0-s0-lr2x.json").unlink()
    tuned = {r.job.id: r.tuned for r in collect.collect(cfg, ledger).rows}
    assert tuned["toy-s-r16-b1-s0"] is None  # until the whole grid of the setup is done
    assert tuned["toy-m-r16-b1-s0"] is not None


def test_an_empty_sweep_still_has_a_report(tmp_path):
    written = report(config(), tmp_path)
    assert len(written.missing) == 8
    assert written.sentence == "No job has finished yet."
    assert "No job has finished yet." in (tmp_path / "report/report.md").read_text()


def test_one_job_is_not_counted_in_the_plural(tmp_path):
    cfg = config(base_seeds=(0,), seeds=(0,), ratios=(16,))
    cfg = dataclasses.replace(cfg, sweep=dataclasses.replace(cfg.sweep, sizes=("s",)))
    report(cfg, tmp_path)
    assert (
        "**1 of 1 job is missing from this report.**" in (tmp_path / "report/report.md").read_text()
    )


def test_csv_is_stable_sorted_and_without_timings(tmp_path):
    cfg = config()
    fill(cfg, tmp_path)
    text = results.results_csv(collect.collect(cfg, Ledger(tmp_path)))
    found = rows(text)
    assert [(r["size"], r["ratio"], r["base_seed"]) for r in found] == [
        (s, r, b) for s in ("s", "m") for r in ("4", "16") for b in ("0", "1")
    ]
    assert {r["val_loss"] for r in found} == {"0.333333"}
    assert not any("train_s" in name for name in found[0])
    fill(cfg, tmp_path)
    assert results.results_csv(collect.collect(cfg, Ledger(tmp_path))) == text


def test_cells():
    assert [results.text(v) for v in (None, float("nan"), 0.1 + 0.2, 3, 1e-9, "x")] == [
        "", "", "0.3", "3", "1e-09", "x",
    ]  # fmt: skip


def test_equal_values_have_ticks_of_enough_digits_and_names_apart():
    same = [{"x": 27_504, "value": 2.43, "series": name} for name in ("llama", "qwen3")]
    *_, points, names = charts.lines(same, "Rank", "parameters", "directions", log=True)["layer"]
    x, y = (points["encoding"][name] for name in "xy")
    assert (x["axis"]["values"], x["axis"]["format"]) == ([27_504], ".2~s")
    low, high = y["scale"]["domain"]
    assert low < 2.4 < 2.5 < high
    below, above = (row["value"] for row in names["data"]["values"])
    assert above - below > 0.05 * (high - low)
    shares = [p | {"value": 1.0} for p in same]
    panel = charts.lines(shares, "Preserved", "parameters", "", log=True, share=True)
    assert panel["layer"][0]["encoding"]["y"]["scale"]["domain"] == [0.9, 1.0]


def test_bars_are_over_replicates_or_else_over_passages(tmp_path):
    loss = headlines(Config())[0]
    cfg = config(base_seeds=(0,), ratios=(4,))
    ledger = Ledger(tmp_path)
    fill(cfg, tmp_path)
    for job in grid.expand(cfg):
        row = ledger.row(job)
        assert row is not None
        bounds = {"ordinary/loss": (1.0, 2.0)}
        ledger.write(job, DONE, metrics=row["metrics"], intervals=bounds, timings={})
    found = figures.sizes(collect.collect(cfg, ledger), loss, 4)
    assert [(f["low"], f["high"]) for f in found] == [(1.0, 2.0), (1.0, 2.0)]
    many = config(base_seeds=(0, 1, 2), ratios=(4,))
    fill(many, tmp_path / "many")
    found = figures.sizes(collect.collect(many, Ledger(tmp_path / "many")), loss, 4)
    assert len(found) == 2
    assert all(f["low"] < f["value"] < f["high"] for f in found)


def test_one_seed_shows_no_interval_and_no_p_value(tmp_path):
    for name, seeds in (("many", (0, 1, 2)), ("one", (0,))):
        cfg = config(base_seeds=seeds)
        fill(cfg, tmp_path / name)
        report(cfg, tmp_path / name)
        page = (tmp_path / name / "report/report.html").read_text()
        body = page[page.index("<body") : page.index("<h2>Definitions")]
        assert ("± half" in body) == ("sign flips" in body) == (name == "many")
        assert "(n = " not in body
    found = rows((tmp_path / "many/report/pairs.csv").read_text())
    assert [(r["metric"], r["ratio"], r["small"], r["large"], r["p_least"]) for r in found] == [
        (m, r, "s", "m", "0.25")
        for m in ("ordinary/loss", "counterfactual/nonfavourite/all/preserved")
        for r in ("4", "16")
    ]
    assert all(float(r["low"]) < float(r["change"]) < float(r["high"]) for r in found)


def test_names_with_marks_of_html_and_markdown_are_text(tmp_path):
    odd = "<img src=x>|*a*`b`"
    cfg = config(base_seeds=(0,), ratios=(16,))
    cfg = dataclasses.replace(cfg, name=odd)
    fill(cfg, tmp_path)
    report(cfg, tmp_path)
    page, short = ((tmp_path / f"report/report.{k}").read_text() for k in ("html", "md"))
    assert "<img" not in page + short
    assert "&lt;img src=x&gt;|*a*`b`</h1>" in page
    assert r"&lt;img src=x&gt;\|\*a\*\`b\`" in short


def test_a_tooltip_names_what_vega_would_read_as_a_path(drawn):
    odd = {"the bases' [text].x": "1"}
    point = {"x": 1, "value": 2.0, "series": "it's", "about": odd}
    chart = charts.Chart("a", [[charts.lines([point], "t", "x", "y")]], "alt")
    assert charts.png(chart).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("p < 0.001, q > 0.5", "p < 0.001, q > 0.5"),
        ("run `a --b=<c> *d*`", "run `a --b=<c> *d*`"),
        ("an <img> and `<b>`", "an &lt;img&gt; and `<b>`"),
        ("`` <b> `", "`` &lt;b&gt; `"),
        (r"\`<b>`", r"\`&lt;b&gt;`"),
    ],
)
def test_markdown_escapes_html_but_neither_code_nor_comparisons(text, shown):
    assert document.markdown("t", [document.Para(text)]) == f"# t\n\n{shown}\n"


def test_markdown_has_examples_as_text_and_no_hints_of_the_page():
    source = [document.Part("The <b> kite\n was "), document.Part("red", "omitted")]
    example = document.Example("16x", source, [document.Part("None.")])
    blocks = [document.Para("Passages.", "Coloured."), example]
    short = document.markdown("t", blocks)
    assert short == (
        "# t\n\nPassages.\n\n### 16x\n\n- Source: The &lt;b&gt; kite was red\n- Rebuilt: None.\n"
    )
    assert "<p>Passages. Coloured.</p>" in document.page("t", blocks)


def passage_lines(value, facts, kept, shift=0):
    """Twenty ordinary passages of that mean loss, and as many of `facts` facts, `kept` in all."""
    made = [
        {"set": "ordinary", "id": f"o{i + shift}", "loss": value, "targets": 9} for i in range(20)
    ]
    for i in range(20):
        mine = kept // 20 + (i < kept % 20)
        counts = {"nonfavourite/all/preserved": mine, "nonfavourite/all/omitted": facts - mine}
        made.append(
            {"set": "counterfactual", "id": f"c{i + shift}", "counts": counts, "text": "\x85"}
        )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in made)


def test_passages_enter_where_every_run_has_the_same_ones(tmp_path):
    cfg = config(base_seeds=(0, 1, 2), ratios=(16,))
    ledger = Ledger(tmp_path)
    for k, job in enumerate(grid.expand(cfg)):
        kept, loss = 40 + 3 * k, 1.0 + 0.1 * k
        size = grid.model(job.config).hidden_size
        metrics = {
            "params": size,
            "ordinary/loss": loss,
            "counterfactual/nonfavourite/all/preserved": kept / 100,
        }
        ledger.write(job, DONE, metrics=metrics, intervals={}, timings={})
        folder = tmp_path / "jobs" / job.id
        folder.mkdir(parents=True)
        (folder / "passages.jsonl").write_text(passage_lines(loss, 5, kept), encoding="utf-8")

    def read():
        return collect.with_passages(collect.collect(cfg, ledger), tmp_path).rows

    for row in read():
        for metric, (top, bottom) in row.sums.items():
            assert top.sum() / bottom.sum() == pytest.approx(row.metrics[metric])
        assert len(row.sums) == 2
    report(cfg, tmp_path)
    page = (tmp_path / "report/report.html").read_text()
    assert "p over passages" in page
    assert rows((tmp_path / "report/pairs.csv").read_text())[0]["p_passages"] != ""
    path = tmp_path / "jobs" / "toy-m-r16-b2-s0" / "passages.jsonl"
    for other in (passage_lines(1.5, 5, 55, shift=1), passage_lines(1.5, 5, 54), None):
        path.write_text(other or "", encoding="utf-8")
        assert not any(row.sums for row in read())  # other passages, another number, none
    path.unlink()
    assert not any(row.sums for row in read())
    path.write_text('{"set": "ord')
    with pytest.raises(ConfigError, match=r"passages\.jsonl, line 1: not JSON"):
        read()


def test_intervals_over_passages_hold_the_metric():
    rng = np.random.default_rng(1)
    records, top, bottom = [], 0.0, 0
    for _ in range(60):
        n, kept = 5, int(rng.integers(0, 6))
        loss, targets = float(rng.random()), int(rng.integers(1, 9))
        top, bottom = top + loss * targets, bottom + targets
        counts = {"nonfavourite/all/preserved": kept, "nonfavourite/all/omitted": n - kept}
        records.append({"set": "ordinary", "loss": loss, "targets": targets, "counts": counts})
    share = sum(r["counts"]["nonfavourite/all/preserved"] for r in records) / 300
    metrics = {"ordinary/loss": top / bottom, "ordinary/nonfavourite/all/preserved": share}
    names = [*metrics, "ordinary/rank", "counterfactual/overwriting"]
    found = bootstrap.intervals(records, metrics, names)
    assert set(found) == set(metrics)
    for name, (low, high) in found.items():
        assert low < metrics[name] < high
    # Not measurable: no rate, so no interval either.
    edits = [{"set": "edits", "outcome": "kept", "control": False}] * 3
    assert bootstrap.intervals(edits, {"edits/all/preserved": None}, ["edits/all/preserved"]) == {}


def test_interval_width_is_that_of_the_binomial():
    hits = np.repeat([0.0, 1.0], 200)
    bounds = ratio_interval(hits, np.ones(400))
    assert bounds is not None
    assert bounds[1] - bounds[0] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
