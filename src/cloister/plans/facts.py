"""What is known of a value of a plan, for any values of the batch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final, Literal

from cloister.plans.layout import Dims, has_rows

Kind = Literal["bool", "int", "float", "complex"]
KINDS: Final[tuple[Kind, ...]] = ("bool", "int", "float", "complex")


def kind_of(dtype: str) -> Kind:
    """The kind of number that an element type holds."""
    if dtype == "bool":
        return "bool"
    if dtype.startswith("complex"):
        return "complex"
    return "float" if "float" in dtype else "int"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a value depends on and how. Facts of values that meet are joined; none is ever taken back."""

    columns: int = 0
    """The tensors of the batch that it depends on, as bits."""
    state: int = 0
    """The buffers that it depends on, as bits."""
    concerns: int = 0
    """The concerns that came up on the way to it, as bits."""
    model: bool = False
    """It depends on a parameter."""
    random: bool = False
    large: bool = False
    """It holds a number that is very large, and is no row's."""
    place: bool = False
    """Its entries differ along the batch, by their place alone."""
    condition: bool = False
    """Its entries are answers, yes or no, to a question about rows."""

    def __or__(self, other: Facts) -> Facts:
        if other in (NONE, self):
            return self
        return Facts(*(getattr(self, name) | getattr(other, name) for name in _NAMES))


_NAMES: Final = tuple(each.name for each in fields(Facts))
NONE: Final = Facts()


@dataclass(slots=True)
class Memory:
    """What views share: writing to one of them changes what is known of all."""

    facts: Facts
    parameter: int | None = None
    """The parameter whose memory it is."""
    column: int | None = None
    """The tensor of the batch whose memory it is."""
    maker: str = ""
    """The operation that made it."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value. ``dims`` is None where its layout is not known."""

    dims: Dims | None
    kind: Kind | None
    memory: Memory = field(compare=False)
    own: Facts = NONE
    """What is known of this view of the memory alone."""
    counts: bool = False
    """It is 0, 1, 2, ... along the rows."""

    @property
    def facts(self) -> Facts:
        """What is known of it now."""
        return self.own | self.memory.facts

    @property
    def by_row(self) -> bool:
        """Whether it may have an entry for each row."""
        return self.dims is None or has_rows(self.dims)
