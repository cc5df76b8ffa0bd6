"""What a decoder answers from a memory: the passage's, the world's, or neither. Real text."""

from jaxcomp.evals.qa.ask import Evaluated
from jaxcomp.evals.qa.filters import Rules
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.readers import read

__all__ = ["EvalError", "Evaluated", "Item", "Rules", "read"]
