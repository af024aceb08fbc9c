"""Descriptions of tensors without values."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloister.tensor import geometry
from cloister.tensor.geometry import Geometry


def test_equal_content_is_the_same_object() -> None:
    one = Geometry.contiguous(torch.float32, (2, 3))
    assert one is Geometry.contiguous(torch.float32, (2, 3))
    assert one is Geometry.of(torch.zeros(2, 3))
    assert one is not Geometry.contiguous(torch.float64, (2, 3))
    assert one is not Geometry.of(torch.zeros(3, 2).t())


def test_a_view_is_not_its_storage() -> None:
    view = Geometry.of(torch.zeros(4, 3)[1:, :2])
    assert (view.shape, view.strides, view.offset) == ((3, 2), (3, 1), 3)
    assert view.nbytes == 24
    assert view.storage_bytes == 48


def test_it_reads_like_a_type() -> None:
    assert repr(Geometry.contiguous(torch.int64, (2, 3))) == "int64[2, 3]"
    assert repr(Geometry.contiguous(torch.bool, ())) == "bool[]"


@pytest.mark.slow
def test_unused_ones_are_forgotten() -> None:
    Geometry.contiguous(torch.float32, (7, 7, 7))
    gc.collect()
    assert not any(key[1] == (7, 7, 7) for key in geometry._interned)


@given(st.lists(st.integers(0, 5), max_size=5).map(tuple))
def test_contiguous_strides_are_pytorchs(shape: tuple[int, ...]) -> None:
    assert Geometry.contiguous(torch.float32, shape).strides == torch.empty(shape).stride()
