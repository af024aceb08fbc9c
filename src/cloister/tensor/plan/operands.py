"""What the arguments of a line mean, by the operation's schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cloister.errors import OpRefusedError, PlanError
from cloister.tensor import ops
from cloister.tensor.ops import Of, Op, Param
from cloister.tensor.plan.batch import at
from cloister.tensor.plan.program import Line


def named_operands(op: Op, args: Sequence[Any], named: Mapping[str, Any]) -> Iterator[tuple[Param, Any]]:
    """Every argument of a line with its parameter."""
    yield from zip(op.params, args, strict=False)
    for name, value in named.items():
        yield op.by_name[name], value


def references(op: Op, args: Sequence[Any], named: Mapping[str, Any]) -> Iterator[tuple[Param, int]]:
    """The values that a line names, each with its parameter."""
    for param, value in named_operands(op, args, named):
        if param.of is Of.TENSOR and type(value) is int:
            yield param, value
        elif param.of is Of.TENSORS and value is not None:
            yield from ((param, item) for item in value if type(item) is int)


def operation(line: Line) -> Op:
    """The operation of a line, whose arguments fit its schema as far as their number goes.

    Raises:
        PlanError: not in the table, not for plans, or other arguments than it takes.
    """
    try:
        op = ops.by_name(line.op)
    except OpRefusedError as fault:
        raise PlanError(str(fault)) from None
    if op.row.value:
        raise PlanError(f"{op} reads values, which a plan may not")
    if Of.UNKNOWN in op.returns:
        raise PlanError(f"{op} returns something other than tensors")
    schema = op.overload._schema.arguments
    positional = [argument for argument in schema if not argument.kwarg_only]
    if len(line.args) > len(positional):
        raise PlanError(f"{op} takes {len(positional)} arguments, not {len(line.args)}")
    taken = {argument.name for argument in positional[: len(line.args)]}
    for name in line.named:
        if name not in op.by_name or name in taken:
            raise PlanError(f"{op} has no argument {name!r}, or has it twice")
    given = taken | set(line.named)
    for argument in schema:
        if argument.name not in given and not argument.has_default_value():
            raise PlanError(f"{op} lacks its argument {argument.name!r}")
    return op


def operand(param: Param, value: Any, size: int, tensor: Callable[[int], Any]) -> Any:
    """An argument as PyTorch takes it, for a batch of ``size``; ``tensor`` gives a value by its number.

    Raises:
        PlanError: a value that the schema does not allow.
    """
    of = param.of
    if value is None:
        if not param.optional and of is not Of.UNSENT:
            raise PlanError(f"argument {param.name!r} is missing")
        return None
    if of is Of.TENSOR:
        if type(value) is int:  # never a symbol: which value is meant must not change with the batch
            return tensor(value)
        if type(value) is tuple and len(value) == 1 and type(number := at(value[0], size)) in (bool, int, float):
            return number
        raise PlanError(f"argument {param.name!r} is no tensor")
    if of is Of.TENSORS:
        if type(value) is not tuple or not all(item is None or type(item) is int for item in value):
            raise PlanError(f"argument {param.name!r} is no list of tensors")
        return [None if item is None else tensor(item) for item in value]
    if of is Of.UNSENT or of is Of.GENERATOR or of is Of.UNKNOWN:
        raise PlanError(f"argument {param.name!r} is not a plan's to give")
    try:
        return param.from_wire(at(value, size))
    except OpRefusedError as fault:
        raise PlanError(str(fault)) from None
