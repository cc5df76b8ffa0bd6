"""What a decoder answers from a memory: the passage's, the world's, or neither. Real text."""

from jaxcomp.probe.asking import Probed
from jaxcomp.probe.filters import Rules
from jaxcomp.probe.items import Item, ProbeError
from jaxcomp.probe.readers import read

__all__ = ["Item", "ProbeError", "Probed", "Rules", "read"]
