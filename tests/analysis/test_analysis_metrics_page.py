"""docs/metrics.md is what the declarations say."""

from pathlib import Path

from jaxcomp.analysis import metrics_page

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_made_of_the_declarations():
    made = metrics_page.page()
    assert DOCS.read_text() == made, (
        "docs/metrics.md is stale: python -m jaxcomp.analysis.metrics_page > docs/metrics.md"
    )


def test_every_placeholder_is_explained():
    assert set(metrics_page.MEANINGS) == set(metrics_page.PLACEHOLDERS)
