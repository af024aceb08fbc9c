"""One line of a plan as a rule reads it: arguments by name, each of the type that the rule asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cloister.errors import PlanError
from cloister.plans.concerns import Concern
from cloister.plans.facts import KINDS, NONE, Facts, Kind, Value, kind_of
from cloister.plans.layout import Dims, Extent, UnclearError, broadcast, follows_batch, has_rows
from cloister.tensor.plan.program import Affine, Line
from cloister.tensor.schemas import Schema

LARGE: Final = 1e3
"""From here on a factor is told: it makes a step of a slope. Honest plans scale by less, or scale what is summed."""


Bound: TypeAlias = tuple[Any, bool, float]
"""The number of a value that was bounded, whether from below, and by what."""


@dataclass(frozen=True, slots=True)
class Made:
    """A result: its dimensions (None: not known, though a concern was told), and what is special about it."""

    dims: Dims | None
    kind: Kind | None = None
    counts: bool = False


class Call:
    """A line with its arguments, and what its rule found out beside the results."""

    def __init__(self, line: Line, schema: Schema, values: Sequence[Value], bounds: set[Bound]) -> None:
        self.line = line
        self.schema = schema
        self.name = schema.name.removeprefix("aten::")
        packet = self.name.partition(".")[0]
        self.inplace = packet.endswith("_")
        self.base = packet.removesuffix("_") if self.inplace else packet
        self.bounds = bounds
        """The bounds that lines up to here have put on values."""
        self._values = values
        self._given = _bound(line, schema)
        self._places = {argument.name for argument in schema.arguments if argument.of == "tensor"}
        self._tensors = self._named()
        self.concerns: list[tuple[Concern, str, int]] = []
        self.place = False
        self.asks: bool | None = None
        """Whether results are answers to a question about rows; None: if an argument is."""
        self.lenient = False
        """A condition among the arguments says what a row is, and not whether it counts."""
        self.ignored: set[int] = set()
        """Arguments, by the ids of their values, of which nothing but shapes enters."""
        self.changes: Facts = NONE
        """What is true of the results beside what the arguments say."""
        self.width: tuple[int, int] | None = None
        """The parameter that it multiplies rows by, and the number of units that this makes."""
        self.remarks: set[str] = set()
        """What an owner should know of it though it is usual."""

    def tensors(self) -> list[Value]:
        """All tensors among the arguments, each once."""
        return self._tensors

    def _named(self) -> list[Value]:
        numbers: dict[int, None] = {}
        for argument in self.schema.arguments:
            given = self._given.get(argument.name)
            if argument.of == "tensor" and type(given) is int:
                numbers[given] = None
            elif argument.of == "tensors" and type(given) is tuple:
                numbers.update(dict.fromkeys(item for item in given if type(item) is int))
        return [self._values[number] for number in numbers]

    def written(self) -> list[Value]:
        """The tensors that it writes to."""
        named = [argument.name for argument in self.schema.arguments if argument.written]
        return [value for value in map(self.maybe, named) if value is not None]

    def viewed(self) -> Value | None:
        """The tensor whose memory its results share; None if they are new."""
        at = self.schema.views
        if at is None or not at < len(self.schema.arguments):
            return None
        return self.maybe(self.schema.arguments[at].name)

    def value(self, name: str) -> Value:
        """A tensor.

        Raises:
            UnclearError: it is missing, or a number stands for it.
        """
        found = self.maybe(name)
        if found is None:
            raise UnclearError(f"its argument {name} is missing")
        return found

    def maybe(self, name: str) -> Value | None:
        """A tensor; None if it is left out or a number stands for it."""
        given = self._given.get(name)
        return self._values[given] if type(given) is int and name in self._places else None

    def maybe_values(self, name: str) -> list[Value | None]:
        """A list of tensors, some of which may be left out."""
        given = self._given.get(name)
        items = given if type(given) is tuple else ()
        return [self._values[item] if type(item) is int else None for item in items]

    def values(self, name: str) -> list[Value]:
        """A list of tensors."""
        found = self.maybe_values(name)
        if not found or None in found:
            raise UnclearError(f"its argument {name} is no list of tensors")
        return [value for value in found if value is not None]

    def dims(self, name: str) -> Dims:
        """The dimensions of a tensor."""
        return dims_of(self.value(name))

    def extent(self, name: str, default: int | None = None) -> Extent:
        """A whole number, fixed or following the batch."""
        given = self._given.get(name)
        if given is None and default is not None:
            return default
        if type(given) is int or type(given) is Affine:
            return given
        raise UnclearError(f"its argument {name} is no whole number")

    def whole(self, name: str, default: int | None = None) -> int:
        """A fixed whole number."""
        found = self.extent(name, default)
        if type(found) is not int:
            raise UnclearError(f"its argument {name} follows the batch")
        return found

    def extents(self, name: str) -> tuple[Extent, ...] | None:
        """Several whole numbers; one alone stands for a list of one; None if left out."""
        given = self._given.get(name)
        if given is None:
            return None
        items = given if type(given) is tuple else (given,)
        found = [item for item in items if type(item) is int or type(item) is Affine]
        if len(found) != len(items):
            raise UnclearError(f"its argument {name} holds other than whole numbers")
        return tuple(found)

    def wholes(self, name: str, count: int, default: int = 0) -> tuple[int, ...]:
        """``count`` fixed whole numbers; one alone stands for all, none for the default."""
        given = self.extents(name) or (default,)
        found = [item for item in given if type(item) is int]
        if len(found) != len(given) or len(found) not in (1, count):
            raise UnclearError(f"its argument {name} does not hold {count} numbers")
        return tuple(found * count if len(found) == 1 else found)

    def at(self, name: str, rank: int, default: int | None = None) -> int:
        """A dimension's position."""
        return position(self.whole(name, default), rank)

    def positions(self, name: str, rank: int) -> list[int]:
        """Several dimensions' positions; all, where none is given."""
        given = self.extents(name)
        return [position(each, rank) for each in given] if given else list(range(rank))

    def flag(self, name: str) -> bool:
        """A yes or no; no, where it is left out."""
        return self._given.get(name) is True

    def given(self, name: str) -> Any:
        """An argument as it stands in the line."""
        return self._given.get(name)

    def number(self, name: str) -> float | None:
        """A number, also one that stands for a tensor; None if it is none, or follows the batch."""
        given = self._given.get(name)
        if type(given) is tuple and len(given) == 1:
            given = given[0]
        elif type(given) is int and name in self._places:
            return None  # a value's number
        return float(given) if isinstance(given, (int, float)) and type(given) is not bool else None

    def dtype(self) -> Kind | None:
        """The kind of number that the argument ``dtype`` asks for."""
        given = self._given.get("dtype")
        return kind_of(given) if isinstance(given, str) else None

    def together(self, *names: str) -> Dims:
        """The dimensions of tensors that are taken entry by entry; all tensors, where none is named."""
        chosen = [value for value in map(self.maybe, names) if value is not None] if names else self.tensors()
        return broadcast([dims_of(value) for value in chosen])

    def kind(self) -> Kind | None:
        """The kind of number that comes of its tensors together."""
        kinds = [value.kind for value in self.tensors()]
        if None in kinds or not kinds:
            return None
        return max((kind for kind in kinds if kind is not None), key=KINDS.index)

    def tell(self, concern: Concern, detail: str = "", columns: int = 0) -> None:
        """Tells a concern about the results."""
        self.concerns.append((concern, detail, columns))

    def uneven(self, concern: Concern, *values: Value, detail: str = "") -> None:
        """Rows are not treated alike: a concern where they are rows of the batch, else a value that has them differ."""
        columns = _joined(value.facts.columns for value in values if value.by_row)
        if columns:
            self.tell(concern, detail, columns)
        else:
            self.place = True

    def ignore(self, value: Value) -> None:
        """Nothing but the shape of a value enters."""
        self.ignored.add(id(value))


Rule = Callable[[Call], Sequence[Made]]


def dims_of(value: Value) -> Dims:
    """The dimensions of a value.

    Raises:
        UnclearError: they are not known.
    """
    if value.dims is None:
        raise UnclearError("the layout of what it takes is not known")
    return value.dims


def position(given: Extent, rank: int) -> int:
    """A dimension's position, counted from the front."""
    if type(given) is not int or not -max(rank, 1) <= given < max(rank, 1):
        raise UnclearError("it names a dimension that is not there")
    return given % max(rank, 1)


def across_rows(value: Value, at: int) -> bool:
    """Whether a dimension of a value goes across rows."""
    dims = dims_of(value)
    return at < len(dims) and follows_batch(dims[at])


def private(value: Value) -> bool:
    """Whether it has entries for rows of the batch, which depend on them."""
    return bool(value.facts.columns) and value.by_row


def known(dims: Dims | None) -> bool:
    """Whether dimensions are known and none follows the batch."""
    return dims is not None and not has_rows(dims)


def _joined(bits: Any) -> int:
    found = 0
    for each in bits:
        found |= each
    return found


def _bound(line: Line, schema: Schema) -> dict[str, Any]:
    """The arguments by name.

    Raises:
        PlanError: more than there are, or one that has no place or two.
    """
    places = [argument.name for argument in schema.arguments if not argument.by_name_only]
    if len(line.args) > len(places):
        raise PlanError(f"{schema.name} takes {len(places)} arguments, not {len(line.args)}")
    bound = dict(zip(places, line.args, strict=False))
    known_names = {argument.name for argument in schema.arguments}
    for name, value in line.named.items():
        if name not in known_names or name in bound:
            raise PlanError(f"{schema.name} has no argument {name!r}, or has it twice")
        bound[name] = value
    return bound


def references(line: Line, schema: Schema) -> list[int]:
    """The values that a line names."""
    bound = _bound(line, schema)
    found: list[int] = []
    for argument in schema.arguments:
        value = bound.get(argument.name)
        if argument.of == "tensor" and type(value) is int:
            found.append(value)
        elif argument.of == "tensors" and type(value) is tuple:
            found += [item for item in value if type(item) is int]
    return found
