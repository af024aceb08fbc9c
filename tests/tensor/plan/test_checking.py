"""Plans from anyone: what must not run is refused when it is loaded, and never with another error."""

from __future__ import annotations

import copy
import math
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import nn

import cloister
from cloister.errors import PlanError
from cloister.tensor.ops import by_name
from cloister.tensor.plan import encoding
from cloister.tensor.plan.program import CONSTANT_BYTES, Affine, Constant, Line, Metric, Program
from tests.tensor.plan.steps import loss, program, rows, squares

PROGRAM = program()
FIRST = PROGRAM.inputs


def load(changed: Program) -> cloister.Plan:
    return cloister.Plan.decode(encoding.encode(changed))


def with_lines(*lines: Line, before: Program = PROGRAM) -> Program:
    """The small program with lines put in front, whose values nothing names."""
    shift = sum(line.makes for line in lines)
    moved = tuple(_moved(line, shift) for line in before.lines)

    def new(value: int | None) -> Any:
        return value if value is None or value < before.inputs else value + shift

    return replace(
        before,
        lines=(*lines, *moved),
        loss=new(before.loss),
        gradients=tuple(map(new, before.gradients)),
        updates=tuple(map(new, before.updates)),
    )


def _moved(line: Line, shift: int) -> Line:
    op = by_name(line.op)
    args = [
        value + shift if param.of.value == "Tensor" and type(value) is int and value >= FIRST else value
        for param, value in zip(op.params, line.args, strict=False)
    ]
    return replace(line, args=tuple(args))


def test_the_unchanged_program_loads() -> None:
    assert load(PROGRAM).digest == squares.capture(nn.Linear(3, 2), example=rows(3)).digest
    assert load(with_lines(Line("aten::relu", (0,), {}, 1))).program.lines[0].op == "aten::relu"


HOSTILE: dict[str, tuple[Line, str]] = {
    "an unknown operation": (Line("aten::no_such", (0,), {}, 1), "no worker runs"),
    "another name space": (Line("prim::device", (0,), {}, 1), "no worker runs"),
    "files": (Line("aten::from_file", ("/etc/passwd",), {}, 1), "no worker runs"),
    "reading a value": (Line("aten::_local_scalar_dense", (0,), {}, 0), "reads values"),
    "too many arguments": (Line("aten::relu", (0, 0), {}, 1), "takes 1 arguments"),
    "too few arguments": (Line("aten::mm", (0,), {}, 1), "lacks its argument"),
    "an argument twice": (Line("aten::relu", (0,), {"self": 0}, 1), "twice"),
    "an argument of no such name": (Line("aten::relu", (0,), {"other": 0}, 1), "no argument"),
    "a keyword by position": (Line("aten::clone", (0, "contiguous_format"), {}, 1), "takes 1 arguments"),
    "itself": (Line("aten::relu", (FIRST,), {}, 1), "no value"),
    "what comes later": (Line("aten::relu", (FIRST + 1,), {}, 1), "no value"),
    "nothing": (Line("aten::relu", (-1,), {}, 1), "no value"),
    "a text for a tensor": (Line("aten::relu", ("x",), {}, 1), "no tensor"),
    "a text for a number": (Line("aten::transpose.int", (0, "x", 1), {}, 1), "schema"),
    "a text that is not listed": (Line("aten::gelu", (0,), {"approximate": "rm -rf"}, 1), "schema"),
    "a number for a list of tensors": (Line("aten::cat", (5,), {}, 1), "list of tensors"),
    "a symbol for a tensor": (Line("aten::relu", (Affine(1, 0),), {}, 1), "no tensor"),
    "a symbol in a list of tensors": (Line("aten::cat", ((Affine(1, 0),),), {}, 1), "list of tensors"),
    "a device": (Line("aten::zeros", ((2,),), {"device": "cuda:0"}, 1), "not a plan's to give"),
    "a generator": (Line("aten::rand", ((2,),), {"generator": 3}, 1), "argument"),
    "another number of results": (Line("aten::relu", (0,), {}, 2), "makes 1 values"),
    "writing to a parameter": (Line("aten::add_.Tensor", (0, 0), {}, 0), "writes to an input"),
    "writing to the batch": (Line("aten::zero_", (2,), {}, 0), "writes to an input"),
    "another shape in place": (Line("aten::squeeze_", (0,), {}, 0), "writes to an input|shape"),
    "shapes that do not fit": (Line("aten::mm", (0, 0), {}, 1), "line 0, aten::mm, for a batch of 5"),
    "a shape that depends on values": (Line("aten::nonzero", (0,), {}, 1), "depends on values"),
    "too much memory": (Line("aten::zeros", ((1 << 40,),), {}, 1), "limit"),
    "more memory than there are numbers": (Line("aten::zeros", ((1 << 47, 1 << 47),), {}, 1), "line 0"),
    "a negative size": (Line("aten::zeros", ((Affine(-1, 0),),), {}, 1), "line 0"),
    "a window off the image": (Line("aten::avg_pool2d", (0, (0, 0)), {}, 1), "line 0"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_line_is_refused(kind: str) -> None:
    line, words = HOSTILE[kind]
    with pytest.raises(PlanError, match=words):
        load(with_lines(line))


def test_views_of_an_input_are_not_written_to_either() -> None:
    with pytest.raises(PlanError, match="writes to an input"):
        load(with_lines(Line("aten::t", (0,), {}, 1), Line("aten::zero_", (FIRST,), {}, 0)))
    load(with_lines(Line("aten::clone", (0,), {}, 1), Line("aten::zero_", (FIRST,), {}, 0)))


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "a loss that is not there": ({"loss": 999}, "no value"),
    "a loss of rows": ({"loss": FIRST + 1}, "one real number"),
    "an input handed out": ({"loss": 0}, "hands out an input"),
    "no gradients": ({"gradients": ()}, "one gradient for each"),
    "one gradient for two": ({"gradients": (PROGRAM.gradients[0],) * 2}, "share memory"),
    "gradients of another shape": ({"gradients": PROGRAM.gradients[::-1]}, "another shape"),
    "a metric called loss": ({"metrics": (Metric("loss", PROGRAM.loss),)}, "called loss"),
    "a metric called clipped": ({"metrics": (Metric("clipped", PROGRAM.loss),)}, "or clipped"),
    "a metric called update_norm": ({"metrics": (Metric("update_norm", PROGRAM.loss),)}, "or update_norm"),
    "metrics of one name": ({"metrics": (Metric("a", PROGRAM.loss),) * 2}, "names of their own"),
    "a parameter twice": ({"parameters": (PROGRAM.parameters[0],) * 2}, "one name"),
    "an unknown element type": ({"batch": (replace(PROGRAM.batch[0], dtype="str"),)}, "element type"),
    "another format": ({"format": "cloister plan 0"}, "format"),
    "a constant without its bytes": ({"constants": (Constant("float32", (2,), b"1234"),)}, "bytes"),
    "a huge constant": ({"constants": (Constant("int8", (1 << 21,), bytes(1 << 21)),)}, "limit"),
    "a constant of no memory": ({"constants": (Constant("int8", (1 << 40,), b""),)}, "bytes"),
    "a bool of 2": ({"constants": (Constant("bool", (1,), b"\x02"),)}, "0 and 1"),
    "a parameter beyond memory": (
        {"parameters": (replace(PROGRAM.parameters[0], shape=(1 << 40, 1 << 40)), PROGRAM.parameters[1])},
        "limit",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_hostile_program_is_refused(kind: str) -> None:
    change, words = CHANGES[kind]
    with pytest.raises(PlanError, match=words):
        load(replace(PROGRAM, **change))


def test_gradients_only_of_what_is_trained() -> None:
    fixed = tuple(replace(parameter, trained=False) for parameter in PROGRAM.parameters)
    with pytest.raises(PlanError, match="not trained"):
        load(replace(PROGRAM, parameters=fixed))


def test_the_memory_limit_is_the_loader_s() -> None:
    data = encoding.encode(PROGRAM)
    with pytest.raises(PlanError, match="the limit is 100"):
        cloister.Plan.decode(data, memory_bytes=100)
    plan = cloister.Plan.decode(data, memory_bytes=4000)
    with pytest.raises(PlanError, match="for a batch of 10000"):
        plan.step({}, {}, rows(3, size=10_000))


def test_there_is_one_spelling() -> None:
    data = encoding.encode(PROGRAM)
    loose = msgspec.msgpack.encode(msgspec.msgpack.decode(data))
    longer = data.replace(b"\xa9aten::", b"\xd9\x09aten::", 1)
    assert loose == data
    for other in (data + b"\0", data[:-1], b"", b"\xc1", b"\x91" * 100_000, longer):
        if other != data:
            with pytest.raises(PlanError):
                cloister.Plan.decode(other)
    with pytest.raises(PlanError, match="limit"):
        cloister.Plan.decode(bytes(encoding.PLAN_BYTES + 1))


def test_the_limit_on_constants_leaves_room_for_a_plan() -> None:
    assert CONSTANT_BYTES < encoding.PLAN_BYTES


# A mutated plan is refused or is a plan; nothing else comes out.

SEEDS = [
    msgspec.to_builtins(each)
    for each in (
        program(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Flatten()), rows(1, 8, 8)),
        program(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Dropout(0.5)), rows(3)),
        encoding.decode(
            loss.capture(
                nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3)),
                example=(torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, dtype=torch.long)),
            ).encode()
        ),
    )
]
LEAVES = st.one_of(
    st.integers(-3, 60),
    st.sampled_from([0, -1, 1 << 31, 1 << 62, -(1 << 63), (1 << 63) - 1]),
    st.sampled_from([0.0, -1.5, math.inf, math.nan, 1e300]),
    st.sampled_from(["float32", "int64", "mean", "", "aten::mm", "aten::native_batch_norm_backward"]),
    st.sampled_from([None, True, False, [], [0], [1, 1], [-1, 5], {"per": 1, "plus": 0}, {"per": -1, "plus": 3}]),
)
OPERATIONS = st.sampled_from(
    sorted({line[0] for seed in SEEDS for line in seed[5]} | {"aten::as_strided", "aten::gather", "aten::index_put_"})
)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A plan with some of its parts replaced, dropped or doubled."""
    tree = msgspec.msgpack.decode(msgspec.msgpack.encode(draw(st.sampled_from(SEEDS))))
    for _ in range(draw(st.integers(1, 3))):
        node: Any = tree
        if draw(st.integers(0, 3)):  # among the lines, where most of a plan's meaning is
            lines = tree[5] if len(tree) > 5 and isinstance(tree[5], list) else []
            line = draw(st.sampled_from(lines)) if lines else tree
            node = line if isinstance(line, list) else tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            child = node[key]
            if isinstance(child, (list, dict)) and child and draw(st.integers(0, 4)):
                node = child
                continue
            action = draw(st.sampled_from(["nudge", "nudge", "nudge", "leaf", "operation", "drop", "double"]))
            if action == "drop":
                del node[key]
            elif action == "double" and isinstance(node, list):
                node.insert(key, child)
            elif action == "nudge" and type(child) in (int, float, bool):
                node[key] = not child if type(child) is bool else max(child, -5) + draw(st.sampled_from([-2, -1, 1, 2]))
            else:
                node[key] = copy.deepcopy(draw(OPERATIONS if action == "operation" else LEAVES))
            break
    return msgspec.msgpack.Encoder(order="deterministic").encode(tree)


def attempt(data: bytes) -> str:
    """Loads and runs a plan; how that ended."""
    try:
        plan = cloister.Plan.decode(data, memory_bytes=1 << 24)
    except PlanError:
        return "refused"
    assert plan.encode() == data
    assert plan.code
    held = plan.program
    make = {each.names[0]: torch.ones(each.shape, dtype=getattr(torch, each.dtype)) for each in held.held}
    batch = [torch.ones((3, *each.row), dtype=getattr(torch, each.dtype)) for each in held.batch]
    try:
        plan.step(make, make, batch)
    except PlanError:
        return "failed"
    return "ran"


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutants())
def test_a_mutated_plan_is_refused_or_runs(data: bytes) -> None:
    attempt(data)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutants())
def test_many_mutated_plans_are_refused_or_run(data: bytes) -> None:
    attempt(data)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bytes_are_refused_or_a_plan(data: st.DataObject) -> None:
    good = bytearray(encoding.encode(PROGRAM))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    attempt(bytes(good))
