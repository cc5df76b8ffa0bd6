"""The table of checks. Each breaks something on purpose and looks whether it matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxcomp.evals.preview import loss, measures, memory
from jaxcomp.evals.preview.batch import Preview
from jaxcomp.evals.preview.finding import Finding


class Check(NamedTuple):
    """`run`'s docstring names the bug."""

    name: str
    run: Callable[[Preview], Finding]


CHECKS = (
    Check("the whole text is in the segments", memory.whole_text),
    Check("the whole context is in the memory", memory.whole_context),
    Check("number of memory vectors", memory.count),
    Check("memory ignores padding", memory.padding_unseen),
    Check("texts are compressed apart", memory.apart),
    Check("scale of the memory", memory.scale),
    Check("the decoder reads no padding", loss.empty_unread),
    Check("the decoder reads all memory", loss.memory_read),
    Check("labels", loss.labels),
    Check("no loss on padding", loss.padding_free),
    Check("the loss is a mean over labels", loss.mean),
    Check("frozen parts stay", loss.frozen),
    Check("trained parts learn", loss.learns),
    Check("evaluation scores what is trained", measures.agreement),
    Check("rebuilds are free-running", measures.free_running),
    Check("direction of BLEU", measures.bleu),
    Check("a trained pair runs by itself", measures.runs_by_itself),
)


def examine(preview: Preview) -> dict[str, Finding]:
    """Every check's finding, by name."""
    return {check.name: check.run(preview) for check in CHECKS}
