"""A recipe as people write it, a table for each tensor: every fault is told with its place.

[[first_model]]
tensor = "0.weight"
dtype = "float32"
shape = [16, 6]
draw = "uniform"
low = -0.408
high = 0.408
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, cast

from cloister.models.recipe import (
    DRAWS,
    DTYPES,
    ELEMENTS,
    NAME_CHARS,
    NUMBERS,
    TENSORS,
    Draw,
    Drawn,
    Dtype,
    Recipe,
    entry_faults,
)
from cloister.tables import Table
from cloister.wire.limits import DIMENSIONS

_STAND_IN: Final[Draw] = "constant"
"""Taken where ``draw`` is faulty, as is told."""


def parse(tables: Sequence[Table]) -> Recipe:
    """The recipe in these tables, sorted by its tensors' names; their faults are noted at the tables.

    What comes of faulty tables is a stand-in, and of none it is empty: whether a recipe has to be there is for the
    caller to say.
    """
    found: list[Drawn] = []
    names: set[str] = set()
    elements = 0
    for table in tables[: TENSORS + 1]:
        entry = _entry(table)
        elements += entry.elements
        if entry.tensor in names:
            table.fault("tensor", "another entry is for this tensor")
        if len(found) == TENSORS:
            table.fault("tensor", f"one tensor too many: there may be {TENSORS}")
        if elements > ELEMENTS >= elements - entry.elements and entry.elements <= ELEMENTS:
            table.fault("shape", f"the tensors up to here have more than {ELEMENTS} elements together")
        if entry.tensor:  # it is told why another has none
            names.add(entry.tensor)
        found.append(entry)
    return tuple(sorted(found, key=lambda entry: entry.tensor))


def text(recipe: Recipe, *, table: str = "first_model") -> str:
    """The TOML of a recipe, to be read by people and ``parse``; ``table`` is the key of its tables."""
    lines = []
    for entry in recipe:
        numbers = [f"{key} = {getattr(entry, key)!r}" for key in NUMBERS[entry.draw]]
        lines += [
            f"[[{table}]]",
            f"tensor = {json.dumps(entry.tensor, ensure_ascii=False)}",
            f'dtype = "{entry.dtype}"',
            f"shape = {list(entry.shape)}",
            f'draw = "{entry.draw}"',
            *numbers,
            "",
        ]
    return "\n".join(lines)


def _entry(table: Table) -> Drawn:
    name = table.text("tensor", most=NAME_CHARS)
    dtype = table.choice("dtype", among=DTYPES)
    shape = _shape(table)
    draw = table.choice("draw", among=DRAWS)
    keys = NUMBERS[draw] if draw else tuple(key for key in _EVERY if table.holds(key))
    numbers = {key: table.number(key) for key in keys}
    entry = Drawn(
        tensor=name[:NAME_CHARS],
        dtype=cast(Dtype, dtype or DTYPES[0]),
        shape=() if shape is None else shape,
        draw=cast(Draw, draw or _STAND_IN),
        **numbers,
    )
    if name and dtype and shape is not None and draw and None not in numbers.values():
        for key, fault in entry_faults(entry):
            table.fault(key, fault)
    return entry


_EVERY: Final = tuple(dict.fromkeys(key for keys in NUMBERS.values() for key in keys))


def _shape(table: Table) -> tuple[int, ...] | None:
    """The sizes of a tensor, none for a single number; None where they are faulty."""
    what = f"a list of at most {DIMENSIONS} whole numbers from 1 on, such as [16, 6]"
    sizes = table.take("shape", list, what, None)
    if sizes is None:
        return None
    if len(sizes) > DIMENSIONS or not all(type(size) is int and 0 < size <= ELEMENTS for size in sizes):
        table.fault("shape", f"must be {what}")
        return None
    return tuple(sizes)
