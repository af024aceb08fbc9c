"""What PyTorch says about pointers, in words that mean something: it knows them by their device only, "lazy"."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import torch

_WORDS: Final = (
    (re.compile(r"\bLazy(\w+)Type\b"), r"PointerTensor of \1"),
    (re.compile(r"(?i)(['\"]?)\blazy\b(:\d+)?\1"), "a worker's"),
)


def reworded(fault: Exception) -> Exception:
    """The same error without the device's name, or ``fault`` itself where it does not mention it."""
    text = str(fault)
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    return fault if text == str(fault) else type(fault)(text)


def _rewording(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except RuntimeError as fault:
            worded = reworded(fault)
            if worded is fault:
                raise
            raise worded from None

    return called


def install() -> None:
    """Rewords what a backward pass raises: ``backward`` and ``torch.autograd.grad`` begin it through one function."""
    autograd: Any = torch.autograd
    autograd._engine_run_backward = _rewording(autograd._engine_run_backward)
