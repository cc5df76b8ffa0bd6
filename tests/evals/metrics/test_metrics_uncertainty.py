import pytest

from jaxcomp.evals.eval_set import Sureness
from jaxcomp.evals.metrics import uncertainty


def test_sums_over_sums_on_both_paths():
    rows = [Sureness(2.0, 1.5, 2, 0.0, 3.0, 3), Sureness(6.0, 1.0, 4, 1.0, 0.5, 1)]
    assert uncertainty.measure(rows) == pytest.approx(
        {"entropy_source": 8 / 6, "top1_source": 2.5 / 6, "entropy_own": 1 / 4, "top1_own": 3.5 / 4}
    )
    assert uncertainty.measure([]) == dict.fromkeys(
        ["entropy_source", "top1_source", "entropy_own", "top1_own"]
    )


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([[[1, 2, 3], [1, 2, 3], [1, 2, 3]]], 1.0),
        ([[[1, 2], [3, 4]]], 0.0),
        ([[[1, 2, 3, 4], [1, 2]]], 0.5),  # too short costs
        ([[[2, 3], [1, 2, 3]]], 0.0),  # positions, not alignment
        ([[[], []], [[1], []]], 0.5),
        # pairs of the first: 1, 0, 0; second passage: 1. Mean of means.
        ([[[1], [1], [2]], [[5], [5]]], (1 / 3 + 1) / 2),
        ([[[1]], [[2]]], None),
        ([], None),
    ],
)
def test_agreement(samples, expected):
    got = uncertainty.agreement(samples)
    assert got is expected if expected is None else got == pytest.approx(expected)
