"""Minimal pairs.

With `jaxcomp eval --all`: rates of the drift evaluation (below) over the held-out texts.
"""

from functools import partial

from jaxcomp.evals.metric import HIGHER, POOLED, TEACHER_FORCED, Metric, Show, declare

_SHOWN = "minimal pairs of the held-out text of which each text is likelier from its own memory"
_share = partial(Metric, unit="share", run=TEACHER_FORCED, average=POOLED)

declare(
    __name__,
    _share(
        "pairs/<dimension>/memory",
        definition="pairs of which the passage is likelier than its twin, given the passage's "
        "memory / pairs",
        better=HIGHER,
    ),
    _share("pairs/<dimension>/no_memory", definition="the same of the decoder without memory"),
    _share(
        "pairs/<dimension>/pair_accuracy",
        definition="pairs of which each text is likelier from its own memory / pairs",
        better=HIGHER,
        shown=(Show("pair accuracy", 100, meaning=_SHOWN),),
    ),
)
