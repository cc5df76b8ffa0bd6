"""Similarity of the memory spaces of several compressors, pair by pair, on the same passages.

All memories are in the decoder's width D, so their subspaces can be compared directly (principal
angles), and their geometry up to rotation and scale (CKA).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from flax import nnx
from scipy.linalg import subspace_angles

from jaxcomp.config import config_hash
from jaxcomp.data.batches import batch_examples, eval_examples
from jaxcomp.data.sources import source_of
from jaxcomp.evals.checkpoints import Followed
from jaxcomp.inference import decode
from jaxcomp.inference.load import open_run
from jaxcomp.runtime.sharding import on_host, put_batch, use_mesh, whole_batch
from jaxcomp.training.compressor import load_run, tokenizers
from jaxcomp.training.loop import mesh_for

SHARE = 0.9  # of the centred variance that a subspace holds


class Memories(NamedTuple):
    """The memories of a run. `of` names what the vectors stand for: the passages, in the
    compressor's tokens, and the ratio."""

    vec_WD: np.ndarray
    of: str


def overlaps(runs: Sequence[Followed]) -> dict[tuple[int, int], Overlap | None]:
    """By the numbers of two runs, i < j; None where their memories are not of the same passages
    vector by vector, or are of other widths (another ratio, other text, another tokenizer, another
    kind of memory)."""
    every = [memories(run) for run in runs]
    return {
        (i, j): overlap(one.vec_WD, other.vec_WD) if alike(one, other) else None
        for j, other in enumerate(every)
        for i, one in enumerate(every[:j])
    }


def alike(one: Memories, other: Memories) -> bool:
    return one.of == other.of and one.vec_WD.shape == other.vec_WD.shape


def memories(run: Followed) -> Memories:
    """Every valid vector of the last held-out set, passage by passage, float32."""
    cfg, root = open_run(run.place, **run.moved)
    name = source_of(cfg).measured[-1]
    mesh = mesh_for(cfg)
    with use_mesh(mesh):
        graphdef, state = nnx.split(load_run(cfg, run.place, root=root))
        examples = eval_examples(cfg, name, *tokenizers(cfg, root))
        found = []
        for batch, valid in batch_examples(examples, whole_batch(cfg.eval.batch, mesh), cfg):
            put = put_batch(batch, mesh)
            memory = decode.read(graphdef, state, put.ctx_BGT, put.ctx_len_BG, cfg.memory.ratio)
            vec_BMD, seg_BM = on_host((memory.vec_BMD, memory.seg_BM))
            found.append(vec_BMD[:valid][seg_BM[:valid] > 0])
    of = config_hash([cfg.memory.ratio, [[e.text, e.ctx] for e in examples]])
    return Memories(np.concatenate(found).astype(np.float32), of)


# --- two memories ------------------------------------------------------------------------------


class Overlap(NamedTuple):
    """Of the memories x and y of the same passages, vector by vector."""

    cka: float  # linear, debiased; 1: equal up to rotation and scale, about 0: unrelated
    cosine: float  # mean cosine of the principal angles of the two main subspaces
    chance: float  # what random subspaces of these dimensions give, root mean square
    dimensions: tuple[int, int]  # directions that hold SHARE of the variance of x and of y


def overlap(x_WD: np.ndarray, y_WD: np.ndarray) -> Overlap:
    """Linear CKA (Kornblith et al. 2019, debiased as Nguyen et al. 2021, with the HSIC of Song et
    al. 2012) and principal angles (Bjorck & Golub 1973) of two centred sets of vectors.

    Args:
        x_WD, y_WD: vectors of the same passages and positions, in the same order.

    Raises:
        ValueError: other shapes than two equal matrices of at least four vectors.
    """
    if x_WD.shape != y_WD.shape or x_WD.ndim != 2 or len(x_WD) < 4:
        raise ValueError(
            f"overlap of memories of shapes {x_WD.shape} and {y_WD.shape}; expected the same "
            "passages at the same ratio in both, four vectors or more"
        )
    x_WD, y_WD = (np.asarray(v, np.float64) - np.mean(v, axis=0) for v in (x_WD, y_WD))
    bases = [_main(v) for v in (x_WD, y_WD)]
    p, q = (b.shape[1] for b in bases)
    if not p or not q:
        return Overlap(float("nan"), float("nan"), float("nan"), (p, q))
    cosine = float(np.mean(np.cos(subspace_angles(*bases))))
    # E of the mean squared cosine of the min(p, q) angles of random subspaces is max(p, q) / D.
    chance = float(np.sqrt(max(p, q) / x_WD.shape[1]))
    return Overlap(cka(x_WD, y_WD), cosine, chance, (p, q))


def cka(x_WD: np.ndarray, y_WD: np.ndarray) -> float:
    """Debiased linear CKA; NaN where one does not vary."""
    both, own_x, own_y = _hsic(x_WD, y_WD), _hsic(x_WD, x_WD), _hsic(y_WD, y_WD)
    return float(both / np.sqrt(own_x * own_y)) if own_x > 0 and own_y > 0 else float("nan")


def _hsic(x_WD: np.ndarray, y_WD: np.ndarray) -> float:
    """n (n - 3) times the unbiased HSIC of the linear kernels, in O(W D^2) for W vectors."""
    n = len(x_WD)
    # With K and L the kernels without their diagonals: tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2))
    # - 2 / (n-2) 1'KL1. Nothing of size W x W is made.
    a, b = (x_WD**2).sum(1), (y_WD**2).sum(1)
    trace = ((x_WD.T @ y_WD) ** 2).sum() - a @ b
    rows_x, rows_y = (v @ v.sum(0) - (v**2).sum(1) for v in (x_WD, y_WD))
    return float(
        trace + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows_x @ rows_y
    )


def _main(x_WD: np.ndarray) -> np.ndarray:
    """An orthonormal basis (D x directions) of the fewest directions that hold SHARE."""
    _, s_S, v_SD = np.linalg.svd(x_WD, full_matrices=False)
    power_S = s_S**2
    if not power_S.sum() > 0:
        return np.zeros((x_WD.shape[1], 0))
    held_S = np.cumsum(power_S) / power_S.sum()
    return v_SD[: int(np.searchsorted(held_S, SHARE - 1e-12)) + 1].T
