"""What moves between chips: the reader of HLO on small texts, and the training step as compiled."""

import importlib.util
import math
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shrunk
from conftest import mesh_of
from jax.sharding import NamedSharding

from jaxcomp.config import LoraConfig
from jaxcomp.models.lora import Lora, lora_eqs, lora_specs
from jaxcomp.runtime.sharding import SPECS, use_mesh
from jaxcomp.sweep.plan.hlo import Collective, collectives, executed, parse, received
from jaxcomp.sweep.plan.timing import step_time
from jaxcomp.sweep.plan.topology import slice_of

HERE = Path(__file__).parent
HEAD = "HloModule jit_step, is_scheduled=true, num_partitions=8\n"
ADD = """
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}
"""


def entry(*lines: str, above: str = "") -> str:
    """A module whose entry has a parameter %p of bf16[8,128] and these lines."""
    body = "\n".join(f"  {line}" for line in lines)
    head = "ENTRY %main (p: bf16[8,128]) -> bf16[8,128] {"
    first = "  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)"
    return f"{HEAD}{above}\n{head}\n{first}\n{body}\n  ROOT %r = bf16[8,128]{{1,0}} copy(%p)\n}}\n"


def one(*lines: str, above: str = "") -> Collective:
    (found,) = collectives(entry(*lines, above=above))
    return found


def loop(
    name: str, inside: str, *, bound: int, start: int = 0, step: int = 1, way: str = "LT"
) -> tuple[str, str]:
    """(computations, lines) of a loop that runs `inside`; the bound lies in the loop's state."""
    comps = f"""
%{name}.cond (s: (s32[], s32[], bf16[8,128])) -> pred[] {{
  %{name}.cs = (s32[], s32[], bf16[8,128]) parameter(0)
  %{name}.ci = s32[]{{:T(128)}} get-tuple-element(%{name}.cs), index=0
  %{name}.cb = s32[]{{:T(128)}} get-tuple-element(%{name}.cs), index=1
  ROOT %{name}.lt = pred[]{{:T(512)}} compare(%{name}.ci, %{name}.cb), direction={way}
}}

%{name}.body (s: (s32[], s32[], bf16[8,128])) -> (s32[], s32[], bf16[8,128]) {{
  %{name}.s = (s32[]{{:T(128)}}, s32[], /*index=2*/bf16[8,128]{{1,0:T(8,128)(2,1)}}) parameter(0)
  %{name}.i = s32[] get-tuple-element(%{name}.s), index=0
  %{name}.b = s32[] get-tuple-element(%{name}.s), index=1
  %{name}.x = bf16[8,128] get-tuple-element(%{name}.s), index=2
  %{name}.k = s32[] constant({step})
  %{name}.i1 = s32[] copy(%{name}.i)
  %{name}.next = s32[] add(%{name}.i1, %{name}.k)
  {inside.format(x=f"%{name}.x")}
  ROOT %{name}.out = (s32[], s32[], bf16[8,128]) tuple(%{name}.next, %{name}.b, %{name}.x)
}}
"""
    lines = f"""%{name}.z = s32[] constant({start})
  %{name}.n = s32[] constant({bound})
  %{name}.in = (s32[], s32[], bf16[8,128]) tuple(%{name}.z, %{name}.n, {{x}})
  %{name}.w = (s32[], s32[], bf16[8,128]) while(%{name}.in), condition=%{name}.cond, \
body=%{name}.body"""
    return comps, lines


GATHER = (
    "%ag = bf16[32,128]{{1,0:T(8,128)(2,1)}} all-gather({x}), channel_id=1, "
    "replica_groups=[2,4]<=[8], dimensions={{0}}, use_global_device_ids=true, "
    'metadata={{op_name="jit(step)/layers/dot" stack_frame_id=3}}'
)


@pytest.mark.parametrize(
    ("groups", "chips"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['axis_0'=8,'axis_1'=1] {'axis_0'}", 8),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", 4),
        ("{}", 8),
    ],
)
def test_every_spelling_of_groups(groups, chips):
    found = one(
        f"%a = bf16[8,128] all-reduce(%p), replica_groups={groups}, to_apply=%add", above=ADD
    )
    assert found == Collective("all-reduce", 2048, chips, 1, False, ("bf16[8,128]",), "main")


def test_bytes_are_of_the_gathered_result_and_of_the_operand_of_the_rest():
    lines = (
        "%w = f32[16,4] constant({...})",
        "%ag = f32[64,4]{1,0} all-gather(%w), replica_groups=[2,4]<=[8], dimensions={0}",
        "%rs = f32[4,4] reduce-scatter(%w), replica_groups=[2,4]<=[8], to_apply=%add",
        "%aa = f32[16,4] all-to-all(%w), replica_groups=[2,4]<=[8], dimensions={0}",
        "%cs = (f32[16,4], f32[16,4], u32[], u32[]) collective-permute-start(%w), "
        "source_target_pairs={{0,1},{1,2},{2,0},{3,3}}",
        "%cd = f32[16,4] collective-permute-done(%cs)",
        "%as = (f32[16,4], f32[64,4]) all-gather-start(%w), replica_groups=[2,4]<=[8]",
        "%ad = f32[64,4] all-gather-done(%as)",
    )
    found = collectives(entry(*lines, above=ADD))
    assert [(c.kind, c.bytes, c.group, received(c)) for c in found] == [
        ("all-gather", 1024, 4, 768.0),
        ("reduce-scatter", 256, 4, 192.0),
        ("all-to-all", 256, 4, 192.0),
        ("collective-permute", 256, 3, 256.0),
        ("all-gather", 1024, 4, 768.0),
    ]


def test_a_tuple_is_one_collective_and_an_all_reduce_moves_twice_its_bytes():
    shapes = ("pred[3]", "s4[6]", "bf16[2,8]", "f64[]", "u8[5]")
    made = [f"%c{i} = {shape} constant({{...}})" for i, shape in enumerate(shapes)]
    whole = "(pred[3]{0}, s4[6]{0}, bf16[2,8]{1,0:T(8,128)(2,1)}, /*index=3*/f64[]{:T(128)}, u8[5])"
    call = "all-reduce(%c0, %c1, %c2, /*index=3*/%c3, %c4), replica_groups=[2,4]<=[8]"
    found = one(*made, f"%r0 = {whole} {call}, to_apply=%add", above=ADD)
    assert found.bytes == 3 + 3 + 32 + 8 + 5
    assert found.shapes == shapes
    assert received(found) == 2 * 3 / 4 * 51


@pytest.mark.parametrize(
    ("bound", "start", "step", "way", "times"),
    [
        (6, 0, 1, "LT", 6),
        (6, 1, 1, "LT", 5),
        (7, 0, 2, "LT", 4),
        (5, 0, 1, "LE", 6),
        (0, 5, -1, "GT", 5),
        (1, 5, -2, "GE", 3),
        (4, 0, 1, "NE", 4),
        (2, 3, 1, "LT", 0),
    ],
)
def test_a_loop_is_multiplied_by_its_trips(bound, start, step, way, times):
    comps, lines = loop("a", GATHER, bound=bound, start=start, step=step, way=way)
    found = one(lines.format(x="%p"), above=comps)
    assert found.times == times
    assert (found.kind, found.bytes, found.scope) == ("all-gather", 8192, "jit(step)/layers/dot")


def test_loops_multiply_and_a_known_trip_count_wins():
    inner, lines = loop("in", GATHER, bound=3)
    outer, begin = loop("out", lines, bound=4, start=1, step=1)
    assert one(begin.format(x="%p"), above=inner + outer).times == 9
    known = begin.format(x="%p") + ', backend_config={"known_trip_count":{"n":"7"}}'
    assert one(known, above=inner + outer).times == 21


def test_a_condition_is_asked_once_more_than_its_loop_runs():
    comps, lines = loop("a", "", bound=4)
    ask = "%c.ar = u32[] all-reduce(%a.ci), replica_groups=[1,8]<=[8], to_apply=%add\n  ROOT %a.lt"
    assert one(lines.format(x="%p"), above=ADD + comps.replace("ROOT %a.lt", ask)).times == 5


def test_a_loop_that_does_not_say_how_often_it_runs_is_an_error_only_if_something_moves():
    bound = "%a.cb = s32[]{:T(128)} get-tuple-element(%a.cs), index=1"
    comps, lines = loop("a", GATHER, bound=3)
    with pytest.raises(ValueError, match=r"%a\.w runs .*%a\.cond"):
        one(lines.format(x="%p"), above=comps.replace(bound, "%a.cb = s32[] after-all()"))
    quiet, lines = loop("a", "", bound=3)
    above = quiet.replace(bound, "%a.cb = s32[] after-all()")
    assert collectives(entry(lines.format(x="%p"), above=above)) == []


def piece(name: str, end: str = "") -> str:
    """A fused computation with a part of the asynchronous gather of channel 7."""
    call = f'%{name}.c = (bf16[8,128], u32[]) custom-call(%{name}.g), custom_call_target="{end}"'
    return f"""
%{name} (q: bf16[8,128]) -> bf16[8,128] {{
  %{name}.q = bf16[8,128] parameter(0)
  %{name}.g = bf16[32,128] all-gather(%{name}.q), channel_id=7, replica_groups=[2,4]<=[8], \
dimensions={{0}}, frontend_attributes={{chain_id="0"}}
  {call if end else ""}
  ROOT %{name}.r = bf16[8,128] copy(%{name}.q)
}}
"""


def test_the_pieces_of_an_asynchronous_collective_are_one():
    ends = piece("first", "AsyncCollectiveStart") + piece("last", "AsyncCollectiveDone")
    run = ["%{0}.f = bf16[8,128] fusion(%p), kind=kCustom, calls=%{0}"]
    three = [run[0].format(name) for name in ("first", "mid", "last")]
    beside = one(*three, above=ends + piece("mid"))
    assert (beside.bytes, beside.times, beside.overlapped) == (8192, 1, True)
    assert beside.scope == "main"
    alone = one(three[0], three[2], above=ends)
    assert (alone.bytes, alone.overlapped) == (8192, False)
    # A start outside a loop, its parts inside: it moves once.
    comps, lines = loop("a", three[1].replace("%p", "{x}"), bound=5)
    across = one(three[0], lines.format(x="%p"), three[2], above=ends + piece("mid") + comps)
    assert (across.times, across.overlapped) == (1, True)


@pytest.mark.parametrize(("between", "overlapped"), [("fusion", True), ("copy", False)])
def test_what_is_computed_between_start_and_done_overlaps(between, overlapped):
    found = one(
        "%s = bf16[8,128] all-reduce-start(%p), replica_groups=[2,4]<=[8], to_apply=%add",
        f"%m = bf16[8,128] {between}(%p)",
        "%d = bf16[8,128] all-reduce-done(%s)",
        "%after = bf16[8,128] fusion(%p)",
        above=ADD,
    )
    assert found.overlapped is overlapped
    comps = """
%wrapped (q: bf16[8,128]) -> bf16[2,128] {
  %q = bf16[8,128] parameter(0)
  ROOT %rs = bf16[2,128] reduce-scatter(%q), replica_groups=[2,4]<=[8], to_apply=%add
}
"""
    found = one(
        "%s = ((bf16[8,128]), bf16[2,128], u32[]) async-start(%p), calls=%wrapped",
        f"%m = bf16[8,128] {between}(%p)",
        "%d = bf16[2,128] async-done(%s)",
        above=ADD + comps,
    )
    assert (found.kind, found.bytes, found.overlapped) == ("reduce-scatter", 2048, overlapped)


def test_a_fused_all_reduce_scatter_is_a_reduce_scatter():
    comps = """
%all-reduce-scatter.3 (q: f32[64,8]) -> f32[16,8] {
  %q = f32[64,8] parameter(0)
  %k = s32[] constant(0)
  %ar = f32[64,8] all-reduce(%q), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %ds = f32[16,8] dynamic-slice(%ar, %k, %k), dynamic_slice_sizes={16,8}
}
"""
    found = one(
        "%g = f32[64,8] constant({...})",
        "%f = f32[16,8] fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3, "
        'metadata={op_name="grad/dot"}',
        above=ADD + comps,
    )
    assert (found.kind, found.bytes, found.group, found.scope) == (
        "reduce-scatter",
        2048,
        4,
        "grad/dot",
    )


def test_of_a_conditional_the_dearest_branch_counts():
    def branch(name, size):
        return f"""
%{name} (q: bf16[{size},128]) -> bf16[{size},128] {{
  %{name}.q = bf16[{size},128] parameter(0)
  ROOT %{name}.r = bf16[{size},128] all-reduce(%{name}.q), replica_groups=[1,8]<=[8], to_apply=%add
}}
"""

    found = one(
        "%i = s32[] constant(0)",
        "%c = bf16[8,128] conditional(%i, %p, %p), branch_computations={%few, %many}",
        above=ADD + branch("few", 8) + branch("many", 16),
    )
    assert found.bytes == 16 * 128 * 2


def test_a_text_that_is_no_module_is_an_error():
    with pytest.raises(ValueError, match="ENTRY"):
        collectives("{}")


# --- the training step, compiled for TPU v5e 2x2 -------------------------------------------------

LENGTHS = {
    "compressor": shrunk.SEGMENT + shrunk.SEGMENT // shrunk.RATIO,
    "decoder": shrunk.SEGMENT // shrunk.RATIO + 3 + shrunk.TARGET - 1,
}
TOWERS = {"compressor": shrunk.COMPRESSOR, "decoder": shrunk.DECODER}
TIME = {"compressor": 4.22, "decoder": 5.59, "loss": 1.20}  # milliseconds of shrunk.LONG on v5e
SMALL = 2**14  # bytes: token ids and a bias may be gathered


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[tuple[int, int, int] | str, str]:
    """HLO of the shrunk step by mesh (and of OFFLOAD), from one subprocess."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip(
            "needs the TPU compiler: `uv run --extra tpu pytest -n0 -m '' tests/sweep/plan`"
        )
    out = tmp_path_factory.mktemp("hlo")
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # No TPU is opened, so the lock that guards one would only stop another compilation.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "shrunk.py"), str(out)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {step: (out / f"{step}.hlo").read_text() for step in shrunk.STEPS}
    return found | {mesh: found[shrunk.name_of(mesh)] for mesh in shrunk.MESHES}


def meshes(test):
    mesh = pytest.mark.parametrize("mesh", shrunk.MESHES, ids=shrunk.name_of)
    return pytest.mark.slow(mesh(test))


def sizes(shape: str) -> tuple[int, ...]:
    """Of "bf16[1,256,768]" (256, 768)."""
    return tuple(int(n) for n in re.findall(r"\d+", shape.partition("[")[2]) if n != "1")


def matrices(tower: str, tp: int) -> Counter[tuple[int, ...]]:
    """How many matrices of each shape a layer's weights are, whole over fsdp, on one chip."""
    m = TOWERS[tower]
    D, H, F = m.hidden_size, m.head_dim, m.intermediate_size // tp
    N, K = m.num_attention_heads // tp, m.num_key_value_heads // tp
    return Counter([(D, N, H), (D, K, H), (D, K, H), (N, H, D), (D, F), (D, F), (F, D)])


def tables(tp: int) -> dict[str, tuple[int, ...]]:
    return {name: (m.vocab_size // tp, m.hidden_size) for name, m in TOWERS.items()}


def adapters() -> set[tuple[int, ...]]:
    """Shapes of A and B that lie over fsdp, gathered; the others are whole on each chip."""
    return {
        (shrunk.COMPRESSOR.hidden_size, shrunk.RANK),
        (shrunk.RANK, shrunk.COMPRESSOR.hidden_size),
    }


def connector(tp: int) -> set[tuple[int, ...]]:
    hidden = 2 * shrunk.DECODER.hidden_size // tp
    return {(shrunk.COMPRESSOR.hidden_size, hidden), (hidden, shrunk.DECODER.hidden_size)}


def runs(tower: str) -> int:
    """Layers of a step's micro-batches."""
    return TOWERS[tower].num_hidden_layers * shrunk.ACCUMULATE


def gathered(found: list[Collective]) -> Counter[tuple[int, ...]]:
    """Times that an array of each shape is gathered in one step."""
    count: Counter[tuple[int, ...]] = Counter()
    for c in found:
        for shape in c.shapes if c.kind == "all-gather" else ():
            count[sizes(shape)] += c.times
    return count


@meshes
def test_weights_are_gathered_and_nothing_else_is(compiled, mesh):
    """No activation, no logits, no table for the look-up of tokens."""
    found, tp = collectives(compiled[mesh]), mesh[2]
    known = {*matrices("compressor", tp), *matrices("decoder", tp), *adapters(), *connector(tp)}
    known.add(tables(tp)["decoder"])
    odd = [
        c for c in found if c.kind == "all-gather" and not known.issuperset(map(sizes, c.shapes))
    ]
    assert [c for c in odd if c.bytes > SMALL] == []
    # The output matrix, once for each micro-batch, and not once more for the look-up.
    assert gathered(found)[tables(tp)["decoder"]] == shrunk.ACCUMULATE


@meshes
def test_each_weight_is_gathered_once_forward_and_once_backward(compiled, mesh):
    """XLA gathers the compressor's q, k and v a third time: for what is computed again, and once
    more for the gradients (xla_tpu_spmd_threshold_for_allgather_cse=1000000 would save that)."""
    count = gathered(collectives(compiled[mesh]))
    m, tp = shrunk.COMPRESSOR, mesh[2]
    heads = {
        (m.hidden_size, n // tp, m.head_dim) for n in (m.num_attention_heads, m.num_key_value_heads)
    }
    for tower in TOWERS:
        for shape, copies in matrices(tower, tp).items():
            passes = 3 if tower == "compressor" and shape in heads else 2
            assert count[shape] == passes * copies * runs(tower), (tower, shape)


@meshes
def test_no_activation_is_reduced_without_tensor_parallelism(compiled, mesh):
    found, tp = collectives(compiled[mesh]), mesh[2]
    rows = shrunk.ROWS // shrunk.ACCUMULATE // mesh[0] // mesh[1]
    for tower, m in TOWERS.items():
        act = (rows, LENGTHS[tower], m.hidden_size)
        reduced = Counter(
            part
            for c in found
            if c.kind == "all-reduce" and act in map(sizes, c.shapes)
            for part in [f"{c.group} of {'backward' if 'transpose' in c.scope else 'forward'}"]
            for _ in range(c.times)
        )
        # After o and after down; backward o again, then before gate and up, and before q, k, v.
        once = runs(tower)
        assert reduced == ({} if tp == 1 else {"2 of forward": 2 * once, "2 of backward": 3 * once})


@meshes
def test_the_loss_is_reduced_over_the_vocabulary_not_gathered(compiled, mesh):
    found = [c for c in collectives(compiled[mesh]) if "cross_entropy" in c.scope]
    rows = shrunk.ROWS // shrunk.ACCUMULATE // mesh[0] // mesh[1]
    per_token = (rows, shrunk.CHUNK)
    moved = {(c.kind, shape) for c in found for shape in map(sizes, c.shapes)}
    grad = (*per_token, shrunk.DECODER.hidden_size)
    tp = {("all-reduce", per_token), ("all-reduce", grad)}
    assert moved == (tp if mesh[2] > 1 else set())
    assert {c.times for c in found} <= {shrunk.TARGET // shrunk.CHUNK * shrunk.ACCUMULATE}


@meshes
def test_base_weights_never_move_in_float32(compiled, mesh):
    tp = mesh[2]
    base = {*matrices("compressor", tp), *matrices("decoder", tp), *tables(tp).values()}
    found = collectives(compiled[mesh])
    assert [c for c in found for s in c.shapes if s.startswith("f32") and sizes(s) in base] == []


@meshes
def test_gradients_of_adapters_are_reduced_once_in_each_layer_of_a_micro_batch(compiled, mesh):
    """Not once a step: XLA adds up over chips before it adds up micro-batches."""
    found = [c for c in collectives(compiled[mesh]) if c.kind in ("all-reduce", "reduce-scatter")]
    moved = [(c.times, shape) for c in found for shape in c.shapes if shrunk.RANK in sizes(shape)]
    # With tensor parallelism, products with A are reduced too, as activations.
    grads = [(n, shape) for n, shape in moved if LENGTHS["compressor"] not in sizes(shape)]
    # A and B of seven projections. Over replicas, the seven cut over fsdp take a second step.
    leaves = 14 + (7 if mesh[0] > 1 else 0)
    assert [n for n, _ in grads] == [runs("compressor")] * leaves
    assert all(shape.startswith("bf16") for _, shape in grads)


@meshes
def test_attention_is_the_fused_kernel(compiled, mesh):
    text = compiled[mesh]
    # Forward, again in the backward pass, and backward, of two towers.
    assert text.count('custom_call_target="tpu_custom_call"') == 6
    for length in LENGTHS.values():
        for n in (length, -(-length // 128) * 128):
            assert not re.search(rf"\[(\d+,)*{n},{n}\]", text)


@pytest.mark.slow
def test_offloaded_layer_inputs_lie_in_the_memory_of_the_host(compiled):
    """S(5) is XLA's name of it. One row of a layer's inputs is kept for each layer."""
    rows = shrunk.ROWS // shrunk.ACCUMULATE // 4
    kept = {
        rf"bf16\[{m.num_hidden_layers},{rows},{LENGTHS[tower]},{m.hidden_size}\]"
        for tower, m in TOWERS.items()
    }
    text = compiled[shrunk.OFFLOAD]
    assert all(re.search(shape + r"\{[^}]*S\(5\)\}", text) for shape in kept)
    assert "S(5)" not in compiled[shrunk.MESHES[0]]


def by_tower(text: str) -> dict[str, float]:
    """Milliseconds of a step on v5e."""
    found: dict[str, float] = defaultdict(float)
    for part in step_time(text, slice_of("v5e:2x2")).parts:
        found[part.tower] += 1e3 * part.seconds
    return found


@pytest.mark.slow
def test_a_decoder_of_twice_the_layers_takes_twice_the_time(compiled):
    once, twice = (by_tower(compiled[step]) for step in (shrunk.LONG, shrunk.DEEP))
    assert twice["decoder"] == pytest.approx(2 * once["decoder"], rel=0.02)
    for other in ("compressor", "loss", "connector"):
        assert twice[other] == pytest.approx(once[other], rel=0.1)


@pytest.mark.slow
def test_every_estimate_of_the_compiler_is_counted(compiled):
    """Each stands in a computation that runs, or in one that is fused."""
    text = compiled[shrunk.LONG]
    module, entry_comp = parse(text)
    ran = {op.name for _, op, _ in executed(module, entry_comp)}
    estimated = set(re.findall(r'%([\w.-]+) = [^\n]*"estimated_cycles":"[1-9]', text))
    assert len(estimated) > 100
    assert estimated <= ran


@pytest.mark.slow
def test_a_step_takes_no_more_cycles_than_it_did(compiled):
    """Milliseconds of the committed code; write down what a change gains."""
    found = by_tower(compiled[shrunk.LONG])
    assert {tower: found[tower] for tower in TIME} == pytest.approx(TIME, rel=0.05)


# --- what each chip computes, which needs no compiler ---------------------------------------------


def test_each_chip_draws_the_dropout_mask_of_its_own_rows():
    B, L, D, F, R = 24, 5, 16, 32, 4
    mesh = mesh_of((2, 2, 2))
    with use_mesh(mesh):
        ab = (jnp.ones((D, R)), jnp.ones((R, F)))
        adapter = Lora(LoraConfig(rank=R, dropout=0.5), ab, lora_specs("BLD,DF->BLF"))
        x_BLD = jax.device_put(jnp.ones((B, L, D)), NamedSharding(mesh, SPECS["act_BLD"]))
        run = jax.jit(lambda x, key: adapter(x, lora_eqs("BLD,DF->BLF"), "act_BLF", key))
        compiled = run.lower(x_BLD, jax.random.key(0)).compile()
        kept_BL = np.asarray(compiled(x_BLD, jax.random.key(0)))[:, :, 0]
    text = compiled.as_text() or ""
    drawn = [math.prod(map(int, n.split(","))) for n in re.findall(r"u32\[([\d,]+)\]", text)]
    assert max(drawn) == B // 4 * L * D
    # Sums of D kept inputs: alike in two rows only if they were drawn alike.
    assert len(np.unique(kept_BL, axis=0)) == B
    assert 0.4 < kept_BL.mean() / (2 * R * D * adapter.scale) < 0.6
