"""A trained pair at work: loading it, compressing and rebuilding text, handing it on."""

from jaxcomp.use.embeds import prompt_embeds
from jaxcomp.use.export import export
from jaxcomp.use.load import load
from jaxcomp.use.memory import Memory, MemoryFileError
from jaxcomp.use.pair import Pair, PairError, Score

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
