"""The metrics page is made of what the metrics declare."""

from jaxcomp.analysis import metrics_page
from jaxcomp.evals.metrics import every


def test_the_page_defines_every_metric():
    page = metrics_page.page()
    for measure in every():
        for one in measure.metrics:
            assert f"| `{one.name}` | {one.unit} |" in page


def test_every_placeholder_is_explained():
    assert set(metrics_page.MEANINGS) == set(metrics_page.PLACEHOLDERS)
