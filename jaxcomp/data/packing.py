"""Documents packed into rows for language modelling, nearly without padding."""

from __future__ import annotations

import numpy as np

from jaxcomp.data.prepare import LmBlock


def pack_documents(
    block: LmBlock, rng: np.random.Generator, L: int, copy_fraction: float, eos_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (tok_NL, seg_NL, pos_NL) of int32 that hold every document of the block, shuffled.

    A document is "head tail <eos>", or with probability `copy_fraction` "head <eos> head <eos>".
    One that is longer than a row is first cut into nearly equal parts that fit; only the last part
    of a plain document has the end token, every copied part repeats with both. Segment ids are
    1, 2, ... within a row, positions restart at 0 with each.
    """
    documents = _documents(block, rng, L, copy_fraction, eos_id)
    rows = best_fit([len(d) for d in documents], L)
    tok_NL, seg_NL, pos_NL = (np.zeros((len(rows), L), np.int32) for _ in range(3))
    ramp = np.arange(L, dtype=np.int32)
    for target, row in zip(rng.permutation(len(rows)), rows, strict=True):
        at = 0
        for segment, d in enumerate(row, 1):
            end = at + len(documents[d])
            tok_NL[target, at:end] = documents[d]
            seg_NL[target, at:end] = segment
            pos_NL[target, at:end] = ramp[: end - at]
            at = end
    return tok_NL, seg_NL, pos_NL


def best_fit(lengths: list[int], L: int) -> list[list[int]]:
    """Best-fit decreasing bin packing: rows of document numbers, each at most L tokens in all."""
    rows: list[list[int]] = []
    # rows_with[c]: rows with room for c more tokens; `open_` has bit c set where there are any.
    rows_with: list[list[int]] = [[] for _ in range(L + 1)]
    open_ = 0
    for d in sorted(range(len(lengths)), key=lambda d: -lengths[d]):
        need = lengths[d]
        fitting = open_ >> need
        if need and fitting:
            room = need + (fitting & -fitting).bit_length() - 1
            row = rows_with[room].pop()
            if not rows_with[room]:
                open_ &= ~(1 << room)
            rows[row].append(d)
        elif need:
            room, row = L, len(rows)
            rows.append([d])
        else:
            continue
        left = room - need
        rows_with[left].append(row)
        open_ |= 1 << left
    return rows


def _documents(block: LmBlock, rng, L: int, copy_fraction: float, eos_id: int) -> list[np.ndarray]:
    heads, tails = (_rows(block.head, block.head_end_N), _rows(block.tail, block.tail_end_N))
    copies = rng.random(len(heads)) < copy_fraction
    end = np.array([eos_id], block.head.dtype)
    out: list[np.ndarray] = []
    for head, tail, copy in zip(heads, tails, copies, strict=True):
        if not len(head):
            continue
        if copy:
            parts = _parts(head, (L - 2) // 2)
            out += [np.concatenate([p, end, p, end]) for p in parts]
        else:
            out += _parts(np.concatenate([head, tail, end]), L)
    return out


def _rows(flat: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, ends[:-1]) if len(ends) else []


def _parts(ids: np.ndarray, most: int) -> list[np.ndarray]:
    # Nearly equal, so that no crumb of a few tokens is left over.
    return np.array_split(ids, -(-len(ids) // most))
