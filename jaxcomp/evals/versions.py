"""Versions of what metrics mean. What was measured by another version is measured again.

Here, so that a command that measures nothing need not load what measures.
"""

EVALUATION = 2  # evals.evaluate
DRIFT = 1  # evals.tasks.drift
