"""The operations' schemas, read from the table's text: which arguments are tensors, what is written, what is viewed.

``cloister.tensor.ops`` has the same and more from PyTorch itself. This reader imports no torch, so that a plan can be
read where none is installed; a test holds the two against each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from cloister.tensor import optable
from cloister.tensor.optable import OpRow

Of = Literal["tensor", "tensors", "other"]

UNDECLARED_VIEWS: Final = frozenset({"aten::_unsafe_view", "aten::unsafe_split", "aten::unsafe_split_with_sizes"})
"""They hand out their first argument's memory, and their schemas do not say so."""

_ARGUMENT: Final = re.compile(
    r"(?P<type>[A-Za-z]+)(?P<alias>\([^)]*\))?(?P<rest>[\[\]?0-9]*) (?P<name>\w+)(?:=(?P<default>.*))?"
)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: whether it is a tensor, a list of tensors or something else, and whether it is written to."""

    name: str
    of: Of
    written: bool
    aliased: bool
    by_name_only: bool


@dataclass(frozen=True, slots=True)
class Schema:
    """One operation's arguments; ``views`` is the position of the argument that its results are views of, or None;
    ``makes`` says of each new result whether it is a tensor or a list of them."""

    name: str
    arguments: tuple[Argument, ...]
    views: int | None
    makes: tuple[Of, ...]


def find(name: str) -> Schema | None:
    """The schema of an operation such as ``aten::add.Tensor``; None for one that is not in the table."""
    row = optable.load().get(name)
    return None if row is None else _read(row)  # so that nobody fills the cache with names of their own


@cache
def _read(row: OpRow) -> Schema:
    name = row.name
    taken, _, returned = row.schema.partition("(")[2].rpartition(") -> ")
    arguments = _arguments(taken, row.mutates)
    read_only = [at for at, argument in enumerate(arguments) if argument.aliased and not argument.written]
    views = 0 if name.partition(".")[0] in UNDECLARED_VIEWS else read_only[0] if read_only else None
    return Schema(name, arguments, views, _makes(returned))


def _arguments(text: str, mutated: tuple[str, ...]) -> tuple[Argument, ...]:
    found = []
    by_name = False
    for part in _split(text):
        if part == "*":
            by_name = True
            continue
        match = _ARGUMENT.fullmatch(part)
        if match is None:
            raise ValueError(f"the table of operations has an argument that cannot be read: {part}")
        alias, rest = match["alias"] or "", match["rest"]
        of: Of = "other" if match["type"] != "Tensor" else "tensors" if "[" in rest else "tensor"
        written = "!" in alias or match["name"] in mutated
        found.append(Argument(match["name"], of, written, bool(alias), by_name))
    return tuple(found)


def _makes(text: str) -> tuple[Of, ...]:
    parts = _split(text[1:-1]) if text.startswith("(") else [text]
    new = [part for part in parts if part.startswith("Tensor") and "!" not in part]
    return tuple("tensors" if "[]" in part else "tensor" for part in new)


def _split(text: str) -> list[str]:
    """The parts between commas, where no bracket and no quotation mark is open."""
    parts, depth, quoted, begun = [], 0, False, 0
    for at, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif not quoted:
            depth += (char in "([") - (char in ")]")
            if char == "," and not depth:
                parts.append(text[begun:at].strip())
                begun = at + 1
    return [part for part in (*parts, text[begun:].strip()) if part]
