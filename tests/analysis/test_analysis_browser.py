"""The pages as a person sees them: in a headless Chromium, as wide as a phone and as a screen."""

import dataclasses
import random
import re
import time

import numpy as np
import pytest
import test_analysis_compare as comparison
import test_analysis_relations as relations
from browsing import COVERED, FAINT, opened
from evals.test_evals_inspect import traced
from sweep.plan.test_plan_main import FakeCompiler
from sweep.sweep_stub import config
from test_analysis_report import fill

from jaxcomp.analysis import checkpoints_page, plan_page
from jaxcomp.analysis.document import Example, Para, Part, page
from jaxcomp.analysis.report import report
from jaxcomp.cli import overrides
from jaxcomp.config import ModelConfig
from jaxcomp.evals import inspect_page
from jaxcomp.runtime.pages import DARK, LIGHT
from jaxcomp.sweep.plan.main import plan
from jaxcomp.sweep.plan.topology import GIB

PAGES = ("report", "comparison", "checkpoints", "inspect", "plan", "example")
WIDTHS = (400, 1400)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The place of each page, by its name."""
    folder = tmp_path_factory.mktemp("pages")
    out = {name: folder / f"{name}.html" for name in PAGES}
    cfg = config(base_seeds=(0, 1, 2))
    fill(cfg, folder, failed=["toy-m-r4-b1-s0"])
    out["report"] = report(cfg, folder).folder / "report.html"
    comparison.swept(folder, [0.2, 0.1, 0.0], noise=0.05)
    first, *others = [(comparison.swept_at(at), folder / f"{at}") for at in (0.5, 0.8, 0.95)]
    out["comparison"] = report(*first, others).folder / "report.html"
    rng = np.random.default_rng(5)
    loss = np.linspace(2, 0.5, 8)
    passages = np.stack([rng.binomial(3, 0.5, (8, 20)), np.full((8, 20), 3)], axis=-1)
    runs = [relations.run(loss + 0.1 * i, loss + i, 1 - loss / 3, passages) for i in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints_page, "overlaps", lambda runs: {})
        out["checkpoints"] = checkpoints_page.write(runs, folder)
    traces = [traced(i, random.Random(i)) for i in range(5)]
    content = inspect_page.Content("Inspect", {}, {"ordinary": traces})
    out["inspect"].write_text(inspect_page.html_of(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXCOMP_CACHE", str(folder))
        fake = FakeCompiler(200 * GIB)
        cfg = overrides.load("configs/paper.py:ratio=16")
        rows = plan(cfg, ["v5e:2x4", "v5p:4x4x4"], compile=fake, out=lambda _: None)
    plan_page.write(rows, None, str(folder / "plan.md"))
    parts = [Part("Alice hit ", ""), Part("Bob" * 60, "omitted"), Part(" twice.", "")]
    example = page("Examples", [Para("x"), Example("4x: best", parts, parts)])
    out["example"].write_text(example)
    return {name: place.as_uri() for name, place in out.items()}


def unfolded(view):
    """All of a page, every chart drawn."""
    view.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    view.wait_for_function(
        "[...document.querySelectorAll('.panel')].every(p => p.querySelector('svg'))"
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_overflows_or_is_covered_and_the_console_is_silent(browser, pages, name, width):
    asked = []
    view, said = opened(browser, pages[name], width)
    view.on("request", lambda request: asked.append(request.url))
    view.reload()
    unfolded(view)
    assert not said
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(COVERED) == []
    assert view.title()
    for image in view.query_selector_all("svg.marks"):
        assert image.evaluate("e => e.closest('[aria-label]') !== null")
    view.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_text_has_the_contrast_of_wcag_aa(browser, pages, name, scheme):
    view, _ = opened(browser, pages[name], color_scheme=scheme)
    unfolded(view)
    assert view.evaluate(FAINT) == []
    view.close()


@pytest.mark.slow
def test_paper_is_white_and_has_no_folds(browser, pages):
    view, said = opened(browser, pages["report"], color_scheme="dark")
    view.emulate_media(media="print", color_scheme="dark")
    view.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not view.query_selector_all("details:not([open])")
    widths = "[...document.querySelectorAll('.panel')].map(p => p.querySelector('svg').clientWidth)"
    assert min(view.evaluate(widths)) > 200
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    view.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not view.query_selector_all("details[open]")
    assert view.pdf().startswith(b"%PDF")
    assert not said
    view.close()


@pytest.mark.slow
def test_a_point_says_its_setup_and_leads_to_its_row(browser, pages):
    view, _ = opened(browser, pages["report"])
    point = view.wait_for_selector(".panel .mark-symbol path")
    point.hover()
    tip = view.wait_for_selector("#vg-tooltip-element.visible")
    said = tip.inner_text()
    assert "toy" in said
    assert "95% interval" in said
    assert "pretraining seeds" in said
    point.click()
    assert "#setup-toy-" in view.url
    assert view.evaluate("document.querySelector(':target') !== null")
    assert view.evaluate("document.querySelector(':target').closest('details').open")
    view.close()


@pytest.mark.slow
def test_the_passages_of_inspect_are_sorted_by_what_is_asked(browser, pages):
    view, _ = opened(browser, pages["inspect"])
    lost = "[...document.querySelectorAll('#passages tbody tr')].map(row => +row.dataset.lost)"
    view.click("button[data-by=lost]")
    found = view.evaluate(lost)
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 1
    view.close()


@pytest.mark.slow
def test_the_page_of_a_thousand_jobs_is_small_and_can_be_filtered(browser, tmp_path):
    cfg = config(base_seeds=tuple(range(37)), ratios=(4, 16, 64))
    sizes = {f"{width}": ModelConfig(hidden_size=width) for width in range(16, 160, 16)}
    cfg = dataclasses.replace(cfg, families={"toy": sizes})
    fill(cfg, tmp_path, skip=["toy-16-r4-b0-s0"], failed=["toy-16-r4-b1-s0"])
    for row in (tmp_path / "ledger").iterdir():
        (tmp_path / "jobs" / row.stem).mkdir(parents=True)
    file = report(cfg, tmp_path).folder / "report.html"
    assert file.stat().st_size < 5e6
    view, said = opened(browser, file.as_uri(), 400)
    start = time.monotonic()
    view.reload()
    view.wait_for_selector(".panel svg")
    assert time.monotonic() - start < 20  # about 1 s where nothing else runs
    assert view.get_by_text("1 of 999 jobs failed").is_visible()
    unfolded(view)
    assert not said
    assert view.evaluate("document.documentElement.scrollWidth") <= 400
    table = view.locator("section", has=view.get_by_text("parameters", exact=True)).last
    rows = table.locator("tbody tr:visible")
    assert rows.count() == 27
    table.get_by_role("searchbox").fill("48 4x")
    assert rows.count() == 1, rows.all_inner_texts()
    assert rows.first.get_by_role("link").count() == 37
    view.close()


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_has_the_contrast_of_wcag_aa(theme):
    """Text, links and the names of series: 4.5 to 1."""
    for name, colour in theme.items():
        if re.fullmatch(r"ink|soft|link|c\d", name):
            high, low = sorted((luminance(colour), luminance(theme["paper"])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, name
