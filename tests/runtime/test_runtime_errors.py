import errno

from jaxcomp.runtime.errors import chain
from jaxcomp.sweep.worker import _is_full


def test_a_ring_of_causes_ends():
    first, second = RuntimeError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(chain(first)) == [first, second]
    assert list(chain(None)) == []
    assert not _is_full(first)
    second.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert _is_full(first)
