"""Where rows are, after tensors were put otherwise: held against NumPy, on tensors whose entries say their row."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cloister.plans.layout import ROWS, Dims, UnclearError, broadcast, normal, reshape, size, unify
from cloister.tensor.plan.program import Affine

B = 5  # a batch's size that divides no other number here

whole = st.sampled_from([2, 3, 4, 6])
dims = st.tuples(*[st.lists(whole, max_size=2).map(normal)] * 3).flatmap(
    lambda plain: st.integers(0, 2).map(
        lambda at: tuple(normal((*dim, ROWS, *dim)) if place == at else dim for place, dim in enumerate(plain))
    )
)


def length(dim: tuple[int | Affine, ...]) -> int:
    return math.prod(B if atom == ROWS else atom for atom in dim)  # type: ignore[misc]


def by_row(layout: Dims) -> np.ndarray:
    """A tensor of this layout whose entries are the numbers of their rows."""
    atoms = [atom for dim in layout for atom in dim]
    shape = [B if atom == ROWS else atom for atom in atoms]
    numbers = np.zeros(shape, int)
    numbers += np.arange(B).reshape([B if atom == ROWS else 1 for atom in atoms])
    return numbers.reshape([length(dim) for dim in layout])


@given(dims, st.data())
def test_rows_are_where_numpy_has_them(layout: Dims, data: st.DataObject) -> None:
    atoms = [atom for dim in layout for atom in dim]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(atoms)), max_size=3)))
    parts = [atoms[a:b] for a, b in zip([0, *cuts], [*cuts, len(atoms)], strict=True)]
    extents = [size(normal(part)) for part in parts]
    found = reshape(layout, extents)
    shape = [extent if type(extent) is int else extent.per * B for extent in extents]  # type: ignore[union-attr]
    assert (by_row(layout).reshape(shape) == by_row(found)).all()
    assert reshape(found, [size(dim) for dim in layout]) == layout


@given(dims, st.lists(st.sampled_from([1, 2, 3, 4, 6, ROWS, Affine(2, 0), Affine(6, 0), -1]), max_size=4))
def test_whatever_is_asked_for_it_is_as_numpy_has_it_or_unclear(layout: Dims, extents: list[int | Affine]) -> None:
    assume(extents.count(-1) < 2)
    try:
        found = reshape(layout, extents)
    except UnclearError:
        return
    shape = [extent if type(extent) is int else extent.per * B for extent in extents]  # type: ignore[union-attr]
    assert (by_row(layout).reshape(shape) == by_row(found)).all()


def test_rows_by_steps_and_steps_by_rows_do_not_stand_in_line() -> None:
    with pytest.raises(UnclearError, match="in line"):
        unify((ROWS, 9), (9, ROWS))
    with pytest.raises(UnclearError, match="apart"):
        reshape(((ROWS,), (6,)), [6, ROWS])
    with pytest.raises(UnclearError, match="two rows"):
        reshape(((ROWS,), (ROWS,)), [-1])


def test_what_is_alike_in_all_entries_takes_any_order() -> None:
    alike = (Affine(9, 0),)
    assert unify(alike, (9, ROWS)) == (9, ROWS)
    assert reshape((alike, (4,)), [9, ROWS, 4]) == ((9,), (ROWS,), (4,))
    assert reshape((alike, (4,)), [ROWS, 9, 4]) == ((ROWS,), (9,), (4,))


def test_one_entry_is_stretched() -> None:
    assert broadcast([((ROWS,), ()), ((3,),)]) == ((ROWS,), (3,))
