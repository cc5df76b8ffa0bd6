"""Versions of metric definitions; results of another version are computed again.

Here, so that a command that measures nothing need not load what measures.
"""

EVALUATION = 5  # evals.evaluate
DRIFT = 3  # evals.tasks.drift
