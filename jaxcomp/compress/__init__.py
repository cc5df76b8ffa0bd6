"""The pair: a compressor, a connector and the decoder that reads what they wrote."""

from jaxcomp.compress.autoencoder import (
    AutoEncoder,
    Prefix,
    Targets,
    build,
    check_memory,
    trainable_filter,
)
from jaxcomp.compress.connector import Connector
from jaxcomp.compress.kinds import kind_of
from jaxcomp.compress.memory import Compressor, Memory

__all__ = [
    "AutoEncoder",
    "Compressor",
    "Connector",
    "Memory",
    "Prefix",
    "Targets",
    "build",
    "check_memory",
    "kind_of",
    "trainable_filter",
]
