import errno

from jaxcomp.runtime.errors import chain
from jaxcomp.sweep.worker import _is_full


def raised(error, cause):
    error.__cause__ = cause
    return error


def test_a_chain_is_walked_through_causes_and_what_was_handled():
    inner, handled = OSError("inner"), KeyError("handled")
    outer = raised(ValueError("outer"), inner)
    outer.__context__ = handled
    assert list(chain(outer)) == [outer, inner, handled]
    assert list(chain(None)) == []


def test_a_ring_ends():
    first, second = RuntimeError("first"), ValueError("second")
    raised(first, second)
    raised(second, first)
    assert list(chain(first)) == [first, second]
    assert not _is_full(first)
    second.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert _is_full(first)
