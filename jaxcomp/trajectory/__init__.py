"""One run along its saved checkpoints, and several runs at equal loss."""

from jaxcomp.trajectory.main import Followed, Row, follow
from jaxcomp.trajectory.page import write

__all__ = ["Followed", "Row", "follow", "write"]
