"""Checks from memory to loss, and of one training step."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.data.objectives import OBJECTIVES
from jaxcomp.evals.preview.batch import Preview, group_of, padding
from jaxcomp.evals.preview.check import Finding, check
from jaxcomp.runtime.sharding import put_batch
from jaxcomp.training.optim import LAYERS

# Of float32 (or bfloat16) derivatives and sums; the wrong label or weight is of order 1.
TOLERANCE = 0.02
CHUNK = 64  # labels whose logits are on the host at a time


@check(
    "the decoder reads all memory, no more",
    "every valid vector read by the target; padding (segment id 0) that nothing attends to",
    "compress/autoencoder.py, models/attention.py: valid vectors share the target's segment id",
)
def memory_read(p: Preview) -> Finding:
    """Memory vectors that the decoder cannot see; all-ones masks, by which it reads empty slots."""
    valid_RM = np.repeat(p.memory.seg_BM > 0, p.sample.tok_len_BO.shape[1], axis=0)
    ask, len_R = p.ask(p.sample), p.sample.tok_len_BO.reshape(-1)
    at_R = np.where(len_R > 0, p.prefix - 2 + len_R, -1)  # the state that predicts the last label
    ask = ask._replace(weights_BO=np.zeros_like(ask.weights_BO), decoder_B=at_R)
    reads_RM = p.listen(p.sample, ask).decoder.read_BS[:, 1 : p.prefix - 2]
    meant_RM = valid_RM & (len_R[:, None] > 0)
    read, count = int((meant_RM & reads_RM).sum()), int(meant_RM.sum())
    slots, empty = int((~valid_RM & reads_RM).sum()), int((~valid_RM).sum())
    others = p.rebuild(p.sample._replace(ctx_BGT=p.others(p.sample.ctx_BGT, 0)))
    leaks = sum(a.no_memory.nll != b.no_memory.nll for a, b in zip(p.rebuilt, others, strict=True))
    return Finding(
        read == count and not slots + leaks,
        f"{read} of {count} memory vectors and {slots} of {empty} empty slots reach the last "
        f"label; without the memory, {leaks} of {len(others)} losses change with the text",
    )


@check(
    "labels",
    "token l predicted once by the state before it, the first by the marker, to the end",
    "compress/autoencoder.py (targets), training/loss.py: shift labels and mask alike",
)
def labels(p: Preview) -> Finding:
    """Labels or their mask shifted: each token is predicted once, by the state before it."""
    tok_BOL, len_BO = p.sample.tok_BOL, p.sample.tok_len_BO
    wrong, count, counted = _wrong_labels(p), int(len_BO.sum()), _counted(p)
    middle_BO = len_BO // 2
    at_BOL = np.arange(tok_BOL.shape[2]) == middle_BO[:, :, None]
    other = p.sample._replace(tok_BOL=np.where(at_BOL, p.others(tok_BOL, 1), tok_BOL))
    moved_RS = (p.heard.decoder.hidden_BSD != p.listen(other).decoder.hidden_BSD).any(axis=2)
    # The state at P - 1 + l predicts token l.
    knew_RS = np.arange(moved_RS.shape[1]) <= p.prefix - 1 + middle_BO.reshape(-1, 1)
    early = int((moved_RS & knew_RS).any(axis=1).sum())
    before = int(p.heard.decoder.used_BS[:, : p.prefix - 1].sum())
    return Finding(
        not wrong + early + before and counted >= count,
        f"{counted} labels counted of {count}; {wrong} not learned by the state before them, "
        f"{early} known to it; {before} states before the marker carry loss",
    )


@check(
    "no loss on padding",
    "no loss beyond the end token",
    "compress/autoencoder.py (valid_RL), training/loss.py: mask labels by their lengths",
)
def padding_free(p: Preview) -> Finding:
    """Loss on padding."""
    tok_BOL, len_BO = p.sample.tok_BOL, p.sample.tok_len_BO
    pad_BOL = padding(len_BO, tok_BOL.shape[2])
    other = p.sample._replace(tok_BOL=np.where(pad_BOL, p.others(tok_BOL, 1), tok_BOL))
    changed = int((p.listen(other).nll_BO != p.heard.nll_BO).sum())
    used_RL = p.heard.decoder.used_BS[:, p.prefix - 1 :]
    carries = int((used_RL & pad_BOL.reshape(used_RL.shape)).sum())
    counted, count = _counted(p), int(len_BO.sum())
    return Finding(
        not carries + changed and counted <= count,
        f"{carries} of {int(pad_BOL.sum())} padded positions carry loss; other tokens there "
        f"changed {changed} losses; {counted} labels counted of {count}",
    )


@check(
    "the loss is a mean over labels",
    "the sum of the labels' losses over the number of labels",
    "training/loss.py (weights): divide by the count of real labels of the whole batch",
)
def mean(p: Preview) -> Finding:
    """A loss divided by padding, or by rows of unequal length."""
    if OBJECTIVES[p.cfg.train.objective].own_weights:
        return Finding(None, "the objective gives its labels weights of its own")
    o, nll, len_BO = p.objective, p.heard.nll_BO.astype(np.float64), p.sample.tok_len_BO
    shares, expected = o.shares or {None: 1.0}, 0.0
    for mode, part in shares.items():
        mine = len_BO if mode is None else np.where(p.sample.mode_BO == mode, len_BO, 0)
        expected += part * float(nll[mine > 0].sum()) / max(int(mine.sum()), 1)
    weights_BO = jax.device_get(o.weights(put_batch(p.sample, p.mesh)))
    heard = p.listen(p.sample, p.ask(p.sample)._replace(weights_BO=weights_BO))
    found = float(o.metrics(jnp.asarray(heard.sums_K))["loss"])
    return Finding(
        abs(found - expected) <= 1e-3 * abs(expected),
        f"training reports {found:.4f} nats, the mean over {int(len_BO.sum())} labels is "
        f"{expected:.4f}",
    )


@check(
    "a step moves what is trained, no more",
    "a step that moves every part that is trained, and leaves the same bits elsewhere",
    "compress/autoencoder.py (trainable_filter), or a gradient that is cut off",
)
def learns(p: Preview) -> Finding:
    """A decoder claimed frozen, but tuned; parts that are meant to learn, and do not."""
    cfg, (before, after) = p.cfg, p.step
    towers = ("compressor: ", "decoder", "markers")
    wanted = {group for group in map(group_of, before) if not group.startswith(towers)}
    wanted |= {"decoder"} if cfg.train.train_decoder else set()
    wanted |= {"markers"} if p.run.marker_steps > 0 else set()
    tower = {"compressor: embeddings", "compressor: attention", "compressor: MLP"}
    last = {"compressor: attention", "compressor: MLP"}
    of_tower = {"tower": tower, "last_layer": last, "connector": set()}[cfg.memory.trained]
    wanted |= {"compressor: LoRA"} if cfg.memory.lora.rank > 0 else of_tower
    moved = {group_of(x) for x in before if not np.array_equal(before[x], after[x])}
    layers = [x for x in before if p.run.last_layer and x.startswith(LAYERS)]
    if any(not np.array_equal(before[x][:-1], after[x][:-1]) for x in layers):
        moved |= {"layers before the last"}
    still = {"decoder", "markers", "layers before the last", *tower}
    left, changed = wanted - moved, (moved - wanted) & still
    found = f"one step moved {', '.join(sorted(moved))}"
    found += f"; it left {', '.join(sorted(left))}" if left else ""
    found += f"; {', '.join(sorted(changed))} should stay" if changed else ""
    return Finding(not left | changed, found)


def _counted(p: Preview) -> int:
    """Labels that the objective counted, to rebuild and to continue."""
    return round(float(p.heard.sums_K[3] + p.heard.sums_K[6]))


def _wrong_labels(p: Preview) -> int:
    """Labels of which the derivative is not that of their own cross-entropy."""
    label_RL = p.sample.tok_BOL.reshape(-1, p.sample.tok_BOL.shape[2])
    tower, head_VD = p.heard.decoder, np.asarray(p.model.decoder.head_VD(), np.float32)
    wrong = 0
    for r, length in enumerate(p.sample.tok_len_BO.reshape(-1)):
        at = slice(p.prefix - 1, p.prefix - 1 + length)
        found_LD = np.asarray(tower.by_state_BSD[r, at], np.float32)
        parts = list(slopes(np.asarray(tower.hidden_BSD[r, at]), head_VD, label_RL[r, :length]))
        if parts:
            expected_LD = np.concatenate([slope_LD for slope_LD, _ in parts])
            most = TOLERANCE * np.linalg.norm(expected_LD, axis=1).max()
            wrong += int((np.linalg.norm(found_LD - expected_LD, axis=1) > most).sum())
    return wrong


def slopes(
    hidden_LD: np.ndarray, head_VD: np.ndarray, label_L: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """d nll / d hidden and nll (nats) of labels, CHUNK at a time: the textbook's cross-entropy."""
    for start in range(0, len(label_L), CHUNK):
        hidden = hidden_LD[start : start + CHUNK].astype(np.float32)
        label = label_L[start : start + CHUNK]
        logits = hidden @ head_VD.T
        logits -= logits.max(axis=1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows = np.arange(len(label))
        p = np.exp(logp)
        p[rows, label] -= 1
        yield p @ head_VD, -logp[rows, label]
