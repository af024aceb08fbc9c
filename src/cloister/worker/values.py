"""Tensors as the bytes that travel, straight from and into their own memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cloister.errors import MessageError
from cloister.tensor.geometry import DTYPE_NAMES, DTYPES
from cloister.wire.tensors import TensorSpec


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """What is said of a tensor before its bytes.

    Raises:
        MessageError: an element type that does not travel.
    """
    if tensor.dtype not in DTYPE_NAMES:
        raise MessageError(f"a tensor of {tensor.dtype} does not travel")
    return TensorSpec(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))


def is_sendable(tensor: torch.Tensor) -> bool:
    """Whether the tensor's memory can be sent as it is."""
    return tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def sendable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its memory can be sent as it is, else a copy that can: on the CPU, row-major, not lazy."""
    return tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a ``sendable`` tensor, writable, without a copy. Valid while the tensor lives."""
    if tensor.numel() == 0:
        return memoryview(bytearray())
    # A dimension of one element may have any stride, and view() would mind it.
    row = tensor.detach().as_strided((tensor.numel(),), (1,))
    return memoryview(row.view(torch.uint8).numpy().data)


def empty(spec: TensorSpec) -> torch.Tensor:
    """A CPU tensor for values that are about to arrive; its memory is unwritten until then."""
    return torch.empty(spec.shape, dtype=DTYPES[spec.dtype])


def check_received(tensors: Sequence[torch.Tensor]) -> None:
    """Refuses bytes that are no values of their element type.

    Raises:
        MessageError: a bool that is neither 0 nor 1, which PyTorch leaves undefined.
    """
    for tensor in tensors:
        if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise MessageError("a bool tensor holds bytes other than 0 and 1")
