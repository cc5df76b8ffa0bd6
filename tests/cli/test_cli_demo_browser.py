"""The page of `jaxcomp demo --serve` as a person sees it: in a headless Chromium."""

import importlib.util
import socket
import subprocess
import sys
import time

import pytest
from browsing import FAINT, opened

pytestmark = pytest.mark.slow
LONG = "At the harbour they talked about ghosts. " * 20
REFUSED = {
    " ": "an empty text",
    "The dragon was red.": "not in the vocabulary of this world: dragon;",
    LONG: "a text of 160 tokens; expected at most 64",
}


@pytest.fixture(scope="module")
def place(browser, tmp_path_factory):
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("no gradio here: uv sync --extra demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jaxcomp.cli.main", "demo", "--serve", f"--port={port}"]
    folder = tmp_path_factory.mktemp("served")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def shown(browser, place):
    """A function: the page at a width, once the first text is rebuilt."""
    views = []

    def show(width=1400, **more):
        view, said = opened(browser, place, width, **more)
        views.append(view)
        view.wait_for_selector("h3:has-text('Rebuilt')", timeout=120_000)
        return view, said

    yield show
    for view in views:
        view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_is_legible_and_asks_no_other_machine(shown, place, width, scheme):
    asked = []
    view, said = shown(width, color_scheme=scheme)
    view.on("request", lambda request: asked.append(request.url))
    view.reload()
    view.wait_for_selector("h3:has-text('Rebuilt')")
    assert not said
    assert all(url.startswith((place, "data:", "blob:")) for url in asked)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(FAINT) == []
    assert view.title() == "jaxcomp demo"


def test_resting_on_a_word_says_how_sure_the_decoder_was(shown):
    view, _ = shown()
    titles = view.locator("[title*='with the memory']")
    assert titles.count() > 20
    assert view.get_by_title("overwritten; p = ").first.inner_text() == "red"


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_cannot_be_compressed_is_refused_in_a_sentence(shown, text):
    view, said = shown()
    view.get_by_label("Passage").fill(text)
    view.get_by_role("button", name="Rebuild").click()
    alert = view.wait_for_selector("[role=alert]")
    assert alert.inner_text().startswith(REFUSED[text])
    assert "Traceback" not in view.content()
    assert not said


def test_another_pair_is_shown_when_it_is_chosen(shown):
    view, said = shown()
    assert view.get_by_text("4 memory vectors").is_visible()
    view.get_by_label("64", exact=True).check()
    view.get_by_text("1 memory vector").wait_for()
    assert not said
