"""An operation's arguments, from what travels to what PyTorch takes. The caller is treated as hostile."""

from __future__ import annotations

from typing import Any

from cloister.errors import OpRefusedError
from cloister.tensor.inference import add_literal
from cloister.tensor.ops import Of, Op, Param
from cloister.worker.store import Store


def decode_named(op: Op, named: dict[str, Any], store: Store, key: list[object]) -> dict[str, Any]:
    """The named arguments; as ``decode``."""
    kwargs: dict[str, Any] = {}
    for name, value in named.items():
        param = op.by_name.get(name)
        if param is None:
            raise OpRefusedError(f"{op} has no argument of that name")
        key.append(name)
        kwargs[name] = decode(param, value, store, key)
    return kwargs


def decode(param: Param, value: Any, store: Store, key: list[object]) -> Any:
    """One argument; what its operation's outline depends on of it is added to ``key``.

    Raises:
        OpRefusedError: a value that the schema does not allow.
        UnknownObjectError: an id that the session does not hold.
    """
    if type(value) in param.numbers:
        key.append(type(value))
        if param.value_in_key:
            key.append(value)
        return value
    of = param.of
    if value is None:
        if not param.optional and of is not Of.UNSENT:
            raise OpRefusedError(f"argument {param.name!r} is missing")
        key.append(None)
        return None
    if of is Of.TENSOR:
        if type(value) is int:
            entry = store.entry(value)
            key.append(entry.geometry)
            return entry.tensor
        if type(value) in (list, tuple) and len(value) == 1 and type(value[0]) in (bool, int, float):
            key.append(type(value[0]))
            return value[0]
        raise OpRefusedError(f"argument {param.name!r} is no tensor")
    if of is Of.TENSORS:
        if type(value) not in (list, tuple) or not all(item is None or type(item) is int for item in value):
            raise OpRefusedError(f"argument {param.name!r} is no list of tensors")
        entries = [None if item is None else store.entry(item) for item in value]
        key.append(tuple([None if entry is None else entry.geometry for entry in entries]))
        return [None if entry is None else entry.tensor for entry in entries]
    if of is Of.UNSENT or of is Of.GENERATOR or of is Of.UNKNOWN or (type(value) is list and of is not Of.LIST):
        raise OpRefusedError(f"argument {param.name!r} does not travel, or not as a list")
    literal = param.from_wire(value)
    add_literal(key, param, value, literal)
    return literal
