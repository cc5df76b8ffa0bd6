"""Memories as prompt embeddings, which servers such as vLLM take in the place of tokens."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from jaxcomp.inference.format import ExportError
from jaxcomp.inference.memory import Memory
from jaxcomp.inference.pair import NO_PROMPT, Pair
from jaxcomp.models.safetensors import save_tensors


def prompt_embeds(pair: Pair, memory: Memory, out: Path, *, question: str | None = None) -> None:
    """Writes what the decoder reads before it rebuilds each text of `memory` (or answers
    `question`): one bfloat16 tensor [P, D] a text, named by its id, in the safetensors file `out`.

    A server gives a prompt the position ids 0, 1, 2, ...: ExportError for a compressor that was
    trained to be read at others (`memory.positions` = spread), and for one whose memory is no
    embeddings (`memory.kind` = kv).
    """
    if pair.model.per_layer:
        raise ExportError(NO_PROMPT)
    if pair.model.compressor.positions != "consecutive":
        raise ExportError(
            f"this compressor was trained with memory.positions = "
            f"{pair.model.compressor.positions}: its vectors stand at position ids that a server "
            "cannot be given; train one with --memory.positions=consecutive"
        )
    if len(set(memory.ids)) != len(memory):
        raise ExportError("two texts have one id; compress them with ids of their own")
    rows = pair.prompts(memory, question)
    tensors = {
        name: np.ascontiguousarray(row.astype(ml_dtypes.bfloat16))
        for name, row in zip(memory.ids, rows, strict=True)
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, out)
