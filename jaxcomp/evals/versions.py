"""Versions of what metrics mean. What was measured by another version is measured again.

Here, so that a command that measures nothing need not load what measures.
"""

EVALUATION = 2  # fidelity.evaluate
DRIFT = 1  # task.drift
