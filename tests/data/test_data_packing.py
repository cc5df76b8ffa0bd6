"""Documents into rows: nothing is lost, nothing is cut, copies stand beside their originals."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.data import prepare
from jaxcomp.data.packing import best_fit, pack_documents


@given(st.lists(st.integers(0, 30), max_size=60))
@settings(deadline=None)
def test_best_fit_places_every_document_once(lengths):
    rows = best_fit(lengths, 30)
    assert sorted(d for r in rows for d in r) == [d for d, n in enumerate(lengths) if n]
    assert all(0 < sum(lengths[d] for d in r) <= 30 for r in rows)
    # No two rows could be one.
    fills = sorted(sum(lengths[d] for d in r) for r in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > 30


@given(st.lists(st.integers(1, 40), min_size=1, max_size=25), st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None)
def test_packing_keeps_every_token_and_restarts_positions(lengths, copy_fraction, seed):
    heads = [np.arange(2, 2 + n) for n in lengths]
    ends = np.cumsum(lengths)
    none = np.zeros(0, np.int64)
    block = prepare.LmBlock(np.concatenate(heads), ends, none, np.zeros(len(ends), np.int64))
    tok, seg, pos = pack_documents(block, np.random.default_rng(seed), 24, copy_fraction, 1)
    total = 0
    for r in range(len(tok)):
        used = int((seg[r] > 0).sum())
        assert not tok[r, used:].any()
        assert not seg[r, used:].any()
        for s in range(1, seg[r].max() + 1):
            at = np.flatnonzero(seg[r] == s)
            ids = tok[r, at]
            assert at[-1] - at[0] + 1 == len(at)  # contiguous
            assert pos[r, at].tolist() == list(range(len(at)))
            total += len(at)
            if (ids == 1).sum() == 2:  # a copy: two equal halves, both ended
                half = len(ids) // 2
                assert ids[:half].tolist() == ids[half:].tolist()
                assert ids[half - 1] == 1
    if copy_fraction == 0.0:
        assert total == sum(lengths) + len(lengths)
