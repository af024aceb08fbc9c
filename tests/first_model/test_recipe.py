"""Recipes: what may stand in one, the tables that people write, and the way into a charter's content."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import cbor2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.charter.charter import content
from cloister.models import recipe_toml
from cloister.models.drawing import bounds
from cloister.models.recipe import (
    DTYPES,
    ELEMENTS,
    LARGEST,
    NAME_CHARS,
    SMALLEST,
    TENSORS,
    Drawn,
    Recipe,
    entry_faults,
    faults,
)
from cloister.tables import Table

UNIFORM = Drawn(tensor="0.weight", dtype="float32", shape=(16, 6), draw="uniform", low=-0.408, high=0.408)
NORMAL = Drawn(tensor="1.weight", dtype="float64", shape=(8,), draw="normal", mean=0.0, std=0.02, low=-0.04, high=0.04)
CONSTANT = Drawn(tensor="2.bias", dtype="float32", shape=(), draw="constant", value=1.0)

TEXT = """
[[first_model]]
tensor = "2.bias"
dtype = "float32"
shape = []
draw = "constant"
value = 1

[[first_model]]
tensor = "0.weight"
dtype = "float32"
shape = [16, 6]
draw = "uniform"
low = -0.408
high = 0.408

[[first_model]]
tensor = "1.weight"
dtype = "float64"
shape = [8]
draw = "normal"
mean = 0
std = 0.02
low = -0.04
high = 0.04
"""

numbers = st.one_of(
    st.just(0.0), st.floats(SMALLEST, LARGEST), st.floats(SMALLEST, LARGEST).map(lambda number: -number)
)


@st.composite
def entries(draw: st.DrawFn, elements: int = 64) -> Drawn:
    """Any entry without faults, of at most so many elements."""
    dtype = draw(st.sampled_from(DTYPES))
    name = draw(st.text('ab0._-"\\ é', min_size=1, max_size=20).filter(str.strip))
    shape = tuple(draw(st.sampled_from([(), (1,), (elements,), (4, elements // 4), (2, 1, elements // 2)])))
    match draw(st.sampled_from(["uniform", "normal", "constant"])):
        case "constant":
            given = {"draw": "constant", "value": draw(numbers)}
        case "uniform":
            low = draw(numbers)
            width = draw(st.floats(1e-4, 1e4)) * max(abs(low), 1e-6)
            given = {"draw": "uniform", "low": low, "high": low + width}
        case _:
            mean, below, above = draw(numbers), draw(st.floats(1.01, 6.0)), draw(st.floats(1.01, 6.0))
            std = draw(st.floats(1e-4, 1e4)) * max(abs(mean), 1e-6)
            given = {"draw": "normal", "mean": mean, "std": std, "low": mean - below * std, "high": mean + above * std}
    entry = Drawn(tensor=name, dtype=dtype, shape=shape, **given)
    return entry if not list(entry_faults(entry)) else replace(UNIFORM, tensor=name, dtype=dtype, shape=shape)


def read(text: str) -> tuple[Recipe, list[str]]:
    """The recipe in a TOML text, and its faults."""
    found: list[str] = []
    table = Table(tomllib.loads(text), faults=found)
    recipe = recipe_toml.parse(table.tables("first_model"))
    table.finish()
    return recipe, found


def test_the_order_in_the_file_does_not_matter() -> None:
    assert read(TEXT) == ((UNIFORM, NORMAL, CONSTANT), [])
    assert not list(faults((UNIFORM, NORMAL, CONSTANT)))
    assert read("") == ((), [])


@given(st.lists(entries(), min_size=1, max_size=4, unique_by=lambda entry: entry.tensor))
def test_what_is_written_is_read_again(found: list[Drawn]) -> None:
    recipe = tuple(sorted(found, key=lambda entry: entry.tensor))
    assert not list(faults(recipe))
    assert read(recipe_toml.text(recipe)) == (recipe, [])


@given(entries())
def test_a_recipe_can_stand_in_a_charter(entry: Drawn) -> None:
    told = cbor2.loads(cbor2.dumps(content((entry,)), canonical=True))
    assert msgspec.convert(told, Recipe) == (entry,)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"2.bias"', '""', "first_model[0].tensor: must be a text of printable"),
        ('"2.bias"', f'"{"x" * (NAME_CHARS + 1)}"', "first_model[0].tensor: is longer than"),
        ('"2.bias"', '"0.weight"', "first_model[1].tensor: another entry is for this"),
        ('"float64"', '"float16"', "first_model[2].dtype: must be one of float32, float64"),
        ("[16, 6]", "[16, 0]", "first_model[1].shape: must be a list of"),
        ("[16, 6]", "[16, true]", "first_model[1].shape: must be a list of"),
        ("[16, 6]", "[16, 6.0]", "first_model[1].shape: must be a list of"),
        ("[16, 6]", "16", "first_model[1].shape: must be a list of"),
        ("[16, 6]", str([1] * 17), "first_model[1].shape: must be a list of"),
        ("[16, 6]", "[65536, 65537]", "first_model[1].shape: must be at most 16 sizes"),
        ("[16, 6]", "[65536, 65535]", "first_model[2].shape: the tensors up to here have more than"),
        ("shape = [8]\n", "", "first_model[2].shape: is missing"),
        ('"uniform"', '"xavier"', "first_model[1].draw: must be one of uniform, normal, constant"),
        ("value = 1", "", "first_model[0].value: is missing"),
        ("value = 1", "value = 1\nlow = 0", "first_model[0].low: there is no such key"),
        ("value = 1", "value = nan", "first_model[0].value: must be a finite number"),
        ("value = 1", "value = inf", "first_model[0].value: must be a finite number"),
        ("value = 1", "value = 1e13", "first_model[0].value: must be 0, or from 1e-12"),
        ("value = 1", "value = -1e-13", "first_model[0].value: must be 0, or from 1e-12"),
        ("low = -0.408", "low = 0.408", "first_model[1].high: must be above low"),
        ("low = -0.408", "low = 0.4079999", "first_model[1].high: leaves too little to draw from"),
        ("std = 0.02", "std = 0", "first_model[2].std: must be above 0"),
        ("std = 0.02", "std = -1", "first_model[2].std: must be above 0"),
        ("std = 0.02", "std = 0.05", "first_model[2].low: must leave one std"),
        ("high = 0.04", "high = 0.01", "first_model[2].high: must leave one std"),
    ],
)
def test_each_fault_is_told_with_its_place(old: str, new: str, fault: str) -> None:
    changed = TEXT.replace(old, new, 1)
    if "[65536, 65535]" in new:
        changed = changed.replace("[8]", "[65537]")
    _, found = read(changed)
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_a_faulty_draw_is_told_once() -> None:
    _, found = read(TEXT.replace('draw = "normal"', "draw = 3"))
    assert found == ["first_model[2].draw: must be one of uniform, normal, constant"]


def test_too_many_tensors_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_toml, "TENSORS", 3)
    found: list[str] = []
    entry = {"dtype": "float32", "shape": [], "draw": "constant", "value": 0.0}
    tables = [Table({"tensor": f"{index}", **entry}, faults=found) for index in range(9)]
    recipe_toml.parse(tables)
    assert found == ["tensor: one tensor too many: there may be 3"]


@pytest.mark.parametrize(
    ("recipe", "place"),
    [
        ((), "first_model"),
        ((CONSTANT,) * (TENSORS + 1), "first_model"),
        ((UNIFORM, replace(NORMAL, tensor="0.weight")), "first_model[1].tensor"),
        ((NORMAL, UNIFORM), "first_model[1].tensor"),
        ((replace(UNIFORM, shape=(ELEMENTS,)), NORMAL), "first_model"),
        ((replace(UNIFORM, shape=(ELEMENTS, 2)),), "first_model[0].shape"),
        ((replace(UNIFORM, shape=(-1, -1)),), "first_model[0].shape"),
        ((replace(UNIFORM, shape=(1,) * 17),), "first_model[0].shape"),
        ((replace(UNIFORM, tensor="a\nb"),), "first_model[0].tensor"),
        ((replace(UNIFORM, tensor=""),), "first_model[0].tensor"),
        ((replace(UNIFORM, tensor="  "),), "first_model[0].tensor"),
        ((replace(UNIFORM, tensor="a" * 257),), "first_model[0].tensor"),
        ((replace(UNIFORM, dtype="float16"),), "first_model[0].dtype"),
        ((replace(UNIFORM, draw="beta"),), "first_model[0].draw"),
        ((replace(UNIFORM, high=None),), "first_model[0].high"),
        ((replace(UNIFORM, high=float("nan")),), "first_model[0].high"),
        ((replace(UNIFORM, high=float("inf")),), "first_model[0].high"),
        ((replace(UNIFORM, value=1.0),), "first_model[0].value"),
        ((replace(NORMAL, std=1e-11, low=-1e-11, high=2e-11, mean=1.0),), "first_model[0].high"),
        ((replace(NORMAL, std=1e-11, low=0.0, high=2.0, mean=1.0, dtype="float32"),), "first_model[0].std"),
    ],
)
def test_a_recipe_from_elsewhere_is_held_to_the_same_rules(recipe: Any, place: str) -> None:
    assert place in [found for found, _ in faults(recipe)]


def test_a_place_begins_as_the_caller_says() -> None:
    assert dict(faults((replace(UNIFORM, low=1.0),), place="jobs[2].first_model")) == {
        "jobs[2].first_model[0].high": "must be above low"
    }


@given(entries())
def test_bounds_are_the_nearest_numbers_within(entry: Drawn) -> None:
    low, high = bounds(entry)
    kind = np.dtype(entry.dtype).type
    assert (float(kind(low)), float(kind(high))) == (low, high)
    if entry.draw == "constant":
        assert low == high == float(kind(entry.value))
        return
    assert entry.low is not None
    assert entry.high is not None
    assert entry.low <= low < high <= entry.high
    assert float(np.nextafter(kind(low), kind(-np.inf))) < entry.low
    assert float(np.nextafter(kind(high), kind(np.inf))) > entry.high
