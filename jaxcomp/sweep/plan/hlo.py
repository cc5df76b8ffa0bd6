"""The HLO text of a compiled program: its instructions and loops, and what moves between chips.

The text is that of an SPMD-partitioned, scheduled HLO module (`compiled.as_text()`), whose shapes
are those on one chip. XLA:TPU writes one collective in several ways, each counted as what it is:

    fusion %all-reduce-scatter        a reduce-scatter: an all-reduce, and the slice kept of it
    AsyncCollectiveStart ... Done     one collective, repeated in each fusion that it runs beside
    all-reduce of zero-padded parts   an all-reduce, which moves twice what an all-gather would
    chains of collective-permutes     as they stand: parts of a gather, each beside a product
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Collective(NamedTuple):
    """One collective of a program, as one chip sees it."""

    kind: str  # all-gather | all-reduce | reduce-scatter | all-to-all | collective-permute
    bytes: int  # of whole arrays: the gathered result of an all-gather, the operand of the rest
    group: int  # chips that take part together
    times: int  # executions in one run of the program; of a loop that may end early, the most
    overlapped: bool  # something is computed between its start and its end; else the cores wait
    shapes: tuple[str, ...]  # of those arrays, "bf16[1,4096,14336]"
    scope: str  # op_name if the compiler kept one, else the computation it stands in


class Op(NamedTuple):
    """An instruction."""

    name: str
    shape: str
    kind: str
    inner: str  # between the parentheses
    args: list[str]  # of it, the names of operands
    attrs: str
    notes: str  # metadata and backend_config


class Comp(NamedTuple):
    """A computation: instructions in the order of the schedule."""

    name: str
    ops: dict[str, Op]
    root: Op


class Module(NamedTuple):
    comps: dict[str, Comp]
    chips: int
    beside: set[str]  # channels of collectives that a computation is fused with


class _Loop(NamedTuple):
    body: Comp
    asked: Comp  # the condition
    state: State  # what the body finds
    times: int | None  # executions of the body; None where the text does not say

    def counted(self, op: Op) -> int:
        if self.times is None:
            raise ValueError(
                f"how often the loop %{op.name} runs cannot be read; expected a condition "
                f"(%{self.asked.name}) that compares a counter with a constant"
            )
        return self.times


class _Value(NamedTuple):
    offset: int  # an integer scalar is this,
    state: int | None = None  # or this more than what that element of its loop's state holds


Array = tuple[str, tuple[int, ...]]
State = Callable[[int], "_Value | None"]  # what a computation finds in its tuple of parameters
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTE = ("fusion", "convolution", "dot", "custom-call", "while", "call", "conditional")
_SAME = ("copy", "bitcast", "convert", "copy-start", "copy-done")
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+\w*)\[([\d,]*)\]")
NAMED = r'op_name="([^"]*)"'
_HEAD = re.compile(r"(ENTRY )?%([\w.-]+) \(")
_OP = re.compile(r"\s+(ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(([^)]*)\)(.*)")


def collectives(text: str) -> list[Collective]:
    """Every collective of the module `text`, in the order of the program, loops multiplied out.

    Of a conditional's branches the one that moves most is counted. Raises ValueError where `text`
    is no HLO module, or a loop that holds collectives does not say how often it runs.
    """
    return _walk(*parse(text))


def received(c: Collective) -> float:
    """Bytes that a chip receives in one execution by the bandwidth-optimal algorithm.

    All-gather, reduce-scatter and all-to-all (g - 1)/g of `bytes`, all-reduce twice that, a permute
    `bytes`; g chips. Source: Chan et al. 2007, doi:10.1002/cpe.1206.
    """
    share = 1.0 if c.kind == "collective-permute" else (c.group - 1) / c.group
    return c.bytes * share * (2 if c.kind == "all-reduce" else 1)


def parse(text: str) -> tuple[Module, Comp]:
    comps: dict[str, Comp] = {}
    name, entry, ops, root = "", "", {}, None
    text = re.sub(r'\{\n("[^\n]*)\n\}\}', r"{\1}}", text)  # a kernel's metadata: lines of their own
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, ops, root = head[2], {}, None
            entry = name if head[1] else entry
        elif found := _OP.match(line):
            attrs = re.split(r", (?:metadata|backend_config)=", found[6], maxsplit=1)[0]
            args, notes = re.findall(r"%([\w.-]+)", found[5]), found[6][len(attrs) :]
            op = Op(found[2], found[3], found[4], found[5], args, attrs, notes)
            ops[op.name], root = op, op if found[1] else root
        elif line.startswith("}") and root is not None:
            comps[name] = Comp(name, ops, root)
    if entry not in comps:
        raise ValueError("no ENTRY computation in the text; expected what compiled.as_text() gives")
    every = [(comp, op) for comp in comps.values() for op in comp.ops.values()]
    beside = {find(r"channel_id=(\d+)", op.attrs) for c, op in every if _part(c, op) == "middle"}
    chips = find(r"\bnum_partitions=(\d+)", text[: text.find("\n")])
    return Module(comps, int(chips or 1), beside - {""}), comps[entry]


def arrays(shape: str) -> list[Array]:
    """(dtype, sizes) of an array, or of each in a tuple."""
    return [(d, tuple(int(n) for n in s.split(",") if n)) for d, s in _ARRAY.findall(shape)]


def array_bytes(array: Array) -> int:
    bits = int(find(r"(\d+)", array[0]) or 8)  # pred: 8
    return -(-bits * math.prod(array[1]) // 8)  # 4 bits: packed


def find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _part(comp: Comp, op: Op) -> str:
    """Start, middle or Done of an asynchronous collective; nothing of what is in one piece."""
    if 'chain_id="' not in op.attrs:
        return ""
    users = [user for user in comp.ops.values() if op.name in user.args]
    return "".join(find(r'"AsyncCollective(\w+)"', user.attrs) for user in users) or "middle"


def called(module: Module, op: Op, keys: str) -> list[Comp]:
    found = re.findall(rf"\b(?:{keys})=(\{{[^}}]*\}}|%[\w.-]+)", op.attrs)
    return [module.comps[name] for name in re.findall(r"%([\w.-]+)", " ".join(found))]


def _walk(module: Module, comp: Comp, state: State = lambda _: None) -> list[Collective]:
    """The collectives of a computation and of all that it calls."""
    found, order = list[Collective](), list(comp.ops.values())
    for at, op in enumerate(order):
        kind = op.kind.removesuffix("-start")
        beside = kind != op.kind and _beside(order, at)
        if kind in KINDS and _part(comp, op) in ("", "Start"):
            found.append(_collective(module, comp, op, kind, beside))
        elif op.kind == "while":
            loop = _loop(module, comp, op, state)
            for part, once in ((loop.body, 0), (loop.asked, 1)):
                each = _walk(module, part, loop.state)
                n = loop.counted(op) + once if each else 0
                found += [c._replace(times=c.times * n) for c in each]
        elif op.kind == "conditional":
            ways = [_walk(module, way) for way in called(module, op, r"\w+_computations?")]
            found += max(ways, key=lambda way: sum(received(c) * c.times for c in way))
        elif op.kind in ("fusion", "call", "async-start", "custom-call"):
            for inner in called(module, op, "calls|to_apply|called_computations"):
                for c in _walk(module, inner):
                    named = find(NAMED, op.notes) or comp.name
                    scope = named if c.scope == inner.name else c.scope
                    found.append(c._replace(overlapped=c.overlapped or beside, scope=scope))
    return found


def _beside(order: list[Op], at: int) -> bool:
    """Whether something is computed between the asynchronous start at `at` and its end."""
    names = {order[at].name}
    for op in order[at + 1 :]:
        if op.kind in _COMPUTE or (op.kind.endswith("-done") and names & set(op.args)):
            return op.kind in _COMPUTE
        names |= {op.name} if names & set(op.args) else set()
    return False


def _collective(module: Module, comp: Comp, op: Op, kind: str, beside: bool) -> Collective:
    given = op.args[:1] if kind == "collective-permute" else op.args
    found = [array for name in given for array in arrays(comp.ops[name].shape)]
    if kind == "all-gather":  # the shape of a start is that of the operands, then of the results
        found = arrays(op.shape)[-len(found) :]
    if kind == "all-reduce" and comp.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    beside = beside or find(r"channel_id=(\d+)", op.attrs) in module.beside
    shapes = tuple(f"{dtype}[{','.join(map(str, sizes))}]" for dtype, sizes in found)
    scope = find(NAMED, op.notes) or comp.name
    size = sum(map(array_bytes, found))
    return Collective(kind, size, _group(op, module.chips), 1, beside, shapes, scope)


def _group(op: Op, chips: int) -> int:
    """Chips of one group, in any spelling of replica_groups; of a permute, of the longest ring."""
    rings: list[set[str]] = []
    for pair in re.findall(r"\{(\d+),(\d+)\}", op.attrs.partition("target_pairs=")[2]):
        met = [ring for ring in rings if ring & set(pair)]
        rings = [ring for ring in rings if ring not in met] + [set(pair).union(*met)]
    if rings:
        return max(map(len, rings))
    text = op.attrs.partition("replica_groups=")[2]
    if text.startswith("mesh["):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", text[: text.index("]")]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", find(r"\{('[^}]*)\}", text))
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    iota, listed = find(r"^\[(?:\d+,)*(\d+)\]<=", text), find(r"^\{\{([\d,]+)\}", text)
    return int(iota) if iota else len(listed.split(",")) if listed else chips


def executed(
    module: Module, comp: Comp, times: int = 1, state: State = lambda _: None
) -> Iterator[tuple[Comp, Op, int]]:
    """(its computation, instruction, executions) of all that a computation runs, loops multiplied
    out; a fusion is one instruction, and of a conditional's branches the first is taken.

    Raises ValueError where a loop does not say how often it runs.
    """
    for op in comp.ops.values():
        if op.kind == "while":
            loop = _loop(module, comp, op, state)
            yield from executed(module, loop.body, times * loop.counted(op), loop.state)
        elif op.kind in ("call", "conditional"):
            for inner in called(module, op, r"to_apply|\w+_computations?")[:1]:
                yield from executed(module, inner, times)
        else:
            yield comp, op, times


def _loop(module: Module, comp: Comp, op: Op, outer: State) -> _Loop:
    (asked,), (body,) = called(module, op, "condition"), called(module, op, "body")
    given = comp.ops[op.args[0]]  # what the loop starts from

    def state(index: int) -> _Value | None:
        kept = _item(body, body.root, index, lambda i: _Value(0, i)) == _Value(0, index)
        start = _item(comp, given, index, outer) if kept else None
        return start if start and start.state is None else _Value(0, index)

    said = find(r'known_trip_count":\{"n":"(\d+)"', op.notes)
    counts = [int(said)] if said else []
    for left, right, way in () if said else _compares(asked, asked.root, state):
        if left.state is None:
            left, right, way = right, left, way.translate(str.maketrans("LG", "GL"))
        start = _item(comp, given, left.state or 0, outer)
        after = _item(body, body.root, left.state or 0, state)
        known = start and start.state is None and right.state is None
        if start and known and after and after.state == left.state and after.offset:
            end = right.offset - left.offset + {"LE": 1, "GE": -1}.get(way, 0)
            counts.append(max(0, -((start.offset - end) // after.offset)))
    return _Loop(body, asked, state, min(counts, default=None))


def _compares(comp: Comp, op: Op, state: State) -> Iterator[tuple[_Value, _Value, str]]:
    """(left, right, direction) of comparisons that must all hold."""
    if op.kind == "compare":
        left, right = (_value(comp, name, state) for name in op.args)
        if left and right:
            yield left, right, find(r"direction=(\w\w)", op.attrs)
    elif op.kind == "and" or op.kind in _SAME:
        for name in op.args:
            yield from _compares(comp, comp.ops[name], state)


def _value(comp: Comp, name: str, state: State) -> _Value | None:
    """What an integer scalar is, as far as the text says."""
    op = comp.ops[name]
    if op.kind == "constant":
        return _Value(int(op.inner)) if re.fullmatch(r"-?\d+", op.inner) else None
    if op.kind in _SAME:
        return _value(comp, op.args[0], state)
    if op.kind == "get-tuple-element":
        source, index = comp.ops[op.args[0]], int(find(r"index=(\d+)", op.attrs))
        return state(index) if source.kind == "parameter" else _item(comp, source, index, state)
    if op.kind in ("add", "subtract"):
        left, right = (_value(comp, arg, state) for arg in op.args)
        if op.kind == "add" and left and left.state is None:
            left, right = right, left
        if left and right and right.state is None:
            return _Value(left.offset + right.offset * (1 if op.kind == "add" else -1), left.state)
    return None


def _item(comp: Comp, op: Op, index: int, state: State) -> _Value | None:
    return _value(comp, op.args[index], state) if op.kind == "tuple" else None
