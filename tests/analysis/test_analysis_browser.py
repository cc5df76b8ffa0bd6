"""The report as a person sees it: in a headless Chromium, at the widths of a phone and a screen."""

import re
import shutil

import pytest
from sweep.sweep_stub import config
from test_analysis_report import fill

from jaxcomp.analysis.document import Example, Para, Part, page
from jaxcomp.analysis.report import report
from jaxcomp.evals import inspect_page
from jaxcomp.runtime.pages import DARK, LIGHT

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="uv sync --group browser")
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    cfg = config(base_seeds=(0, 1, 2))
    fill(cfg, folder, failed=["toy-m-r4-b1-s0"])
    report(cfg, folder)
    parts = [Part("Alice hit ", ""), Part("Bob" * 60, "omitted"), Part(" twice.", "")]
    example = page("Examples", [Para("x"), Example("4x: best", parts, parts)])
    (folder / "example.html").write_text(example)
    inspected = inspect_page.html_of(inspect_page.Content("Inspect", {}, {}))
    (folder / "inspect.html").write_text(inspected)
    names = ("report/report.html", "example.html", "inspect.html")
    return [folder / name for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_nothing_overflows_and_the_console_is_silent(browser, pages, number, width):
    view = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(pages[number].as_uri())
    if number == 0:
        view.wait_for_selector(".panel svg")
    assert not said
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.title()
    for image in view.query_selector_all("svg.marks"):
        assert image.evaluate("e => e.closest('[aria-label]') !== null")
    view.close()


@pytest.mark.slow
def test_a_point_says_its_setup_and_leads_to_its_row(browser, pages):
    view = browser.new_page(viewport={"width": 1400, "height": 900})
    view.goto(pages[0].as_uri())
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
