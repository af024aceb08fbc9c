"""What happens to an aggregator, and what it wants done about it. A member goes by its key's fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from cloister.aggregator.bodies import Body
from cloister.wire.fields import Message

# What happens.


@dataclass(frozen=True, slots=True)
class Joined:
    """A member's connection was welcomed. It has none already."""

    member: str


@dataclass(frozen=True, slots=True)
class Left:
    """A member's connection has ended."""

    member: str


@dataclass(frozen=True, slots=True)
class Said:
    """A member's message has arrived, and its body, in what ``AggregatorProtocol.expect`` gave for it."""

    member: str
    message: Any
    """One of ``cloister.wire.rounds``."""
    body: Body | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """The moment that ``AggregatorProtocol.due`` named has come. It does no harm at any other."""


Event: TypeAlias = Joined | Left | Said | Tick

# What it wants done.


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message; ``bodies``, flat views of bytes that nobody changes any more, are its body."""

    member: str
    message: Message
    bodies: tuple[memoryview, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """End a member's connection once it has been told what stands before this, and say why. It has left then."""

    member: str
    why: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line for whoever operates the aggregator. It holds no values."""

    text: str


Effect: TypeAlias = Tell | Drop | Note
