"""Constants: tensors as a plan holds them."""

from __future__ import annotations

import math

import torch

from cloister.errors import CloisterError, PlanError
from cloister.tensor.geometry import DTYPE_NAMES, DTYPES
from cloister.tensor.plan.program import Constant
from cloister.wire.tensors import TensorSpec


def constant(tensor: torch.Tensor) -> Constant:
    """The values of a tensor.

    Raises:
        PlanError: an element type that plans do not hold.
    """
    if tensor.dtype not in DTYPE_NAMES:
        raise PlanError(f"a constant of {tensor.dtype} does not fit into a plan")
    plain = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
    data = bytes(plain.reshape(-1).view(torch.uint8).numpy()) if plain.numel() else b""
    return Constant(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), data)


def tensor(constant: Constant) -> torch.Tensor:
    """The tensor of a constant.

    Raises:
        PlanError: bytes that are no values of its type and shape.
    """
    try:
        nbytes = TensorSpec(constant.dtype, constant.shape).nbytes()
    except CloisterError as fault:
        raise PlanError(str(fault)) from None
    if nbytes != len(constant.data):
        raise PlanError(f"a constant of {nbytes} bytes comes with {len(constant.data)}")
    if constant.dtype == "bool" and any(byte > 1 for byte in constant.data):
        raise PlanError("a bool constant holds bytes other than 0 and 1")
    if math.prod(constant.shape) == 0:
        return torch.empty(constant.shape, dtype=DTYPES[constant.dtype])
    return torch.frombuffer(bytearray(constant.data), dtype=DTYPES[constant.dtype]).reshape(constant.shape)
