"""Versions of what metrics mean. What was measured by another version is measured again.

Here, so that a command that measures nothing need not load what measures.
"""

EVALUATION = 3  # evals.evaluate
DRIFT = 2  # evals.tasks.drift
