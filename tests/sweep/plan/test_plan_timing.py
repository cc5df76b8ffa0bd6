"""Where the time goes, read from small texts; that of a compiled step is in test_plan_hlo.py."""

import pytest
from test_plan_hlo import ADD, entry, loop

from jaxcomp.sweep.plan.timing import Part, step_time
from jaxcomp.sweep.plan.topology import slice_of

WHERE = slice_of("v5e:2x4")
CHIP = WHERE.chip
TABLES = """
FileNames
1 "/home/me/.venv/site-packages/optax/adam.py"
2 "/home/me/jaxcomp/models/block.py"
3 "/home/me/jaxcomp/models/lora.py"

FunctionNames
1 "step"

FileLocations
1 {file_name_id=2 function_name_id=1 line=7 end_line=8 column=5 end_column=5}
2 {file_name_id=3 function_name_id=1 line=21 end_line=21 column=5 end_column=5}
3 {file_name_id=1 function_name_id=1 line=99 end_line=99 column=5 end_column=5}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

"""
FUSED = """
%{name} (q: bf16[8,128]) -> bf16[8,128] {{
  %{name}.q = bf16[8,128] parameter(0)
  ROOT %{name}.r = bf16[8,128] {op}(%{name}.q), metadata={{op_name="{scope}"}}
}}
"""


def fused(op: str, scope: str = "jit(step)/jvp(decoder)/x", name: str = "in") -> str:
    return FUSED.format(op=op, scope=scope, name=name)


def takes(cycles: int, scope: str = "", of: str = "%p", name: str = "f") -> str:
    """A fusion of %in with that estimate."""
    named = f'metadata={{op_name="{scope}" stack_frame_id=3}}, ' if scope else ""
    return (
        f"%{name} = bf16[8,128] fusion({of}), kind=kLoop, calls=%in, {named}"
        f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'
    )


def part(*lines: str, above: str = "") -> Part:
    """The time of a module of these lines that is not of the copy at its end."""
    found = step_time(entry(*lines, above=above), WHERE).parts
    (one,) = (p for p in found if (p.tower, p.kind) != ("other", "copies, slices, casts"))
    return one


def test_cycles_are_summed_over_the_schedule_and_loops_multiply_them():
    inside = takes(30, of="@").replace("{", "{{").replace("}", "}}").replace("@", "{x}")
    comps, lines = loop("a", inside, bound=6)
    text = entry(takes(100, name="g"), lines.format(x="%p"), above=fused("add") + comps)
    found = step_time(text, WHERE)
    assert [(i.name, i.times) for i in found.longest[:2]] == [("f", 6), ("g", 1)]
    (timed,) = (p for p in found.parts if p.tower == "decoder")
    assert timed[:3] == ("elementwise", "decoder", "forward")
    assert timed[3:] == pytest.approx((280 / CHIP.clock, 0.0))
    # The copy that ends the entry: 2,048 bytes read and written; and the loop's counter.
    by_formula = 4096 / CHIP.hbm_speed
    assert found.seconds - 280 / CHIP.clock == pytest.approx(by_formula, rel=0.05)


@pytest.mark.parametrize(
    ("op", "scope", "kind"),
    [
        ("convolution", "jvp(decoder)/dot", "matrix products"),
        ("dot", "jvp(decoder)/dot", "matrix products"),
        ("transpose", "jvp(decoder)/x", "copies, slices, casts"),
        ("multiply", "jvp(decoder)/x", "elementwise"),
        ("multiply", "jvp(decoder)/jit(_bernoulli)/x", "random numbers"),
        ("multiply", "optimizer/decoder", "optimiser"),
        ("dot", "jvp(decoder)/vmap(splash)/hsd,hsd->hs/dot", "attention"),
    ],
)
def test_the_kind_is_that_of_what_is_fused(op, scope, kind):
    found = part(takes(9), above=fused(op, f"jit(step)/{scope}"))
    assert (found.kind, found.seconds) == (kind, 9 / CHIP.clock)


@pytest.mark.parametrize(
    ("scope", "place"),
    [
        ("jvp(compressor)/layers", ("compressor", "forward")),
        ("jvp(compressor)/connector/mul", ("connector", "forward")),
        ("transpose(jvp(decoder))/layers", ("decoder", "backward")),
        ("transpose(jvp(decoder))/rematted_computation/x", ("decoder", "recomputed")),
        ("transpose(jvp())/while/cross_entropy/x", ("loss", "backward")),
        ("optimizer/mul", ("other", "update")),
    ],
)
def test_tower_and_direction_come_from_the_name_of_the_instruction(scope, place):
    found = part(takes(9, f"jit(step)/while/body/{scope}"), above=fused("add"))
    assert (found.tower, found.direction) == place


def test_the_source_line_is_the_innermost_of_ours_and_its_callers():
    text = entry(takes(999_999, "jit(step)/jvp(decoder)/dot_general"), above=fused("add"))
    head, _, rest = text.partition("\n")
    (first, *_) = step_time(head + TABLES + rest, WHERE).longest
    assert first.line == "models/block.py:7 > models/lora.py:21"
    assert first.operation == "jvp(decoder)/dot_general"


@pytest.mark.parametrize(
    ("name", "products"), [("mha_fwd_x", 2), ("mha_dq_x", 3), ("mha_dkv_x", 5)]
)
def test_a_kernel_of_attention_is_estimated_by_its_operations(name, products):
    lines = (
        "%s = s8[1,1,1] constant({...})",
        "%q = bf16[4,256,128] constant({...})",
        "%k = bf16[2,512,128] constant({...})",
        f"%{name} = bf16[4,256,128] custom-call(%s, %q, %k), "
        'custom_call_target="tpu_custom_call", '
        'frontend_attributes={kernel_metadata={\n"a":"b"\n}}, '
        'metadata={op_name="jit(step)/jvp(decoder)/splash/pallas_call"}',
    )
    found = part(*lines)
    operations = 2 * products * 4 * 256 * 512 * 128
    assert (found.kind, found.tower) == ("attention", "decoder")
    assert found.seconds == found.formula == pytest.approx(operations / CHIP.flops)


@pytest.mark.parametrize(("beside", "waits"), [("copy", True), ("fusion", False)])
def test_only_a_collective_that_nothing_runs_beside_is_waited_for(beside, waits):
    lines = (
        "%s = bf16[8,128] all-reduce-start(%p), replica_groups=[2,4]<=[8], to_apply=%add, "
        'metadata={op_name="transpose(jvp(decoder))/dot"}',
        f"%m = bf16[8,128] {beside}(%p), calls=%in",
        "%d = bf16[8,128] all-reduce-done(%s)",
    )
    parts = step_time(entry(*lines, above=ADD + fused("add")), WHERE).parts
    waited = [p for p in parts if p.kind == "collectives waited for"]
    seconds = 2 * 3 / 4 * 2048 / WHERE.speed(4)
    expected = Part("collectives waited for", "decoder", "backward", seconds, seconds)
    assert waited == ([expected] if waits else [])
