"""Minimal pairs.

With `jaxcomp eval --all`: rates of the drift evaluation (below) over the held-out texts.
"""

from jaxcomp.evals.metric import HIGHER, POOLED, TEACHER_FORCED, Metric, Show, declare

declare(
    __name__,
    Metric(
        "pairs/<dimension>/memory",
        "share",
        "pairs of which the passage is likelier than its twin, given the passage's memory / pairs",
        TEACHER_FORCED,
        POOLED,
        HIGHER,
    ),
    Metric(
        "pairs/<dimension>/no_memory",
        "share",
        "the same of the decoder without memory",
        TEACHER_FORCED,
        POOLED,
    ),
    Metric(
        "pairs/<dimension>/pair_accuracy",
        "share",
        "pairs of which each text is likelier from its own memory / pairs",
        TEACHER_FORCED,
        POOLED,
        HIGHER,
        shown=(
            Show(
                "pairs/all/pair_accuracy",
                "pair accuracy",
                100,
                meaning="minimal pairs of the held-out text of which each text is likelier from "
                "its own memory",
            ),
        ),
    ),
)
