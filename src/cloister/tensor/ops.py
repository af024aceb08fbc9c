"""The operations that may cross: what the table admits, read through PyTorch's own schemas.

A caller encodes an operation's arguments, and a worker decodes them, by the operator's schema, so that both ends
read the same thing and a wrong type is refused before anything runs. Object ids and tensors are the business of the
two ends; the literals (numbers, names of element types, ...) are encoded and decoded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import torch
from torch._ops import OpOverload

from cloister.errors import OpRefusedError
from cloister.tensor import optable
from cloister.tensor.geometry import DTYPE_NAMES, DTYPES
from cloister.tensor.optable import OpRow
from cloister.tensor.schemas import UNDECLARED_VIEWS

MEMORY_FORMATS: Final[dict[str, torch.memory_format]] = {
    "contiguous_format": torch.contiguous_format,
    "preserve_format": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
_MEMORY_FORMAT_NAMES: Final = {value: name for name, value in MEMORY_FORMATS.items()}


class Of(Enum):
    """What an argument is, as far as encoding goes."""

    TENSOR = "Tensor"
    TENSORS = "Tensor[]"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    NUMBER = "number"
    STRING = "str"
    DTYPE = "ScalarType"
    MEMORY_FORMAT = "MemoryFormat"
    LIST = "list"
    GENERATOR = "Generator"
    UNSENT = "unsent"
    UNKNOWN = "unknown"


_ACCEPTS: Final[dict[Of, tuple[type, ...]]] = {
    Of.INT: (int,),
    Of.FLOAT: (float, int),
    Of.BOOL: (bool,),
    Of.NUMBER: (bool, int, float),
    Of.STRING: (str,),
}
_NUMBERS: Final = (Of.INT, Of.FLOAT, Of.BOOL, Of.NUMBER)
LITERALS: Final = frozenset({bool, int, float, str})
_SCALARS: Final = {"int": Of.INT, "float": Of.FLOAT, "bool": Of.BOOL, "number": Of.NUMBER, "str": Of.STRING}
# Where a tensor is and how it got there is the owner's business.
_UNSENT: Final = frozenset({"device", "layout", "pin_memory", "non_blocking"})
# The only operations whose output's shape depends on a floating-point argument.
_SHAPED_BY_FLOATS: Final = frozenset({"aten::arange", "aten::range"})


@dataclass(frozen=True, slots=True)
class Param:
    """One argument of an operation."""

    name: str
    of: Of
    optional: bool
    required: bool
    item: tuple[type, ...]
    numbers: tuple[type, ...]
    """The types that it may be of where it is a single number: ``item`` then, else nothing."""
    written: bool
    value_in_key: bool
    strings: frozenset[str]

    def to_wire(self, value: Any) -> Any:
        """A literal as it travels.

        Raises:
            OpRefusedError: a value that does not travel.
        """
        if value is None or type(value) in LITERALS:
            return value
        if isinstance(value, complex):
            raise OpRefusedError("a complex number does not travel as an argument; send a 0-dim complex tensor instead")
        match self.of:
            case Of.LIST:
                return tuple(value)
            case Of.DTYPE if value in DTYPE_NAMES:
                return DTYPE_NAMES[value]
            case Of.MEMORY_FORMAT:
                return _MEMORY_FORMAT_NAMES[value]
        raise OpRefusedError(f"argument {self.name!r} holds {value!r}, which does not travel")

    def from_wire(self, value: Any) -> Any:
        """A literal as PyTorch takes it; the reverse of ``to_wire``, with every type checked.

        Raises:
            OpRefusedError: a value that the schema does not allow.
        """
        if value is None and self.optional:
            return None
        if self.of is Of.LIST:
            if type(value) in (list, tuple):
                for item in value:
                    if type(item) not in self.item:
                        break
                else:
                    return value
        elif self.item:
            if type(value) in self.item and (self.of is not Of.STRING or value in self.strings):
                return value
        elif self.of is Of.DTYPE:
            if type(value) is str and value in DTYPES:
                return DTYPES[value]
        elif self.of is Of.MEMORY_FORMAT and type(value) is str and value in MEMORY_FORMATS:
            return MEMORY_FORMATS[value]
        raise OpRefusedError(f"argument {self.name!r} does not fit the operation's schema")


class Op:
    """One admitted operation, ready for use at either end. ``kernel`` runs it, as ``overload`` does, a little sooner.

    ``outlines`` caches what ``cloister.tensor.inference`` finds of its outputs. ``returns`` holds, for each return
    of the schema, the position of the argument that is written and handed back, ``TENSOR`` or ``TENSORS``;
    ``views`` is the position of the argument that fresh outputs are views of, or None; ``written`` holds position and
    name of each argument that is written to; ``makes`` says whether any output is fresh.
    """

    __slots__ = (
        "by_name",
        "guard",
        "inplace",
        "kernel",
        "makes",
        "name",
        "outlines",
        "overload",
        "params",
        "random",
        "returns",
        "row",
        "takes_device",
        "takes_generator",
        "views",
        "written",
        "zero_fill",
    )

    def __init__(self, row: OpRow, overload: OpOverload) -> None:
        self.name = row.name
        self.row = row
        self.overload = overload
        self.kernel = overload._op
        schema = overload._schema
        self.params = tuple(_param(row, argument) for argument in schema.arguments)
        self.by_name = {param.name: param for param in self.params}
        self.returns = tuple(_return(schema, value) for value in schema.returns)
        self.inplace = self.returns == (0,)
        self.views = _viewed(schema)
        self.written = tuple((at, param.name) for at, param in enumerate(self.params) if param.written)
        self.makes = Of.TENSOR in self.returns or Of.TENSORS in self.returns
        self.random, self.zero_fill, self.guard = row.random, row.zero_fill, row.guard
        self.takes_generator = "generator" in self.by_name
        self.takes_device = row.factory and "device" in self.by_name
        self.outlines: dict[tuple[object, ...], Any] = {}

    def __repr__(self) -> str:
        return self.name


def _param(row: OpRow, argument: Any) -> Param:
    text = str(argument.real_type)
    optional = text.startswith("Optional[")
    if optional:
        text = text[len("Optional[") : -1]
    item: tuple[type, ...] = ()
    if argument.name in _UNSENT:
        of = Of.UNSENT
    elif text.startswith("List["):
        inner = text[len("List[") : -1]
        if inner in ("Tensor", "Optional[Tensor]"):
            of = Of.TENSORS
        elif inner in ("int", "float", "bool", "number"):
            of, item = Of.LIST, _ACCEPTS[_SCALARS[inner]]
        else:
            of = Of.UNKNOWN
    elif text in _SCALARS:
        of = _SCALARS[text]
        item = _ACCEPTS[of]
    elif text in ("Tensor", "ScalarType", "MemoryFormat", "Generator"):
        of = Of(text)
    else:
        of = Of.UNKNOWN
    alias = argument.alias_info
    by_floats = row.name.split(".")[0] in _SHAPED_BY_FLOATS
    return Param(
        name=argument.name,
        of=of,
        optional=optional,
        required=not argument.has_default_value(),
        item=item,
        numbers=item if of in _NUMBERS else (),
        written=(alias is not None and alias.is_write) or argument.name in row.mutates,
        value_in_key=by_floats or of not in (Of.NUMBER, Of.FLOAT),
        strings=row.strings.get(argument.name, frozenset()),
    )


def _return(schema: Any, value: Any) -> int | Of:
    alias = value.alias_info
    if alias is not None and alias.is_write:
        for position, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.before_set & alias.before_set:
                return position
    text = str(value.type)
    return {"Tensor": Of.TENSOR, "List[Tensor]": Of.TENSORS}.get(text, Of.UNKNOWN)


def _viewed(schema: Any) -> int | None:
    if schema.name in UNDECLARED_VIEWS:
        return 0
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and not argument.alias_info.is_write:
            return position
    return None


def by_name(name: str) -> Op:
    """The operation that a name on the wire stands for, such as ``aten::add.Tensor``.

    Raises:
        OpRefusedError: not in the table.
    """
    return _by_name.get(name) or _read(name)


_by_name: dict[str, Op] = {}


def _read(name: str) -> Op:
    row = optable.load().get(name)
    if row is None:
        raise OpRefusedError(f"no worker runs {name}")
    packet, _, overload = name.removeprefix("aten::").partition(".")
    op = _by_name[name] = Op(row, getattr(getattr(torch.ops.aten, packet), overload or "default"))
    return op


def unseeded(func: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The call of an overload that takes a generator, and is given None, as one of the overload that takes none."""
    if kwargs.get("generator", func) is not None or not func._overloadname.endswith("generator"):
        return func, kwargs
    plain = getattr(func.overloadpacket, func._overloadname.removesuffix("generator").rstrip("_") or "default")
    return plain, {name: value for name, value in kwargs.items() if name != "generator"}


def of_overload(overload: OpOverload) -> Op:
    """The operation that PyTorch dispatched.

    Raises:
        OpRefusedError: not in the table.
    """
    op = _by_overload.get(overload)
    if op is None:
        op = _by_overload[overload] = by_name(overload._schema.name + _suffix(overload))
    return op


_by_overload: dict[OpOverload, Op] = {}


def _suffix(overload: OpOverload) -> str:
    return f".{overload._schema.overload_name}" if overload._schema.overload_name else ""


def arguments_by_name(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional and named arguments in one mapping, by the schema's names."""
    return {param.name: value for param, value in zip(op.params, args, strict=False)} | kwargs
