"""What a decoder believes: the passage's memory, or the world? Questions about real text."""

from jaxcomp.probe.conflicts import run, table
from jaxcomp.probe.items import Item, ProbeError, read

__all__ = ["Item", "ProbeError", "read", "run", "table"]
