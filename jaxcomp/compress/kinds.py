"""The memory kinds by name: `memory.kind` chooses one.

Each is a class that is built as `Compressor` (kind `append`) is, and that answers
`(ctx_BT, len_B, ratio=...)` with a `Memory`.
"""

from __future__ import annotations

from jaxcomp.compress.interleave import Interleave
from jaxcomp.compress.kv import PerLayer
from jaxcomp.compress.memory import Compressor
from jaxcomp.compress.pool import Pool
from jaxcomp.config import ConfigError, MemoryConfig

KINDS: dict[str, type[Compressor]] = {
    "append": Compressor,
    "interleave": Interleave,
    "pool": Pool,
    "kv": PerLayer,
}


def kind_of(memory: MemoryConfig) -> type[Compressor]:
    """The strategy `memory.kind` names. Raises ConfigError that lists the known ones."""
    if memory.kind not in KINDS:
        raise ConfigError(
            f"memory.kind = {memory.kind!r} is unknown; expected one of: {', '.join(sorted(KINDS))}"
        )
    return KINDS[memory.kind]
