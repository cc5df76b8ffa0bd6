"""Minimal pairs.

With `jaxcomp eval --all`: rates of the drift evaluation (below) over the held-out texts.
"""

from jaxcomp.evals.metric import HIGHER, Show, declare, forced

_SHOWN = "minimal pairs of the held-out text of which each text is likelier from its own memory"

declare(
    __name__,
    forced(
        "pairs/<dimension>/memory",
        "share",
        "pairs of which the passage is likelier than its foil, given the passage's memory / pairs",
        HIGHER,
    ),
    forced("pairs/<dimension>/no_memory", "share", "the same of the decoder without memory"),
    forced(
        "pairs/<dimension>/pair_accuracy",
        "share",
        "pairs of which each text is likelier from its own memory / pairs",
        HIGHER,
        shown=(Show("pair accuracy", 100, meaning=_SHOWN),),
    ),
)
