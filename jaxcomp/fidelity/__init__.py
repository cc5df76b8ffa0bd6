"""What survived of a text in its memory: measured on a trained pair, which is only read."""

from jaxcomp.fidelity.evaluate import Evaluation, evaluate, validation_loss

__all__ = ["Evaluation", "evaluate", "validation_loss"]
