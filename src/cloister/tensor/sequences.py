"""Sequences of different lengths: packed for recurrent layers, and padded for the Transformer."""

from __future__ import annotations

from typing import Any, Final

import torch

from cloister.errors import NotColocatedError
from cloister.tensor import ops
from cloister.tensor.dispatch import SPECIAL, dispatch, issue
from cloister.tensor.geometry import Geometry
from cloister.tensor.pointer import PointerTensor

aten = torch.ops.aten

_SELECT: Final = aten.index_select.default


def _pack(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """``pack_padded_sequence``: PyTorch packs the *numbers* of the rows here, and the worker gathers those rows.

    So lengths are judged by PyTorch, and how many sequences each step has is known here without asking.

    Raises:
        NotColocatedError: lengths at a worker: they decide shapes, and stay here as on CUDA they stay on the CPU.
        RuntimeError: lengths that do not fit.
    """
    padded, lengths, batch_first = args
    if isinstance(lengths, PointerTensor) or type(padded) is not PointerTensor:
        raise NotColocatedError(
            "the lengths of packed sequences are kept here, as they decide shapes: give pack_padded_sequence a local "
            "tensor or a list for lengths, made outside of a sent module's forward, and a pointer for what is packed"
        )
    shape = padded.shape
    steps = shape[1 if batch_first else 0]
    if lengths.numel() and int(lengths.max()) > steps:  # PyTorch does not look, and would read what lies behind
        raise RuntimeError(
            f"the longest of the sequences to pack has {int(lengths.max())} steps, and the tensor {steps}"
        )
    numbers = torch.arange(shape[:2].numel()).view(*shape[:2], 1)
    rows, sizes = torch.ops.aten._pack_padded_sequence(numbers, lengths, batch_first)
    flat = dispatch(aten.reshape.default, (padded, [-1, *shape[2:]]), {})
    obj = padded.location.put(rows.flatten())
    index = PointerTensor.make(obj, Geometry.contiguous(rows.dtype, (len(rows),)))
    return issue(ops.of_overload(_SELECT), (flat, 0, index), {}), sizes


def _never_nested(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a padding mask lets ``nn.TransformerEncoder`` go over to nested tensors: there are none at workers.

    Its layers then skip nothing and mask instead, so that what they make of padding differs and the rest does not.
    """
    return False


SPECIAL[aten._pack_padded_sequence.default] = _pack
SPECIAL[aten._nested_tensor_from_mask_left_aligned.default] = _never_nested
