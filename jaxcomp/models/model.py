"""One transformer for every family (families.py): declared once, layers stacked and scanned."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from jaxcomp.config import ConfigError, LoraConfig, ModelConfig
from jaxcomp.models.attention import Sight, attention, cached, sight, windows
from jaxcomp.models.block import (
    PROJECTIONS,
    Block,
    KeyValues,
    KVOverride,
    Leaf,
    apply_rope,
    layer_leaves,
    norm_leaf,
    rms_norm,
)
from jaxcomp.models.config import check
from jaxcomp.models.families import family
from jaxcomp.models.lora import Lora, init_lora
from jaxcomp.models.mask import Mask
from jaxcomp.runtime.sharding import SPECS, check_model, constrain, platform

REMAT = ("none", "full", "offload")


def top_leaves(cfg: ModelConfig) -> dict[str, Leaf]:
    """Parameters outside the layers."""
    V, D = cfg.vocab_size, cfg.hidden_size
    # 1/sqrt(D): with a normalised hidden state the first logits have unit variance.
    leaves = {"emb": Leaf((V, D), "emb_VD", D**-0.5), "norm": norm_leaf(cfg)}
    if not cfg.tie_word_embeddings:
        leaves["head"] = Leaf((V, D), "emb_VD", D**-0.5)
    return leaves


def count_params(cfg: ModelConfig) -> int:
    """Number of parameters, a tied output matrix counted once."""
    top = sum(math.prod(leaf.shape) for leaf in top_leaves(cfg).values())
    layer = sum(math.prod(leaf.shape) for leaf in layer_leaves(cfg).values())
    return top + cfg.num_hidden_layers * layer


def _draw(key: jax.Array, leaves: dict[str, Leaf], dtype: Any) -> dict[str, jax.Array]:
    """Every leaf cut from one long draw: a generator per leaf would take seconds to compile."""
    sizes = {name: math.prod(leaf.shape) for name, leaf in leaves.items() if leaf.std}
    # 0.8796 is the standard deviation of a normal truncated at two of its own.
    unit = jax.random.truncated_normal(key, -2, 2, (sum(sizes.values()),)) / 0.87962566
    out, start = {}, 0
    for name, leaf in leaves.items():
        value = jnp.full(leaf.shape, leaf.fill)
        if leaf.std:
            value = unit[start : start + sizes[name]].reshape(leaf.shape) * leaf.std
            start += sizes[name]
        out[name] = constrain(value.astype(dtype), leaf.spec)
    return out


@functools.partial(jax.jit, static_argnames=("cfg", "dtype"))
def init_params(key: jax.Array, cfg: ModelConfig, dtype: Any) -> dict[str, jax.Array]:
    """Arrays by name ("emb", "layers.q", ...) on the active mesh, the same on every mesh.

    Only one layer (and the embeddings) is ever whole on a device.
    """
    top_key, layer_key = jax.random.split(key)
    out = _draw(top_key, top_leaves(cfg), dtype)
    keys_Y = jax.random.split(layer_key, cfg.num_hidden_layers)
    stacked = jax.lax.map(lambda k: _draw(k, layer_leaves(cfg), dtype), keys_Y)
    return out | {f"layers.{name}": x for name, x in stacked.items()}


class Cache(NamedTuple):
    """Keys and values of every layer, their segment ids (0 = unused), and how many are written.

    Heads before positions: a step then attends to them as they lie (on CPUs decoding a batch of 64
    takes 0.7 times as long as with positions first, which each step would transpose).
    """

    k_YBKSH: jax.Array
    v_YBKSH: jax.Array
    seg_BS: jax.Array
    length: jax.Array


class Seen(NamedTuple):
    """One layer at work: its own keys (before RoPE; of a step after it) and values, and what its
    attention takes."""

    kv: KeyValues
    q_BLNH: jax.Array
    k_BSKH: jax.Array
    v_BSKH: jax.Array
    mask: Mask


class Transformer(nnx.Module):
    """A decoder-only transformer. Create and call it under `sharding.use_mesh`.

    cfg says the shape; rngs.params() draws new weights and adapters; `params` (names of
    `init_params`) takes given weights instead. dtype is that of the base's parameters, and of the
    computation unless compute_dtype says otherwise. Raises ConfigError where the mesh or a size
    cannot work.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        *,
        rngs: nnx.Rngs | None = None,
        lora: LoraConfig | None = None,
        dtype: Any = jnp.float32,
        compute_dtype: Any = None,
        params: dict[str, jax.Array] | None = None,
    ):
        check(cfg)
        check_model(cfg, jax.sharding.get_abstract_mesh())
        lora = lora if lora is not None and lora.rank > 0 else None
        if rngs is None and (params is None or lora is not None):
            raise ConfigError("rngs is None: give nnx.Rngs(seed) to draw new weights or adapters")
        key = jax.random.key(0) if rngs is None else rngs.params()
        weights = init_params(key, cfg, jnp.dtype(dtype)) if params is None else params
        adapters: dict[str, Lora] = {}
        if lora is not None:
            leaves = layer_leaves(cfg)
            shapes = tuple((name, p.eq, leaves[name].shape) for name, p in PROJECTIONS.items())
            adapters = init_lora(jax.random.fold_in(key, 1), lora, shapes, cfg.num_hidden_layers)
        self.cfg = cfg
        self.dtype = jnp.dtype(compute_dtype or dtype)
        self.emb = nnx.Param(weights["emb"], spec="emb_VD")
        self.norm = nnx.Param(weights["norm"], spec="norm_D")
        self.head = None if cfg.tie_word_embeddings else nnx.Param(weights["head"], spec="emb_VD")
        self.layers = Block(cfg, weights, adapters)

    def embed(self, tok_BL: jax.Array) -> jax.Array:
        """Token embeddings x_BLD in the computation's dtype."""
        # Each device looks up every token of its fsdp group in its own columns of the table; only
        # what was found moves, never the table.
        tok_BL = jax.reshard(tok_BL, P("replica"))
        found_BLD = self.emb[...].at[tok_BL].get(out_sharding=SPECS["found_BLD"])
        return constrain(self._scaled(found_BLD.astype(self.dtype)), "act_BLD")

    def table_VD(self) -> jax.Array:
        """The embedding of every token, as `embed` gives it, in the weights' dtype."""
        return self._scaled(self.emb[...])

    def _scaled(self, x: jax.Array) -> jax.Array:
        if not family(self.cfg.model_type).scale_embeddings:
            return x
        # Rounded to the dtype first, as transformers does.
        return x * jnp.asarray(self.cfg.hidden_size**0.5, x.dtype)

    def head_VD(self) -> jax.Array:
        """The output matrix, tied or not."""
        return self.emb[...] if self.head is None else self.head[...]

    def unembed(self, hidden_BLD: jax.Array) -> jax.Array:
        """logits_BLV in float32."""
        return jnp.einsum(
            "BLD,VD->BLV",
            hidden_BLD,
            self.head_VD().astype(hidden_BLD.dtype),
            preferred_element_type=jnp.float32,
            out_sharding=SPECS["logits_BLV"],
        )

    def __call__(
        self, x_BLD: jax.Array, pos_BL: jax.Array, seg_BL: jax.Array, **options: Any
    ) -> jax.Array:
        """hidden_BLD after the final norm; `options` as of `through`."""
        return self.through(x_BLD, pos_BL, seg_BL, **options)[0]

    def keep(
        self, x_BLD: jax.Array, pos_BL: jax.Array, seg_BL: jax.Array, *, last: int, **options: Any
    ) -> tuple[jax.Array, KeyValues]:
        """As `__call__`; and the keys (before RoPE) and values of the `last` places, 1 to L."""

        def look(seen: Seen) -> KeyValues:
            return KeyValues(*(x_BLKH[:, -last:] for x_BLKH in seen.kv))

        return self.through(x_BLD, pos_BL, seg_BL, look, **options)

    def through(
        self,
        x_BLD: jax.Array,
        pos_BL: jax.Array,
        seg_BL: jax.Array,
        look: Callable[[Seen], Any] = lambda seen: None,
        *,
        remat: str = "none",
        packed: bool = True,
        dropout_key: jax.Array | None = None,
        kv_override: KVOverride | None = None,
        unroll: int = 0,
    ) -> tuple[jax.Array, Any]:
        """hidden_BLD after the final norm, and what `look` took of every layer, stacked on axis Y.

        Attention is causal within equal segment ids. pos_BL are RoPE positions (any integers),
        seg_BL segment ids with 0 = padding; packed=False promises that none is above 1, which more
        kernels can say. remat is none | full | offload (layer inputs to host memory); dropout_key
        turns LoRA dropout on; `kv_override` are keys and values in the place of the tower's own;
        unroll is the number of layers in one scan step (0: see `_unroll`).
        """
        x_BLD, sight = self._start(x_BLD, pos_BL, seg_BL, packed)

        def body(x_BLD: jax.Array, xs: Any) -> tuple[jax.Array, Any]:
            layer, key, kv, window = xs
            angle, mask = sight.of(window)
            x_BLD = checkpoint_name(x_BLD, "layer_input")
            q_BLNH, k_BLKH, v_BLKH = layer.heads(x_BLD, key)
            override_y = kv_override and kv_override._replace(kv=kv)
            qkv = apply_rope(q_BLNH, k_BLKH, v_BLKH, angle, override_y)
            taken = look(Seen(KeyValues(k_BLKH, v_BLKH), *qkv, mask))
            return layer.mix(x_BLD, attention(*qkv, mask), key), taken

        keys_Y = None
        if dropout_key is not None:
            keys_Y = jax.random.split(dropout_key, self.cfg.num_hidden_layers)
        with jax.named_scope("layers"):
            scan_body = _rematerialise(body, remat)
            xs = (self.layers, keys_Y, kv_override and kv_override.kv, windows(self.cfg))
            x_BLD, taken = jax.lax.scan(scan_body, x_BLD, xs, unroll=unroll or _unroll())
        return self.last_norm(x_BLD), taken

    def last_norm(self, x_BLD: jax.Array) -> jax.Array:
        """What follows the last layer."""
        offset = family(self.cfg.model_type).norm_offset
        return rms_norm(x_BLD, self.norm[...], self.cfg.rms_norm_eps, offset)

    def prefill(
        self,
        x_BLD: jax.Array,
        pos_BL: jax.Array,
        seg_BL: jax.Array,
        size: int,
        kv_override: KVOverride | None = None,
    ) -> tuple[jax.Array, Cache]:
        """As `__call__`, keeping keys and values in a cache with room for `size` >= L of them."""

        def look(seen: Seen) -> tuple[jax.Array, jax.Array]:
            return seen.k_BSKH.transpose(0, 2, 1, 3), seen.v_BSKH.transpose(0, 2, 1, 3)

        hidden_BLD, (k_YBKSH, v_YBKSH) = self.through(
            x_BLD, pos_BL, seg_BL, look, kv_override=kv_override, unroll=1
        )
        L = x_BLD.shape[1]
        wide = ((0, 0), (0, 0), (0, 0), (0, size - L), (0, 0))
        seg_BS = jnp.pad(constrain(seg_BL.astype(jnp.int32), "batch"), ((0, 0), (0, size - L)))
        return hidden_BLD, Cache(
            jnp.pad(k_YBKSH, wide), jnp.pad(v_YBKSH, wide), seg_BS, jnp.int32(L)
        )

    def step(
        self, x_BLD: jax.Array, pos_BL: jax.Array, seg_BL: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """As `__call__` for the next L tokens after those in the cache, which it extends."""
        return self.step_through(x_BLD, pos_BL, seg_BL, cache)[:2]

    def step_through(
        self,
        x_BLD: jax.Array,
        pos_BL: jax.Array,
        seg_BL: jax.Array,
        cache: Cache,
        look: Callable[[Seen], Any] = lambda seen: None,
    ) -> tuple[jax.Array, Cache, Any]:
        """As `step`, and what `look` took of every layer, stacked on axis Y."""
        x_BLD, seen = self._start(x_BLD, pos_BL, seg_BL)
        at, q_seg_BL = cache.length, seen.mask.q_seg_BL
        seg_BS = jax.lax.dynamic_update_slice(cache.seg_BS, q_seg_BL, (0, at))
        seen = seen._replace(mask=Mask(True, q_seg_BL, seg_BS, at))

        def body(carry: Any, xs: Any) -> tuple[Any, Any]:
            # The whole cache is carried and written in place: as xs and ys it would be copied.
            x_BLD, k_YBKSH, v_YBKSH = carry
            layer, y, window = xs
            angle, mask = seen.of(window)
            q_BLNH, k_BLKH, v_BLKH = layer.qkv(x_BLD, angle, None)
            k_BKLH, v_BKLH = k_BLKH.transpose(0, 2, 1, 3), v_BLKH.transpose(0, 2, 1, 3)
            where = (y, 0, 0, at, 0)
            k_YBKSH = jax.lax.dynamic_update_slice(k_YBKSH, k_BKLH[None], where)
            v_YBKSH = jax.lax.dynamic_update_slice(v_YBKSH, v_BKLH[None], where)
            heads_BLNH = cached(q_BLNH, k_YBKSH[y], v_YBKSH[y], mask)
            k_BSKH, v_BSKH = (x[y].transpose(0, 2, 1, 3) for x in (k_YBKSH, v_YBKSH))
            taken = look(Seen(KeyValues(k_BLKH, v_BLKH), q_BLNH, k_BSKH, v_BSKH, mask))
            return (layer.mix(x_BLD, heads_BLNH, None), k_YBKSH, v_YBKSH), taken

        carry = (x_BLD, cache.k_YBKSH, cache.v_YBKSH)
        layers = (self.layers, jnp.arange(self.cfg.num_hidden_layers), windows(self.cfg))
        (x_BLD, k_YBKSH, v_YBKSH), taken = jax.lax.scan(body, carry, layers)
        length = at + x_BLD.shape[1]
        return self.last_norm(x_BLD), Cache(k_YBKSH, v_YBKSH, seg_BS, length), taken

    def _start(
        self, x_BLD: jax.Array, pos_BL: jax.Array, seg_BL: jax.Array, packed: bool = True
    ) -> tuple[jax.Array, Sight]:
        seg_BL = constrain(seg_BL.astype(jnp.int32), "batch")
        x_BLD = constrain(x_BLD.astype(self.dtype), "act_BLD")
        mask = Mask(True, seg_BL, seg_BL, packed=packed)
        return x_BLD, sight(self.cfg, constrain(pos_BL, "batch"), mask)


def _unroll() -> int:
    # XLA:CPU runs a scanned tiny layer 1.2-1.9 times as slowly as an unrolled one; elsewhere the
    # scan costs nothing and keeps programs small.
    return 4 if platform() == "cpu" else 1


def _rematerialise(body: Any, remat: str) -> Any:
    """`body` under the chosen trade of memory for recomputation in the backward pass."""
    if remat not in REMAT:
        raise ConfigError(f"remat is {remat!r}, expected one of {', '.join(REMAT)}")
    if remat == "none":
        return body
    policy = None
    if remat == "offload":
        policy = jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["layer_input"],
            offload_src="device",
            offload_dst="pinned_host",
        )
    # A scan cannot merge the recomputation with the forward pass, so no barrier is needed.
    return jax.checkpoint(body, prevent_cse=False, policy=policy)
