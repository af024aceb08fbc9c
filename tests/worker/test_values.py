"""Tensors as the bytes that travel."""

from __future__ import annotations

import pytest
import torch

from cloister.errors import MessageError
from cloister.tensor.geometry import DTYPES
from cloister.wire.tensors import TensorSpec
from cloister.worker.values import as_bytes, check_received, empty, is_sendable, sendable, spec_of


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", DTYPES)
def test_bytes_out_and_in(name: str, shape: tuple[int, ...]) -> None:
    values = torch.arange(6).reshape(2, 3)[: shape[0] if shape else 1].to(DTYPES[name])
    values = values.reshape(-1)[: max(int(torch.tensor(shape).prod()), 0)].reshape(shape).clone()
    spec = spec_of(values)
    assert spec == TensorSpec(name, shape)
    view = as_bytes(values)
    assert len(view) == spec.nbytes()
    target = empty(spec)
    as_bytes(target)[:] = view
    assert target.dtype is values.dtype
    assert torch.equal(target, values)


def test_the_bytes_are_the_tensors_own_memory() -> None:
    values = torch.zeros(3)
    as_bytes(values)[:4] = b"\0\0\x80\x3f"
    assert values.tolist() == [1.0, 0.0, 0.0]


def test_they_are_little_endian() -> None:
    assert bytes(as_bytes(torch.tensor([258], dtype=torch.int32))) == b"\x02\x01\0\0"


def test_what_can_be_sent_as_it_is_is_not_copied() -> None:
    values = torch.zeros(4, 4)
    assert is_sendable(values)
    assert sendable(values).data_ptr() == values.data_ptr()
    assert sendable(values[1:]).data_ptr() == values[1:].data_ptr()


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(6.0)[::2],
        torch.ones(1).expand(5),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
    ],
    ids=["transposed", "strided", "expanded", "conjugated", "negated"],
)
def test_what_cannot_is_copied_value_by_value(values: torch.Tensor) -> None:
    assert not is_sendable(values)
    sent = sendable(values)
    assert is_sendable(sent)
    assert torch.equal(sent, values)
    target = empty(spec_of(sent))
    as_bytes(target)[:] = as_bytes(sent)
    assert torch.equal(target, values)


def test_a_slice_sends_only_its_own_values() -> None:
    whole = torch.arange(100.0)
    assert len(as_bytes(sendable(whole[10:12]))) == 8
    assert len(as_bytes(sendable(whole[::50]))) == 8


@pytest.mark.parametrize("values", [torch.ones(1, 5)[:, 2], torch.ones(2, 3).T[1:2, 1:], torch.ones(4)[2]], ids=str)
def test_one_element_with_whatever_stride(values: torch.Tensor) -> None:
    assert bytes(as_bytes(sendable(values))) == b"\0\0\x80\x3f"


def test_gradients_are_no_obstacle() -> None:
    assert bytes(as_bytes(sendable(torch.ones(1, requires_grad=True)))) == b"\0\0\x80\x3f"


def test_an_element_type_that_does_not_travel() -> None:
    with pytest.raises(MessageError, match="float8"):
        spec_of(torch.zeros(1).to(torch.float8_e5m2))


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_bool_bytes_are_0_or_1(byte: int) -> None:
    bad = torch.tensor([0, 1, byte], dtype=torch.uint8).view(torch.bool)
    with pytest.raises(MessageError, match="bytes other than 0 and 1"):
        check_received([torch.zeros(1), bad])


def test_everything_else_that_arrives_is_a_value() -> None:
    check_received(
        [torch.tensor([True, False]), torch.zeros(0, dtype=torch.bool), torch.tensor([2, 255]), torch.zeros(())]
    )
