"""``torch.compile`` and pointers: what is compiled around them runs as it is, and nothing of this package is traced.

A compiler that traced an operation on its way to a worker would keep ids and queues as constants of a program.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch._C._dynamo import eval_frame

_PACKAGE = __name__.partition(".")[0]


def install() -> None:
    """Has PyTorch's tracer pass by every function of this package that is loaded, with all that it calls."""
    run: Any = eval_frame
    skip = run._FrameExecStrategy(run._FrameAction.SKIP, run._FrameAction.SKIP)
    for function in _functions():
        function._torchdynamo_disable = True  # type: ignore[attr-defined]  # called: not traced along
        for code in _codes(function.__code__):
            run.set_code_exec_strategy(code, skip)  # entered from elsewhere: not traced on its own


def _functions() -> Iterator[FunctionType]:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != _PACKAGE:
            continue
        for value in list(vars(module).values()):
            if getattr(value, "__module__", None) != name:
                continue
            if isinstance(value, FunctionType):
                yield value
            elif isinstance(value, type):
                yield from _methods(value)


def _methods(of: type) -> Iterator[FunctionType]:
    for value in list(vars(of).values()):
        accessors = (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
        yield from (accessor for accessor in accessors if isinstance(accessor, FunctionType))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
