"""What a plan learns, read from the beginning and the end of its encoding.

Whoever holds a job against its charter needs no more of a plan: which tensors it trains and writes, and of which kind.
What is between is for those who run it (``cloister.tensor.plan``).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from cloister.errors import CloisterError, JobError
from cloister.wire.layout import is_learned, lay_out
from cloister.wire.limits import INPUTS, LIST_ITEMS
from cloister.wire.tensors import DType, Shape, TensorSpec


class _Held(msgspec.Struct, array_like=True, frozen=True):
    names: Annotated[tuple[str, ...], Meta(min_length=1, max_length=LIST_ITEMS)]
    dtype: DType
    shape: Shape


class _Plan(msgspec.Struct, array_like=True, frozen=True):
    """``cloister.tensor.plan.program.Program``, of which only the model's tensors and what becomes of each is read."""

    format: str
    parameters: Annotated[tuple[_Held, ...], Meta(max_length=INPUTS)]
    buffers: Annotated[tuple[_Held, ...], Meta(max_length=INPUTS)]
    batch: msgspec.Raw
    constants: msgspec.Raw
    lines: msgspec.Raw
    loss: msgspec.Raw
    metrics: msgspec.Raw
    gradients: Annotated[tuple[int | None, ...], Meta(max_length=INPUTS)]
    updates: Annotated[tuple[int | None, ...], Meta(max_length=INPUTS)]


_decoder: Final = msgspec.msgpack.Decoder(_Plan)


def learned(plan: bytes) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """The parameters that an encoded plan trains, and the buffers that it writes, those of floating point: by their
    first names.

    Raises:
        JobError: it is no plan.
    """
    try:
        found = _decoder.decode(plan)
        return _those(found.parameters, found.gradients), _those(found.buffers, found.updates)
    except (msgspec.MsgspecError, RecursionError, ValueError, CloisterError):
        raise JobError("the job is refused: its plan does not tell which tensors of a model it learns") from None


def _those(held: tuple[_Held, ...], after: tuple[int | None, ...]) -> dict[str, TensorSpec]:
    pairs = zip(held, after, strict=True)
    found = {each.names[0]: TensorSpec(each.dtype, each.shape) for each, new in pairs if is_learned(each.dtype, new)}
    lay_out(found)  # bounds them
    return found
