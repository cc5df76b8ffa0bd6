"""The mesh, and the one table of PartitionSpecs.

Axes are ``("replica", "fsdp", "tp")`` in Explicit mode: an array's sharding is part of its type, so
a wrong layout is an error while tracing instead of silent communication. The same code runs on one
CPU device (mesh (1, 1, 1)) and on a pod. Arrays are named by their shape letters
(docs/explanation/architecture.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcomp.config import ConfigError, MeshConfig, ModelConfig

AXES = ("replica", "fsdp", "tp")
BATCH = ("replica", "fsdp")  # the axes over which examples are spread

# Weights: one layer's shape. Stacked weights have one leading Y axis, which is never sharded.
SPECS: Mapping[str, P] = {
    "replicated": P(),
    "emb_VD": P("tp", "fsdp"),
    "qkv_DNH": P("fsdp", "tp", None),
    "o_NHD": P("tp", None, "fsdp"),
    "up_DF": P("fsdp", "tp"),
    "down_FD": P("tp", "fsdp"),
    "table_VD": P("tp", None),  # an embedding gathered for use
    "norm_D": P(None),
    "bias_NH": P("tp", None),
    "mem_MD": P(None, None),  # learned memory tokens, markers: too small to be cut
    # LoRA: A keeps the sharding of the contracted axes, B that of the outputs.
    "lora_DR": P("fsdp", None),
    "lora_NHR": P("tp", None, None),
    "lora_FR": P("tp", None),
    "lora_RNH": P(None, "tp", None),
    "lora_RF": P(None, "tp"),
    "lora_RD": P(None, "fsdp"),
    # Activations.
    "batch": P(BATCH),
    "act_BLD": P(BATCH, None, None),
    "found_BLD": P("replica", None, "fsdp"),  # looked up in emb_VD, before its rows move home
    "act_BLR": P(BATCH, None, None),
    "act_BLNH": P(BATCH, None, "tp", None),
    "act_BLKGH": P(BATCH, None, "tp", None, None),  # query heads by their key/value head
    "act_BLF": P(BATCH, None, "tp"),
    "logits_BLV": P(BATCH, None, "tp"),
    "cache_YBSKH": P(None, BATCH, None, "tp", None),
}


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Explicit mesh with axes `AXES` over `devices` (default: all). Raises ConfigError where
    replica x fsdp x tp does not use each once, or cannot be laid on the chips of a TPU slice."""
    devices = found_devices() if devices is None else devices
    fsdp = len(devices) // (cfg.replica * cfg.tp) if cfg.fsdp == -1 else cfg.fsdp
    shape = (cfg.replica, fsdp, cfg.tp)
    if fsdp < 1 or int(np.prod(shape)) != len(devices):
        raise ConfigError(
            f"mesh (replica, fsdp, tp) = {(cfg.replica, cfg.fsdp, cfg.tp)} does not fit "
            f"{len(devices)} device(s): the product must be {len(devices)}; "
            "set mesh.fsdp=-1 to take what replica and tp leave"
        )
    try:
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Explicit,) * 3, devices=devices)
    except NotImplementedError as error:
        raise ConfigError(
            f"mesh (replica, fsdp, tp) = {shape} cannot be laid on this slice: each of the three "
            f"must be a product of whole axes of its torus ({error}); `jaxcomp plan` names meshes "
            "that can"
        ) from error


def found_devices() -> list[Any]:
    """JAX's devices. Raises ConfigError where JAX_PLATFORMS names what this machine lacks."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that CUDA was found
        asked = getattr(jax.config, "jax_platforms", "") or ""
        why = str(error).partition(" (set JAX_PLATFORMS")[0].rstrip(".") or "none found"
        raise ConfigError(
            f"JAX_PLATFORMS={asked}: JAX has no such device here ({why}); unset JAX_PLATFORMS to "
            "use what this machine has, or set JAX_PLATFORMS=cpu"
        ) from error


@contextmanager
def use_mesh(mesh: Mesh) -> Iterator[None]:
    """Context in which everything runs: `with use_mesh(make_mesh(cfg.mesh)): ...`.

    In it JAX's switches that change numbers have the values that results were made with, whatever
    the environment or the calling program says. Raises ConfigError for those that can only be set
    for the whole process.
    """
    for name, value in _PROCESS_SWITCHES.items():
        found = getattr(jax.config, name, value)
        if found != value:
            raise ConfigError(
                f"{name.upper()} is {found!r}: it changes results, which are compared at {value!r};"
                f" unset {name.upper()}"
            )
    with ExitStack() as contexts:
        for switch in (
            jax.enable_x64(False),
            jax.default_prng_impl("threefry2x32"),
            jax.threefry_partitionable(True),
            jax.default_matmul_precision(None),  # pyright: ignore[reportArgumentType]
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            jax.softmax_custom_jvp(False),
            jax.disable_jit(False),
            jax.set_mesh(mesh),
        ):
            contexts.enter_context(switch)
        yield


# JAX has no context for these.
_PROCESS_SWITCHES = {"jax_random_seed_offset": 0, "jax_high_dynamic_range_gumbel": False}


def platform() -> str:
    """cpu, gpu or tpu: of the active mesh's devices, which a compiler ahead of time may only be
    told of; of the default backend where no mesh is active."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = found_devices()[0].platform if device is None else device.platform
    return "gpu" if kind in ("cuda", "rocm") else kind


def spec_of(name: str, ndim: int) -> P:
    """`SPECS[name]` for an array of `ndim` axes, with leading (layer) axes left unsharded."""
    spec = SPECS[name]
    return P(*(None,) * (ndim - len(spec)), *spec) if name != "batch" else spec


def constrain(x: jax.Array, name: str) -> jax.Array:
    """`x` resharded to the table's layout `name`; free where it lies so already."""
    return jax.reshard(x, spec_of(name, x.ndim))


def whole_batch(rows: int, mesh: Any) -> int:
    """`rows`, rounded up to what divides over the mesh; the rest are empty rows."""
    ways = mesh.shape["replica"] * mesh.shape["fsdp"]
    return -(-rows // ways) * ways


def rows_here(rows: int, mesh: Mesh) -> list[tuple[int, int]]:
    """Which rows [lo, hi) of a batch of `rows` lie on this process's devices, in order. Processes
    that share a row of the mesh (tp across hosts) have the same ones. Raises ConfigError where the
    rows do not divide over the devices."""
    _check_rows(rows, mesh)
    sharding = NamedSharding(mesh, SPECS["batch"])
    every = sharding.addressable_devices_indices_map((rows,)).values()
    spans = {index[0].indices(rows)[:2] for index in every if index is not None}
    joined: list[tuple[int, int]] = []
    for lo, hi in sorted(spans):
        if joined and joined[-1][1] == lo:
            lo = joined.pop()[0]
        joined.append((lo, hi))
    return joined


def put_batch(batch: Any, mesh: Mesh, rows: int | None = None) -> Any:
    """Host arrays (a tree) as device arrays sharded over `BATCH` on axis 0.

    `batch` is the whole batch; or, where `rows` says how many that has, those of `rows_here`.
    Raises ConfigError where the rows do not divide over the devices.
    """
    sharding = NamedSharding(mesh, SPECS["batch"])
    leaves = [np.asarray(x) for x in jax.tree.leaves(batch)]
    count = leaves[0].shape[0] if rows is None else rows
    if sharding.is_fully_addressable:
        _check_rows(count, mesh)
        return jax.tree.map(lambda x: jax.device_put(np.asarray(x), sharding), batch)
    spans, before = rows_here(count, mesh), 0
    starts = {}  # of a span: its first row in what was given
    for lo, hi in spans:
        starts[lo] = lo if rows is None else before
        before += hi - lo

    def put(x: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(count)
            lo = max(lo for lo in starts if lo <= first)
            at = starts[lo] + first - lo
            return x[at : at + last - first]

        return jax.make_array_from_callback((count, *x.shape[1:]), sharding, shard)

    return jax.tree.unflatten(jax.tree.structure(batch), map(put, leaves))


def _check_rows(rows: int, mesh: Mesh) -> None:
    ways = whole_batch(1, mesh)
    if rows % ways:
        raise ConfigError(
            f"a batch of {rows} rows does not divide over replica x fsdp = {ways} devices; "
            f"make the batch a multiple of {ways}"
        )


def on_host(tree: Any) -> Any:
    """A tree of arrays as numpy arrays, whole on every process; each process must ask."""

    def get(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            mesh = cast(NamedSharding, x.sharding).mesh
            x = jax.jit(_same, out_shardings=NamedSharding(mesh, P()))(x)
        return np.asarray(x)

    return jax.tree.map(get, tree)


def _same(x: jax.Array) -> jax.Array:
    return x


def check_model(cfg: ModelConfig, mesh: Any, where: str = "model") -> None:
    """Raises ConfigError where a dimension of the model does not divide over the mesh.

    `mesh` is a Mesh or AbstractMesh; an empty one (no mesh active) is an error too.
    """
    if not mesh.axis_names:
        raise ConfigError("no mesh is active; run under `with use_mesh(make_mesh(MeshConfig())):`")
    needs = {
        "tp": ("vocab_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
        "fsdp": ("hidden_size",),
    }
    for axis, fields in needs.items():
        ways = mesh.shape[axis]
        for name in fields:
            if getattr(cfg, name) % ways:
                raise ConfigError(
                    f"{where}: {name} is {getattr(cfg, name)}, which does not divide over "
                    f"mesh.{axis} = {ways}; choose a mesh.{axis} that divides it"
                )
