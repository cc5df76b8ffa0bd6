"""Where each word of a rebuilt text came from: a page of one run, to be looked at."""

from jaxcomp.dissect.main import Inspected, inspect

__all__ = ["Inspected", "inspect"]
