"""What an operation returns is known before it runs."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cloister.errors import OpRefusedError
from cloister.tensor import inference, ops
from cloister.tensor.geometry import Geometry
from cloister.tensor.inference import Outline, outline_of

aten = torch.ops.aten


def outline(overload: object, *args: object) -> Outline:
    op = ops.of_overload(overload)
    return outline_of(op, (object(),), args, {}, Geometry.of)


def test_shape_strides_and_bytes() -> None:
    found = outline(aten.add.Tensor, torch.zeros(3, 1), torch.zeros(2))
    assert found.geometries == (Geometry.contiguous(torch.float32, (3, 2)),)
    assert found.nbytes == 24
    assert found.single is found.geometries[0]


def test_views_take_no_memory() -> None:
    found = outline(aten.t.default, torch.zeros(3, 2))
    assert found.nbytes == 0
    assert found.geometries[0].strides == (1, 2)


def test_lists_keep_their_length() -> None:
    found = outline(aten.split.Tensor, torch.zeros(5, 2), 2)
    assert found.lists == (3,)
    assert [g.shape for g in found.geometries] == [(2, 2), (2, 2), (1, 2)]


def test_shapes_that_depend_on_values_are_unknown() -> None:
    assert outline(aten.nonzero.default, torch.zeros(3)).data_dependent
    assert not outline(aten.add.Tensor, torch.zeros(3), torch.zeros(3)).data_dependent


@pytest.mark.parametrize(
    ("overload", "args", "error"),
    [
        (aten.add.Tensor, (torch.zeros(2), torch.zeros(3)), RuntimeError),
        (aten.mm.default, (torch.zeros(2, 3), torch.zeros(2, 3)), RuntimeError),
        (aten.select.int, (torch.zeros(2), 0, 5), IndexError),
        (aten.sum.dim_IntList, (torch.zeros(2), [3]), IndexError),
    ],
)
def test_errors_are_pytorchs_and_quiet(
    overload: object, args: tuple[object, ...], error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(error):
        outline(overload, *args)
    assert not caplog.records


def test_never_a_type_error() -> None:
    # Python would swallow one under a binary operator.
    with pytest.raises(RuntimeError):
        outline(aten.mm.default, torch.zeros(2, 2), None)


def test_what_is_found_is_remembered_by_key() -> None:
    op = ops.of_overload(aten.neg.default)
    x = torch.zeros(11, 3)
    key = (Geometry.of(x),)
    assert outline_of(op, key, (x,), {}, Geometry.of) is outline_of(op, key, (x,), {}, Geometry.of)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_types_that_do_not_live_at_workers() -> None:
    with pytest.raises(OpRefusedError):
        outline(aten.complex.default, torch.zeros(2, dtype=torch.float16), torch.zeros(2, dtype=torch.float16))


@pytest.mark.slow
def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller can name ever other arguments, as many as a message holds, and refused calls are found out too."""
    monkeypatch.setattr(inference, "_CACHED", 100)
    inference._cache.clear()
    op, before = ops.of_overload(aten.cat.default), len(FakeTensorMode.cache)
    for size in range(1, 25):
        tensors = [torch.zeros(size)] * 10
        key = (tuple(map(Geometry.of, tensors)),)
        outline_of(op, key, [tensors], {}, Geometry.of)
        assert sum(len(lists) for each in op.outlines for lists in each) <= 100  # type: ignore[arg-type, misc]
    assert op.outlines
    assert len(FakeTensorMode.cache) == before
    inference._cache.clear()
    assert not op.outlines
