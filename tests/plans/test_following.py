"""Lines as a hostile hand writes them: what each does to rows, and that nothing but a typed error comes out."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cloister.errors import PlanError
from cloister.plans.concerns import Concern
from cloister.plans.following import follow
from cloister.plans.look import look
from cloister.plans.words import code, describe
from cloister.tensor import optable
from cloister.tensor.plan.program import Affine, Line, Program
from tests.plans.lines import FIRST, TABLE, B, X, Y, op, program
from tests.plans.samples import HONEST, HOSTILE, captured


def concerns(*lines: Line) -> set[str]:
    made = program(*lines)
    found = follow(made)
    return {origin.concern.name for origin in found.concerns_of(made.loss)}


FINE: dict[str, tuple[Line, ...]] = {
    "a mean": (op("mean", X),),
    "a sum of squares": (op("pow.Tensor_Scalar", X, 2), op("sum", FIRST)),
    "a gradient's product": (op("t", X), op("mm", FIRST, X)),
    "a column": (op("select.int", X, 1, 0), op("mean", FIRST)),
    "rows by heads": (op("view", X, (Affine(2, 0), 2)), op("mean", FIRST)),
    "each row's own": (op("arange", B), op("index.Tensor", X, (FIRST, Y)), op("mean", FIRST + 1)),
    "a share of answers": (op("gt.Scalar", X, 0.5), op("_to_copy", FIRST, dtype="float32"), op("mean", FIRST + 1)),
    "a whole slice": (op("slice.Tensor", X, 0, 0, B), op("sum", FIRST)),
}
OTHER: dict[str, tuple[tuple[Line, ...], str]] = {
    "a row": ((op("select.int", X, 0, -1),), "PICK"),
    "a row of another view": ((op("t", X), op("select.int", FIRST, 1, 0)), "PICK"),
    "a slice": ((op("slice.Tensor", X, 0, 0, 3),), "PICK"),
    "a row split off": ((op("split.Tensor", X, 1, makes=1),), "PICK"),
    "a row behind a write": ((op("clone", X), op("select.int", FIRST, 0, 0), op("zero_", FIRST + 1, makes=0)), "PICK"),
    "an index": ((op("arange", 2), op("index.Tensor", X, (FIRST,))), "PICK"),
    "an index that counts backwards": (
        (op("arange", B), op("neg", FIRST), op("index.Tensor", X, (FIRST + 1,))),
        "PICK",
    ),
    "an index along": ((op("randperm", B), op("index_select", X, 0, FIRST)), "PICK"),
    "a table of rows": ((op("arange", 2), op("embedding", X, FIRST)), "PICK"),
    "one overwrites the other": ((op("zeros", (4,)), op("scatter.src", FIRST, 0, Y, Y)), "PICK"),
    "a diagonal": ((op("eye", B), op("mm", FIRST, X)), "PLACE"),
    "a table cut to the batch": ((op("slice.Tensor", TABLE, 0, 0, B), op("mul.Tensor", Y, FIRST)), "PLACE"),
    "steps of a line": ((op("linspace", 0.0, 1.0, B), op("mul.Tensor", Y, FIRST)), "PLACE"),
    "part of a batch written": (
        (
            op("zeros", (B,)),
            op("slice.Tensor", FIRST, 0, 0, 1),
            op("fill_.Scalar", FIRST + 1, 1.0, makes=0),
            op("mul.Tensor", Y, FIRST),
        ),
        "PLACE",
    ),
    "a triangle": ((op("tril", X),), "PLACE"),
    "repeated rows": ((op("repeat", X, (2, 1)), op("slice.Tensor", FIRST, 0, 0, B)), "PICK"),
    "sorted": ((op("sort", X, 0, makes=2),), "RANK"),
    "the largest of all": ((op("max", X),), "RANK"),
    "any": ((op("gt.Scalar", X, 0.5), op("any", FIRST)), "RANK"),
    "totals": ((op("cumsum", X, 0),), "RUN"),
    "a condition": ((op("gt.Scalar", X, 0.5), op("mul.Tensor", X, FIRST)), "FILTER"),
    "not a condition": ((op("gt.Scalar", X, 0.5), op("logical_not", FIRST), op("mul.Tensor", X, FIRST + 1)), "FILTER"),
    "sums by key": (
        (op("zeros", (4,)), op("select.int", X, 1, 0), op("scatter_add", FIRST, 0, Y, FIRST + 1)),
        "FILTER",
    ),
    "sums by index": ((op("zeros", (4, 4)), op("index_add", FIRST, 0, Y, X)), "FILTER"),
    "sums put in": ((op("zeros", (4, 4)), op("index_put", FIRST, (Y,), X, True)), "FILTER"),
    "a gate": ((op("threshold_backward", X, X, 0.5),), "FILTER"),
    "a sign taken over": ((op("copysign.Tensor", X, X),), "FILTER"),
    "a label made of an answer": (
        (
            op("gt.Scalar", Y, 2),
            op("_to_copy", FIRST, dtype="int64"),
            op("nll_loss_forward", X, FIRST + 1, None, 0, -100, makes=2),
        ),
        "FILTER",
    ),
    "a rounded number": ((op("round", X), op("mul.Tensor", X, FIRST)), "FILTER"),
    "an answer put in": ((op("eq.Scalar", X, 2), op("masked_fill.Scalar", X, FIRST, 0)), "FILTER"),
    "a table of answers": ((op("index.Tensor", TABLE, (Y,)), op("t", X), op("mv", FIRST + 1, FIRST)), "FILTER"),
    "a softmax of rows": ((op("_softmax", X, 0, False),), "OUTWEIGH"),
    "a factor": ((op("mul.Scalar", X, 1e9),), "STEEP"),
    "two by two": ((op("t", X), op("mm", X, FIRST)), "PAIRS"),
    "hardly any": ((op("bernoulli.p", X, 0.01),), "THIN"),
    "rows cut up": ((op("view", X, (4, B)),), "UNKNOWN"),
    "rows of channels": ((op("view", X, (1, B, 4)), op("avg_pool2d", FIRST, (2, 2))), "UNKNOWN"),
    "strides": ((op("as_strided", X, (4,), (1,)),), "UNKNOWN"),
    "another number of results": ((op("relu", X, makes=2),), "UNKNOWN"),
    "arguments of another kind": ((op("sum.dim_IntList", X, ("a",)),), "UNKNOWN"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", FINE)
def test_lines_that_take_all_rows_alike(kind: str) -> None:
    assert concerns(*FINE[kind]) == set()
    assert look(program(*FINE[kind])).averages


@pytest.mark.parametrize("kind", OTHER)
def test_lines_that_do_not(kind: str) -> None:
    lines, concern = OTHER[kind]
    made = program(*lines)
    assert concern in {origin.concern.name for origin in follow(made).origins}
    assert not look(made).averages


def test_each_kind_of_concern_comes_up_here() -> None:
    assert {kind for _, kind in OTHER.values()} == {concern.name for concern in Concern}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*HONEST, *HOSTILE])
def test_shapes_are_those_that_torch_finds(name: str) -> None:
    """Wherever the look knows a layout, it is as long as PyTorch says, for any batch."""
    plan = captured(name)
    theirs = re.sub(r": (float32|int64|bool)\[", ": [", plan.code).splitlines()
    ours = re.sub(r": (float32|int64|bool)\[", ": [", code(plan.program)).splitlines()
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if "absent" not in other and "[?]" not in one and "float32[0]" not in other and "[0]" not in other:
            assert one == other
    assert "[?]" not in "".join(ours) or name in HOSTILE


items = st.one_of(
    st.booleans(), st.integers(-9, 99), st.floats(), st.none(), st.builds(Affine, *[st.integers(-3, 9)] * 2)
)
arguments = st.one_of(
    st.integers(0, 12), items, st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from(["float32", "mean", "add", ""]),
    st.lists(items, max_size=4).map(tuple), st.lists(st.integers(0, 12), max_size=4).map(tuple),
)  # fmt: skip
names = st.sampled_from(sorted(optable.load()))
lines = st.builds(
    Line, names, st.lists(arguments, max_size=6).map(tuple), st.just({}), st.sampled_from([0, 1, 1, 1, 2, 3])
)


def survives(made: Program) -> None:
    """It is looked at, or refused with the typed error."""
    describe(made)
    try:
        look(made)
        code(made)
    except PlanError:
        pass


@given(st.lists(lines, max_size=8))
@settings(suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
def test_whatever_is_written_it_is_looked_at_or_refused(written: list[Line]) -> None:
    survives(program(op("relu", X), *written))


@given(st.sampled_from(["mse", "batch norm", "group norm", "by index", "counts"]), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
def test_so_is_an_honest_program_with_another_argument(name: str, data: st.DataObject) -> None:
    honest = captured(name).program
    at = data.draw(st.integers(0, len(honest.lines) - 1))
    line = honest.lines[at]
    changed: tuple[Any, ...] = line.args
    if line.args:
        place = data.draw(st.integers(0, len(line.args) - 1))
        changed = (*line.args[:place], data.draw(arguments), *line.args[place + 1 :])
    survives(replace(honest, lines=(*honest.lines[:at], replace(line, args=changed), *honest.lines[at + 1 :])))
