"""Checks of the way from text to memory: change some of the context and look at the vectors."""

from __future__ import annotations

import unicodedata

import numpy as np

from jaxcomp.compress.autoencoder import Memory
from jaxcomp.data.batches import REBUILD
from jaxcomp.evals.preview.batch import Preview, examples, padding
from jaxcomp.evals.preview.finding import Finding, healthy

FACTOR = 4.0  # how far apart the sizes of learned vectors and token embeddings may start
COMPARED = 16  # texts read back, of the batch and of the validation set each


def whole_text(p: Preview) -> Finding:
    """Only the first character or item of a context tokenised."""
    comp, dec = p.toks
    pairs = []
    rebuilt = (p.batch.mode_BO[:, 0] == REBUILD) & (p.batch.ctx_len_BG.sum(1) > 0)
    drawn = [e for e, keep in zip(examples(p.batch), rebuilt, strict=True) if keep]
    for example in drawn[:COMPARED] + p.val[:COMPARED]:
        context = comp.decode([t for ids in example.ctx for t in ids])
        pairs.append((context, dec.decode(example.target)))
    for context, target in pairs:
        if _plain(context) != _plain(target):
            return Finding(
                False,
                f"the segments hold {_start(context)} where the target is {_start(target)}",
                "segments that, joined, are the text to rebuild",
                "data/segments.py and data/examples.py: give the tokenizer the whole text",
            )
    return healthy(f"{len(pairs)} contexts read back as the text to rebuild")


def padding_unseen(p: Preview) -> Finding:
    """Memory tokens attending to padding."""
    ctx_BGT, len_BG = p.sample.ctx_BGT, p.sample.ctx_len_BG
    pad_BGT = padding(len_BG, ctx_BGT.shape[-1])
    spoiled = p.read(np.where(pad_BGT, p.others(ctx_BGT, 0), ctx_BGT), len_BG)
    moved = np.flatnonzero(_moved(p.memory, spoiled).any(axis=1))
    if moved.size:
        return Finding(
            False,
            f"other tokens in the padding changed the memory of {moved.size} of {p.rows} texts",
            "the same memory, bit for bit",
            "compress/memory.py: the mask of the context must end at its length",
        )
    return healthy(f"{int(pad_BGT.sum())} padded slots of {p.rows} texts changed: memory the same")


def count(p: Preview) -> Finding:
    """A ratio that gives the wrong number of vectors, such as 16x on 128 tokens giving 9."""
    G, T = p.sample.ctx_BGT.shape[1:]
    told = []
    for ratio in p.ratios:
        tried = np.clip([T, 1, ratio - 1, ratio, ratio + 1, T - 1, T // 2, 0], 0, T)
        len_BG = np.stack([np.roll(np.resize(tried, p.rows), -g) for g in range(G)], 1)
        seg_BM = p.read(p.sample.ctx_BGT, len_BG.astype(np.int32), ratio).seg_BM
        found_BG = (seg_BM.reshape(p.rows, G, -1) > 0).sum(2)
        wrong = np.argwhere(found_BG != -(-len_BG // ratio))
        if wrong.size:
            b, g = wrong[0]
            return Finding(
                False,
                f"{len_BG[b, g]} tokens at ratio {ratio} gave {found_BG[b, g]} vectors",
                f"{-(-len_BG[b, g] // ratio)}, the tokens over the ratio, rounded up",
                "compress/memory.py: count the valid vectors from the lengths",
            )
        told.append(f"{T} tokens give {T // ratio} at ratio {ratio}")
    return healthy("; ".join(told) + f"; shorter ones their part (lengths 0 to {T} tried)")


def whole_context(p: Preview) -> Finding:
    """Only the first token or item of a context compressed."""
    ctx_GT, len_G = p.sample.ctx_BGT[0], p.sample.ctx_len_BG[0]
    places = [
        (g, int(t))
        for g, length in enumerate(len_G)
        for t in np.unique(np.linspace(0, length - 1, p.rows).astype(int))
        if length
    ]
    same_BGT, len_BG = np.stack([ctx_GT] * p.rows), np.stack([len_G] * p.rows)
    before, unread = p.read(same_BGT, len_BG), []
    for start in range(0, len(places), p.rows):
        part, other_BGT = places[start : start + p.rows], same_BGT.copy()
        spoiled = p.others(same_BGT, 0)
        for b, (g, t) in enumerate(part):
            other_BGT[b, g, t] = spoiled[b, g, t]
        moved_BM = _moved(before, p.read(other_BGT, len_BG))
        unread += [place for b, place in enumerate(part) if not moved_BM[b].any()]
    if unread:
        g, t = unread[0]
        return Finding(
            False,
            f"{len(unread)} of {len(places)} tokens can change without a change of the memory "
            f"(the first: token {t + 1} of segment {g + 1})",
            "a memory that depends on every token of its context",
            "compress/memory.py: embed the whole row of every segment",
        )
    return healthy(f"{len(places)} tokens changed, one at a time: each changed the memory")


def apart(p: Preview) -> Finding:
    """Rows or segments that leak into each other."""
    ctx_BGT, len_BG = p.sample.ctx_BGT, p.sample.ctx_len_BG
    G = ctx_BGT.shape[1]
    other_BGT = ctx_BGT.copy()
    other_BGT[0] = p.others(ctx_BGT[0], 0)
    moved_BM = _moved(p.memory, p.read(other_BGT, len_BG))
    rows = np.flatnonzero(moved_BM[1:].any(axis=1))
    other_BGT = ctx_BGT.copy()
    other_BGT[:, -1] = p.others(ctx_BGT[:, -1], 0)
    moved_BGM = _moved(p.memory, p.read(other_BGT, len_BG)).reshape(p.rows, G, -1)
    if rows.size or moved_BGM[:, :-1].any():
        what = "another text of the batch" if rows.size else "another segment of its text"
        return Finding(
            False,
            f"the memory of a segment changed with {what}",
            "segments that are compressed each by itself",
            "compress/autoencoder.py: a segment is a row of its own in the compressor",
        )
    return healthy(f"{p.rows} texts of {G} segment(s): no memory changed with another's text")


def scale(p: Preview) -> Finding:
    """N(0, 1) memory tokens, tens of times the scale of token embeddings."""
    model, sizes, embeddings = p.model, [], "token embeddings"
    tables = (model.compressor.llm.table_VD(), model.decoder.table_VD())
    written = p.memory.vec_BMD[p.memory.seg_BM > 0]
    learned = [("memory vectors", written, embeddings, tables[1])]
    if model.per_layer:
        learned = [("memory vectors", written, "tokens' keys and values", p.keys_and_values)]
    if model.compressor.memory_tokens:
        learned.insert(0, ("memory tokens", model.compressor.mem_ME[...], embeddings, tables[0]))
    for what, x, beside, table in learned:
        times = _rms(x) / _rms(table)
        if not 1 / FACTOR <= times <= FACTOR:
            return Finding(
                False,
                f"{what} are {times:.3g} times the size of the {beside} beside them",
                f"between 1/{FACTOR:g} and {FACTOR:g} times (root mean squares)",
                "compress/memory.py, compress/connector.py: draw them at the embeddings' scale",
            )
        sizes.append(f"{what} {times:.2f} times their {beside}")
    return healthy(", ".join(sizes))


def _moved(before: Memory, after: Memory) -> np.ndarray:
    """Which memory slots differ in any bit: their vector, validity or position."""
    vec_BM, seg_BM, pos_BM = (
        np.not_equal(a, b) for a, b in zip(before[:3], after[:3], strict=True)
    )
    return vec_BM.any(axis=2) | seg_BM | pos_BM


def _rms(x: object) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def _plain(text: str) -> str:
    # A tokenizer may compose characters or drop the first space: no loss of text.
    return unicodedata.normalize("NFC", text).strip()


def _start(text: str, most: int = 24) -> str:
    return repr(text if len(text) <= most else text[:most] + "...")
