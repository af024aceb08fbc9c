"""Errors from a worker that are also errors of PyTorch's own, from which ``errors.py``, which knows no PyTorch, cannot
derive."""

from __future__ import annotations

from typing import Any, Final

import torch

from cloister.errors import RemoteRuntimeError

LinAlgError: Final[Any] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


class RemoteLinAlgError(RemoteRuntimeError, LinAlgError):  # type: ignore[misc]
    """The operation raised ``torch.linalg.LinAlgError`` at the worker: a matrix that is singular, for instance."""

    code = "op.linalg"
