"""The bounds on results whose size depends on values hold: what PyTorch makes is never larger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import HostileIndexError
from cloister.worker.output_bounds import output_bytes

aten = torch.ops.aten
sizes = st.integers(0, 6)


def size_of(made: Any) -> int:
    tensors = made if isinstance(made, tuple) else (made,)
    return sum(tensor.nbytes for tensor in tensors)


@given(rows=sizes, columns=sizes, dtype=st.sampled_from([torch.float32, torch.float64, torch.bool, torch.int8]))
@settings(max_examples=40, deadline=None)
def test_operations_that_pick_elements(rows: int, columns: int, dtype: torch.dtype) -> None:
    x = torch.ones(rows, columns).to(dtype)
    cases: dict[str, Callable[[], Any]] = {
        "aten::nonzero": lambda: aten.nonzero(x),
        "aten::_unique2": lambda: aten._unique2(x, True, True, True),
        "aten::unique_consecutive": lambda: aten.unique_consecutive(x, True, True),
    }
    for name, run in cases.items():
        assert size_of(run()) <= output_bytes(name, {"self": x})


@given(rows=sizes, columns=sizes, wide=st.booleans(), tall=st.booleans())
@settings(max_examples=40, deadline=None)
def test_masked_select_broadcasts(rows: int, columns: int, wide: bool, tall: bool) -> None:
    x = torch.ones(rows if tall else 1, columns)
    mask = torch.ones(rows, columns if wide else 1, dtype=torch.bool)
    assert size_of(aten.masked_select(x, mask)) == output_bytes("aten::masked_select", {"self": x, "mask": mask})


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_counts(values: list[int], minlength: int) -> None:
    x = torch.tensor(values, dtype=torch.int64)
    weights = torch.ones(len(values), dtype=torch.float64)
    bound = output_bytes("aten::bincount", {"weights": weights, "self": x, "minlength": minlength})
    assert size_of(aten.bincount(x, weights, minlength)) <= bound
    assert size_of(aten.repeat_interleave.Tensor(x)) == output_bytes("aten::repeat_interleave.Tensor", {"repeats": x})


@given(rows=sizes, columns=sizes, picked=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_masks_as_indices(rows: int, columns: int, picked: int) -> None:
    x = torch.ones(rows, columns)
    mask, row = torch.ones(rows, columns, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    index = torch.zeros(picked, 1, dtype=torch.int64)
    cases: list[list[torch.Tensor | None]] = [[mask], [row], [None, torch.ones(columns, dtype=torch.bool)]]
    if columns:
        cases.append([row, index])
    for indices in cases:
        assert size_of(aten.index(x, indices)) <= output_bytes("aten::index.Tensor", {"self": x, "indices": indices})


@given(m=st.integers(1, 6), n=st.integers(1, 6), k=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_least_squares(m: int, n: int, k: int) -> None:
    a, b = torch.rand(2, m, n), torch.rand(2, m, k)
    solution, residuals, _, _ = aten.linalg_lstsq(a, b)
    assert size_of((solution, residuals)) <= output_bytes("aten::linalg_lstsq", {"self": a, "b": b})


@given(steps=st.integers(1, 6), lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4), as_tensor=st.booleans())
@settings(max_examples=30, deadline=None)
def test_alignments(steps: int, lengths: list[int], as_tensor: bool) -> None:
    probabilities = torch.zeros(steps, len(lengths), 3)
    targets = torch.ones(len(lengths), max(lengths), dtype=torch.int64)
    made = aten._ctc_loss(probabilities, targets, [steps] * len(lengths), lengths)
    given_lengths = torch.tensor(lengths) if as_tensor else lengths
    assert size_of(made) <= output_bytes(
        "aten::_ctc_loss.Tensor", {"log_probs": probabilities, "target_lengths": given_lengths}
    )


def test_a_sum_of_hostile_counts_does_not_wrap_around() -> None:
    """Four times 2**62 is 0 in 64 bits."""
    x = torch.tensor([1 << 62] * 4)
    assert output_bytes("aten::repeat_interleave.Tensor", {"repeats": x}) == 8 << 64
    assert output_bytes("aten::bincount", {"self": x}) > 1 << 62


def test_a_negative_count_is_hostile() -> None:
    with pytest.raises(HostileIndexError):
        output_bytes("aten::repeat_interleave.Tensor", {"repeats": torch.tensor([5, -1])})


def test_nothing_makes_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert output_bytes("aten::repeat_interleave.Tensor", {"repeats": none}) == 0
    assert output_bytes("aten::nonzero", {"self": none}) == 0
