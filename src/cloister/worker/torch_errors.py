"""PyTorch's exceptions as errors that may travel."""

from __future__ import annotations

from typing import Final

from cloister.errors import (
    MemoryLimitError,
    RemoteIndexError,
    RemoteNotImplementedError,
    RemoteOpError,
    RemoteRuntimeError,
    RemoteValueError,
    WorkerError,
)
from cloister.tensor.faults import LinAlgError, RemoteLinAlgError

_OF_TORCH: Final = {
    IndexError: RemoteIndexError,
    ValueError: RemoteValueError,
    NotImplementedError: RemoteNotImplementedError,
    LinAlgError: RemoteLinAlgError,
    RuntimeError: RemoteRuntimeError,
}


def reported(fault: Exception) -> WorkerError:
    """PyTorch's exception as one that may travel: its type, but not its text, which can hold values."""
    if isinstance(fault, WorkerError):
        return fault
    text = str(fault)
    if isinstance(fault, MemoryError) or "not enough memory" in text or "can't allocate memory" in text:
        return MemoryLimitError("the operation needs more memory for its intermediate results than the session may use")
    for kind, reported in _OF_TORCH.items():
        if isinstance(fault, kind):
            return reported(
                f"PyTorch raised {kind.__name__.lstrip('_')} at the worker; "
                "its text stays there, since it could hold values"
            )
    return RemoteOpError(
        "PyTorch refused the operation at the worker; its text stays there, since it could hold values"
    )
