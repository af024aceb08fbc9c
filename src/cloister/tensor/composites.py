"""Operations that PyTorch composes of others, in code that looks at where tensors are or reads their memory.

That code runs above autograd, before anything reaches ``cloister.tensor.dispatch``. For pointers, what stands here runs
in its place: it finds out first what does not belong together, and then has PyTorch compose the operation, or composes
it in a way that reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch.utils._mode_utils import no_dispatch

from cloister.errors import NotColocatedError
from cloister.tensor.dispatch import SPECIAL, require_together
from cloister.tensor.pointer import PointerTensor

aten = torch.ops.aten

_COMPOSE: Final = torch._C.DispatchKey.CompositeImplicitAutograd


def _together(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """PyTorch's own composition, for tensors that are all at one worker."""
    require_together(func, (*args, *kwargs.values()))
    return func._op_dk(_COMPOSE, *args, **kwargs)


def _packed_together(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same for a packed sequence, where the second argument counts the sequences of each step and is here."""
    require_together(func, (args[0], *args[2:]))
    return func._op_dk(_COMPOSE, *args, **kwargs)


def _split(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``tensor_split`` at the places that a tensor names, which decide shapes."""
    if isinstance(args[1], PointerTensor):
        raise NotColocatedError(
            "where tensor_split splits decides shapes, so it is to be a local tensor: get() it first"
        )
    return func._op_dk(_COMPOSE, *args, **kwargs)


def _pad_packed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """``pad_packed_sequence``: PyTorch pads the *numbers* of the rows here, and the worker gathers those rows."""
    data, sizes, batch_first, padding, total = args
    with no_dispatch(), torch.no_grad():
        numbers = torch.arange(len(data), device="cpu").unsqueeze(1)
        rows, lengths = func(numbers, sizes, batch_first, len(data), total)
    row = data.new_full((1, *data.shape[1:]), padding)
    gathered = torch.cat([data, row]).index_select(0, rows.flatten().to(data.device))
    return gathered.view(*rows.shape[:2], *data.shape[1:]), lengths


def _one_hot(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """``one_hot`` by an operation that checks each class itself, where PyTorch's way with subclasses checks none."""
    classes, count = args[0], args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
    if classes.dtype is not torch.int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if count == -1 and not classes.numel():
        raise RuntimeError("Can not infer total number of classes from empty tensor.")
    if count == -1:
        count = int(classes.max()) + 1
    made: torch.Tensor = classes.new_zeros((*classes.shape, count))
    return made.scatter_(-1, classes.unsqueeze(-1), 1)


def _replace(overload: Any, body: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> None:
    def above_autograd(*args: Any, **kwargs: Any) -> Any:
        return body(overload, args, kwargs)

    _ours.impl(overload, above_autograd, "AutogradLazy")
    SPECIAL[overload] = body  # under torch.inference_mode nothing is above autograd


_ours: Final[Any] = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
for _layer in (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu):
    _replace(_layer.input, _together)
    _replace(_layer.data, _packed_together)
for _overload in (
    aten.scaled_dot_product_attention.default,
    aten.inner.default,
    aten.take_along_dim.default,
    aten.linalg_multi_dot.default,
):
    _replace(_overload, _together)
_replace(aten.tensor_split.tensor_indices_or_sections, _split)
_replace(aten._pad_packed_sequence.default, _pad_packed)
_replace(aten.one_hot.default, _one_hot)
