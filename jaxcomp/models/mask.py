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
    """

    causal: bool
    q_seg_BL: jax.Array
    kv_seg_BS: jax.Array
    offset: jax.Array | int = 0
    packed: bool = True

    def allowed_BLS(self) -> jax.Array:
        ok_BLS = self.q_seg_BL[:, :, None] == self.kv_seg_BS[:, None, :]
        if self.causal:
            L, S = ok_BLS.shape[1:]
            ok_BLS &= jnp.arange(S)[None, :] <= jnp.arange(L)[:, None] + self.offset
        return ok_BLS
