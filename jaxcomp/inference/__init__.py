"""Use of a trained pair: load, compress, reconstruct, ask, score, export."""

from jaxcomp.inference.export import export, prompt_embeds
from jaxcomp.inference.load import load
from jaxcomp.inference.memory import Memory, MemoryFileError
from jaxcomp.inference.pair import Pair, PairError, Score

__all__ = [
    "Memory",
    "MemoryFileError",
    "Pair",
    "PairError",
    "Score",
    "export",
    "load",
    "prompt_embeds",
]
