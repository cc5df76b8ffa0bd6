"""The attention mask as a small specification."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mask(NamedTuple):
    """Which keys a query sees: same segment id, and (if causal) key index <= query index + offset.

    causal: Python bool. q_seg_BL, kv_seg_BS: int32 ids, 0 = padding (sees padding only).
    offset: int or int32 scalar, the index among the keys at which query 0 stands.
    packed: Python bool, False where no id is above 1 (one text a row).
    window: int32 scalar, how many places a query sees at most, its own among them; None: all.
    Padding between two places does not count, so that it changes nothing.
    """

    causal: bool
    q_seg_BL: jax.Array
    kv_seg_BS: jax.Array
    offset: jax.Array | int = 0
    packed: bool = True
    window: jax.Array | None = None

    def allowed_BLS(self) -> jax.Array:
        ok_BLS = self.q_seg_BL[:, :, None] == self.kv_seg_BS[:, None, :]
        if self.causal:
            L, S = ok_BLS.shape[1:]
            ok_BLS &= jnp.arange(S)[None, :] <= jnp.arange(L)[:, None] + self.offset
        if self.window is not None:
            rank_BS = self.rank_BS()
            L = ok_BLS.shape[1]
            rank_BL = jax.lax.dynamic_slice_in_dim(rank_BS, self.offset, L, axis=1)
            ok_BLS &= rank_BL[:, :, None] - rank_BS[:, None, :] < self.window
        return ok_BLS

    def rank_BS(self) -> jax.Array:
        """Of each key the number of real places up to it: a window's measure of distance."""
        return jnp.cumsum(self.kv_seg_BS > 0, axis=1, dtype=jnp.int32)
