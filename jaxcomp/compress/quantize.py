"""Quantisation of memory vectors: rounded to few bits, returned in float32.

Nothing is trained. Integers are symmetric and scaled by the largest absolute value of a group of
GROUP numbers of one vector; each group's scale is a bfloat16 number and counts as memory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

GROUP = 64
_SCALE_BITS = 16
_BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}
FORMATS = tuple(_BITS)


def bits(form: str, D: int) -> int:
    """Bits of one vector of width D, scales included."""
    scales = -(-D // GROUP) * _SCALE_BITS if form.startswith("int") else 0
    return _BITS[form] * D + scales


def quantise(vec_BMD: jax.Array, form: str) -> jax.Array:
    """`vec_BMD` (float32) rounded to a format of FORMATS. A group of zeros stays zero."""
    if form == "float32":
        return vec_BMD
    if form == "bfloat16":
        return vec_BMD.astype(jnp.bfloat16).astype(jnp.float32)
    most = 2 ** (_BITS[form] - 1) - 1
    parts = []
    for start in range(0, vec_BMD.shape[-1], GROUP):
        part = vec_BMD[..., start : start + GROUP]
        scale = jnp.max(jnp.abs(part), axis=-1, keepdims=True) / most
        scale = scale.astype(jnp.bfloat16).astype(jnp.float32)
        levels = jnp.clip(jnp.round(part / jnp.where(scale > 0, scale, 1.0)), -most, most)
        parts.append(levels * scale)
    return jnp.concatenate(parts, axis=-1)
