"""Operations on lists of tensors, ``torch._foreach_add_`` and the like: ``foreach=True`` of optimizers and clipping.

They exist to start few kernels on a GPU. No worker runs them: one list could name tensors of several workers, and most
of their schemas return nothing to make pointers of. PyTorch itself has a loop over single tensors for each, and on
pointers that loop is what runs; its operations leave in the same batches as any.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn.utils import clip_grad

from cloister.errors import OpRefusedError
from cloister.tensor.dispatch import OTHERWISE
from cloister.tensor.pointer import DEVICE, PointerTensor

_LOOP: Final = torch._C.DispatchKey.CompositeExplicitAutograd
_FUSED: Final = "no worker runs the step of an optimizer with fused=True: leave fused= out, or write foreach=True"


def _one_by_one(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on each tensor of a list.

    Raises:
        OpRefusedError: numbers for a whole list that lie in one tensor at a worker.
    """
    name = func._schema.name
    if name.startswith("aten::_fused_"):
        raise OpRefusedError(_FUSED)
    if not name.startswith("aten::_foreach_"):
        return NotImplemented
    if func._schema.overload_name == "Tensor" and "scalars" in {argument.name for argument in func._schema.arguments}:
        scalars = kwargs.get("scalars", args[-1])
        if type(scalars) is PointerTensor:
            raise OpRefusedError(f"{name} takes its numbers one for a tensor from a local tensor; get() that one first")
    return func._op_dk(_LOOP, *args, **kwargs)


def refuse_fused(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Has an optimizer's step refused where it is one that no worker runs; PyTorch would only name a device.

    Raises:
        OpRefusedError: ``fused=True``, and parameters at workers.
    """
    for group in optimizer.param_groups:
        if group.get("fused") and any(isinstance(parameter, PointerTensor) for parameter in group["params"]):
            raise OpRefusedError(_FUSED)


def install() -> None:
    """Lets clipping take ``foreach=True`` for pointers: PyTorch asks a list of devices first."""
    clipping: Any = clip_grad
    known = clipping._device_has_foreach_support
    clipping._device_has_foreach_support = lambda device: device == DEVICE or known(device)


OTHERWISE.append(_one_by_one)
